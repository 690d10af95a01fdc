"""The study that a command reads: one begun from a definition, or any in a storage of Optuna's."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from optuna_mde_studies.commands.shared import fail, open_kept, quiet, resolve_existing

if TYPE_CHECKING:
    from collections.abc import Mapping

    import optuna
    from optuna_mde_studies.definition.config import StudyConfig
    from optuna_mde_studies.runner.confirm import Confirmation
    from optuna_mde_studies.runner.folder import StudyFolder

    from optuna_mde.answers.answer import Recommendation

KeptStudyArgument = Annotated[
    str,
    typer.Argument(
        metavar="STUDY",
        help="A definition (YAML file), a shipped one by its name (demo), a study's folder or its "
        "name in runs/; or the URL of a storage of Optuna's (sqlite:///own.db) with a study that "
        "a program of your own has run.",
    ),
]
NameOption = Annotated[
    str | None,
    typer.Option(
        "--study",
        metavar="NAME",
        help="Name of the study in that storage. [default: the only one there is]",
    ),
]

_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""Names that may be one of a folder: a storage is somebody else's, and a name may say `../..`."""


@dataclass(frozen=True)
class Opened:
    """A study, and where what is written about it lies."""

    study: optuna.Study
    storage: optuna.storages.BaseStorage
    folder: StudyFolder
    config: StudyConfig | None = None
    """Of a study that was begun from a definition."""

    @property
    def n_trials(self) -> int | None:
        """Trials that were asked for, where somebody has said so."""
        from optuna_mde_studies.runner.trials import WANTED_ATTR

        if self.config is None:
            return None
        wanted = self.study.user_attrs.get(WANTED_ATTR)  # another machine may have raised it
        return wanted if isinstance(wanted, int) else self.config.search.n_trials

    @property
    def confirmation(self) -> Confirmation | None:
        """What fresh seeds said, where the study's files may be read; nothing is confirmed in a
        study of another program."""
        from optuna_mde_studies.runner.confirm import Confirmation

        if self.config is None:
            files = _named_files(self.study)
            return None if files is None else Confirmation.read(files.confirmation)
        self.folder.bring(self.folder.confirmation)
        return Confirmation.read(self.folder.confirmation)

    def recommend(self, question: Mapping[str, Any]) -> Recommendation:
        """The recommendation; the one that was kept, where a definition's study has a folder.

        Args:
            question: arguments of `optuna_mde.recommend` that differ from the study's own.

        Raises:
            SystemExit: if nothing is known yet, after a sentence.
        """
        from optuna_mde_studies.runner import findings

        import optuna_mde

        try:
            if self.folder.definition.is_file() and not question:
                self.folder.bring(self.folder.recommendation)
                return findings.recommend(self.study, self.folder.recommendation)
            return optuna_mde.recommend(self.study, **question)
        except ValueError as error:  # nothing to learn from yet
            what = self.folder.path if self.config is not None else self.study.study_name
            fail(f"{what}: {error}")


def opened(study: str, name: str | None, out: Path | None) -> Opened:
    """The study that is meant.

    Args:
        study: a definition, a folder, or the URL of a storage.
        name: of the study in that storage.
        out: folder of what is written about the study.

    Raises:
        StudyError: if there is no such study.
    """
    from optuna_mde_studies.runner.folder import StudyError

    if is_storage(study):
        return _stored(study, name, out)
    if name is not None:
        raise StudyError(
            f"--study {name}: this names a study in a storage, and {study} is none; give the "
            "storage's URL (sqlite:///own.db) in its place"
        )
    definition, folder = resolve_existing(study, out)
    return Opened(open_kept(definition, folder), folder.storage(), folder, definition.config)


def is_storage(study: str) -> bool:
    """Whether an argument is the URL of a storage."""
    return "://" in study or study.startswith("journal:")


