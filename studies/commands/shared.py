"""What the commands on studies share: their arguments, and the study that is meant."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from optuna_mde_studies.wording import shown

if TYPE_CHECKING:
    import optuna
    from optuna_mde_studies.definition.reading import Definition
    from optuna_mde_studies.runner.folder import StudyFolder
    from rich.console import Console, RenderableType

INTERRUPTED = 130  # 128 + SIGINT, as shells have it

VERSIONS = ("optuna", "torch", "botorch", "gpytorch", "lightning", "datasets")
"""Packages that an answer may depend on."""

StudyArgument = Annotated[
    str,
    typer.Argument(
        metavar="STUDY",
        help="A definition (YAML file), a shipped one by its name (demo), a study's folder or its "
        "name in runs/.",
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", help="The study's folder. [default: runs/<name of the study>]"),
]
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        help="Storage that machines share (postgresql+psycopg://…, mysql+pymysql://…, "
        "journal:FILE, grpc://HOST:PORT), as the definition's `storage`. A study that others have "
        "begun in it is joined by its name alone.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Overrides a field of the definition: training.max_steps=200. May be repeated.",
    ),
]


def resolve(
    study: str,
    out: Path | None,
    overrides: list[str] | None = None,
    problems: list[str] | None = None,
    storage: str | None = None,
) -> tuple[Definition, StudyFolder]:
    """The definition that is meant, and its study's folder; what does not agree in it is added to
    `problems`, or raised."""
    from optuna_mde_studies.runner.folder import RUNS, StudyFolder

    if storage is not None:
        overrides = [*(overrides or ()), f"storage={json.dumps(storage)}"]
        if _joins(study):
            kept = StudyFolder(out or Path(RUNS) / study, storage)
            if not kept.definition.is_file():
                return _joined(study, kept, overrides, problems)
            study = str(kept.path)
    definition, folder = _resolve(study, out, overrides, problems)
    definition = _with_kept_storage(definition, folder)
    return definition, folder.placed(definition.config)


def _with_kept_storage(definition: Definition, folder: StudyFolder) -> Definition:
    """A study that was begun with `--storage` goes on there without it."""
    from optuna_mde_studies.runner.folder import StudyError, stored_config

    config = definition.config
    if config.storage is not None or not folder.definition.is_file():
        return definition
    with suppress(StudyError):  # whoever needs the kept definition says what is wrong with it
        kept = stored_config(folder)
        places = {"storage": kept.storage, "runs": config.runs or kept.runs}
        return replace(definition, config=config.model_copy(update=places))
    return definition


def _joins(study: str) -> bool:
    """Whether an argument may be the name of a study that others have begun."""
    from optuna_mde_studies.definition.config import STUDY_NAME
    from optuna_mde_studies.definition.reading import SUFFIXES, shipped

    if Path(study).exists() or study in shipped() or Path(study).suffix in SUFFIXES:
        return False
    return re.fullmatch(STUDY_NAME, study) is not None


def _joined(
    study: str, folder: StudyFolder, overrides: list[str], problems: list[str] | None
) -> tuple[Definition, StudyFolder]:
    """A study by the definition in its storage; its folder is made once it is agreed on."""
    from optuna_mde_studies.definition.reading import examine_fields
    from optuna_mde_studies.runner.agreement import join

    quiet()
    data = join(folder, study).model_dump(mode="json")
    definition, found = examine_fields(data, {}, shown(folder.url or ""), overrides)
    _say_problems(found, problems)
    definition = replace(definition, is_file=False)
    return definition, folder.placed(definition.config)


def _say_problems(found: list[str], problems: list[str] | None) -> None:
    from optuna_mde_studies.definition.reading import DefinitionError

    if found and problems is None:
        raise DefinitionError("\n".join(found))
    (problems if problems is not None else []).extend(found)


def _resolve(
    study: str,
    out: Path | None,
    overrides: list[str] | None,
    problems: list[str] | None,
) -> tuple[Definition, StudyFolder]:
    from optuna_mde_studies.commands.naming import check_name
    from optuna_mde_studies.definition.reading import DefinitionError, examine, shipped
    from optuna_mde_studies.runner.folder import RUNS, StudyFolder

    if "://" in study:
        raise DefinitionError(
            f"{shown(study)}: this command trains by a definition, and a study in a storage has "
            "the program that began it; report, status, recommend, dashboard and export read one"
        )
    folder = StudyFolder(Path(study))
    if not folder.path.exists() and study not in shipped():
        folder = StudyFolder(Path(RUNS) / study)

    def read(name: str) -> Definition:
        definition, found = examine(name, overrides or ())
        _say_problems(found, problems)
        return definition

    if not folder.path.is_dir():
        check_name(study)
        definition = read(study)
        return definition, StudyFolder(out or Path(RUNS) / definition.config.name)
    if not folder.definition.is_file():
        raise DefinitionError(
            f"{study}: this folder holds no study (no {folder.definition.name}); "
            "name a study's folder or a definition"
        )
    if out is not None and out.resolve() != folder.path.resolve():
        raise DefinitionError(
            f"--out {out}: {study} is a study's folder already; name its definition instead"
        )
    return read(str(folder.definition)), folder


def resolve_folder(study: str, out: Path | None) -> StudyFolder:
    """The study's folder, whether or not what lies in it can be read."""
    from optuna_mde_studies.runner.folder import RUNS, at

    for path in (Path(study), Path(RUNS) / study):
        folder = at(path)
        if folder.definition.exists() or folder.database.exists():
            return folder
    return resolve(study, out)[1]