def _stored(url: str, name: str | None, out: Path | None) -> Opened:
    import optuna
    from optuna_mde_studies.runner.folder import RUNS, StudyError, StudyFolder
    from optuna_mde_studies.wording import shown

    quiet()
    storage = open_storage(url)
    names = [found.study_name for found in storage.get_all_studies()]
    if name is None and len(names) == 1:
        (name,) = names
    if name is None or name not in names:
        known = f"it holds {', '.join(sorted(names))}" if names else "it holds none"
        asked = "say which study with --study NAME" if name is None else f"no study {name!r}"
        raise StudyError(f"{shown(url)}: {asked}; {known}")
    # The sampler is never asked here: what reads needs none.
    study = optuna.load_study(
        study_name=name, storage=storage, sampler=optuna.samplers.RandomSampler()
    )
    if out is None and not _FOLDER.fullmatch(name):
        raise StudyError(f"{name!r} is no name for a folder; say with --out where to write")
    folder = StudyFolder(out or Path(RUNS) / name)
    if folder.definition.exists():
        if (own := _own(folder.path, url, study)) is not None:
            return own
        raise StudyError(
            f"{folder.path}: this folder belongs to a study with a definition; say with --out "
            "where to write about another one"
        )
    return Opened(study, storage, folder)


def _own(path: Path, url: str, study: optuna.Study) -> Opened | None:
    """The study as one of the definition in a folder, where it is that folder's."""
    from optuna_mde_studies.runner.folder import at, stored_config
    from optuna_mde_studies.runner.identity import kept_mark, mark_of

    folder = at(path)
    if not _is_one_storage(folder.storage_url, url) or not mark_of(study):
        return None
    if kept_mark(folder) != mark_of(study):
        return None
    return Opened(study, folder.storage(), folder, stored_config(folder))


def _is_one_storage(one: str, other: str) -> bool:
    """Whether two URLs are of one storage, whoever asks it."""
    from optuna_mde_studies.runner.sharing.storages import file_of
    from sqlalchemy.engine import make_url

    files = [url.startswith(("sqlite:", "journal:")) for url in (one, other)]
    if any(files):
        return all(files) and file_of(one).resolve() == file_of(other).resolve()
    first, second = make_url(one), make_url(other)
    return all(getattr(first, x) == getattr(second, x) for x in ("host", "port", "database"))


def _named_files(study: optuna.Study) -> StudyFolder | None:
    """The folder that a study names for its files, where that may be read."""
    from optuna_mde_studies.runner.agreement import FOLDER_ATTR
    from optuna_mde_studies.runner.folder import StudyFolder

    from optuna_mde.mde.urls import is_local, is_trusted
    from optuna_mde.trials.notes import read_notes

    named = study.user_attrs.get(FOLDER_ATTR)
    if not isinstance(named, str) or not is_local(named):
        return None
    return StudyFolder(Path(named)) if is_trusted(named, read_notes(study).roots) else None


def open_storage(url: str) -> optuna.storages.BaseStorage:
    """A storage that exists; nothing is made in it.

    Raises:
        StudyError: if there is none, or it cannot be read.
    """
    from optuna.exceptions import StorageInternalError
    from optuna_mde_studies.runner.folder import StudyError
    from optuna_mde_studies.runner.sharing.patience import reason
    from optuna_mde_studies.runner.sharing.storages import database, file_of
    from optuna_mde_studies.wording import shown
    from sqlalchemy.exc import SQLAlchemyError

    if url.startswith(("sqlite:", "journal:")) and not file_of(url).is_file():
        raise StudyError(f"{url}: there is no file {str(file_of(url))!r}")
    if url.startswith(("journal:", "grpc:")):
        return new_storage(url)  # which makes nothing that is not there
    try:
        return database(url, is_made=False)
    except (SQLAlchemyError, StorageInternalError, ImportError, RuntimeError, ValueError) as error:
        raise StudyError(f"storage {shown(url)}: {reason(error)}") from error


def new_storage(url: str) -> optuna.storages.BaseStorage:
    """A storage to write into, made if it is not there.

    Raises:
        StudyError: if it cannot be opened.
    """
    from optuna_mde_studies.runner.folder import StudyError
    from optuna_mde_studies.runner.sharing import storages
    from optuna_mde_studies.wording import shown

    try:
        return storages.open_storage(url, Path(tempfile.gettempdir()))
    except storages.StorageError as error:
        raise StudyError(f"storage {shown(url)}: {error}") from error


def holds(url: str, name: str) -> bool:
    """Whether a storage is there and has a study of that name."""
    from optuna_mde_studies.runner.folder import StudyError

    try:
        return name in [study.study_name for study in open_storage(url).get_all_studies()]
    except StudyError:
        return False