def resolve_existing(study: str, out: Path | None) -> tuple[Definition, StudyFolder]:
    """A study that has been started, with the definition that it was started with."""
    from optuna_mde_studies.definition.reading import read
    from optuna_mde_studies.runner.folder import StudyError
    from optuna_mde_studies.runner.precedence import now_of, passed_over

    definition, folder = resolve(study, out)
    if folder.url is not None and not folder.definition.is_file():
        return _begun_elsewhere(study, definition, folder), folder
    begun = folder.database if folder.url is None else folder.definition
    if not begun.is_file():
        raise StudyError(
            f"{folder.path}: there is no study yet; start it with `optuna-mde run {study}`"
        )
    kept = read(str(folder.definition))
    if folder.url is not None:  # other machines may have changed what counts
        quiet()
        kept = replace(kept, config=now_of(folder, kept.config))
    if line := passed_over(folder, definition, kept.config):
        print(line, file=sys.stderr)
    return kept, folder


def _begun_elsewhere(study: str, definition: Definition, folder: StudyFolder) -> Definition:
    """Of a study that has no folder here, in the storage that its definition names."""
    from optuna_mde_studies.runner.agreement import join
    from optuna_mde_studies.runner.folder import StudyError
    from optuna_mde_studies.runner.sharing.storages import is_there

    quiet()
    config = definition.config
    if not is_there(folder.storage_url):
        raise StudyError(
            f"{shown(folder.storage_url)}: there is no study {config.name!r} yet; start it with "
            f"`optuna-mde run {study}`"
        )
    begun = join(folder, config.name)
    here = {name: getattr(config, name) for name in ("runs", "launch", "warm_start")}
    return replace(definition, config=begun.model_copy(update=here))


def open_kept(definition: Definition, folder: StudyFolder) -> optuna.Study:
    from optuna_mde_studies.runner.identity import open_existing
    from optuna_mde_studies.runner.opening import open_study

    quiet()
    if not folder.definition.is_file():
        return open_existing(folder, definition.config.name)
    return open_study(folder, definition.config)


@contextmanager
def orderly(folder: StudyFolder) -> Iterator[None]:
    """Ends what is told to end with a sentence, and with the exit code that shells have for it."""
    from optuna_mde_studies.runner.signals import TERMINATED, end_orderly

    end_orderly()
    place = folder.remote or folder.files
    kept = f"Every finished run is kept in {place}; the same command goes on."
    try:
        yield
    except KeyboardInterrupt:
        code = INTERRUPTED
    except SystemExit as error:
        # Lightning has ended a run of this process: with no code on SIGTERM, with 1 on Ctrl-C.
        ends = {None: TERMINATED, 0: TERMINATED, 1: INTERRUPTED, TERMINATED: TERMINATED}
        if error.code not in ends:
            raise
        code = ends[error.code]
    else:
        return
    if code == INTERRUPTED:
        print(f"\nInterrupted. {kept}", file=sys.stderr)
    else:
        print(f"Stopped by SIGTERM; trials at work are handed back. {kept}", file=sys.stderr)
    raise SystemExit(code)


def print_parts(console: Console, parts: Iterable[RenderableType]) -> None:
    for part in parts:
        console.print()
        console.print(part)


def quiet() -> None:
    """Keeps Optuna's own lines out of ours."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)


def say_version(asked: bool) -> None:
    """What to state in a question or a bug report."""
    from importlib.metadata import PackageNotFoundError, version

    if not asked:
        return
    beside = [f"Python {sys.version.split()[0]}"]
    for name in VERSIONS:
        with suppress(PackageNotFoundError):
            beside.append(f"{name} {version(name)}")
    print(f"optuna-mde {version('optuna-mde')} ({', '.join(beside)})")
    raise typer.Exit


def fail(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    raise SystemExit(2)
