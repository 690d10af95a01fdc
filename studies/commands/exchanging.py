"""Commands that take runs from tables and give them as tables: import, export."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from optuna_mde_studies.commands.opened import (
    KeptStudyArgument,
    NameOption,
    holds,
    new_storage,
    opened,
)
from optuna_mde_studies.commands.shared import (
    OutOption,
    quiet,
    resolve,
    resolve_existing,
)

if TYPE_CHECKING:
    import optuna
    from optuna_mde_studies.exchange.recorded import Target
    from optuna_mde_studies.exchange.runs import TableRuns

    from optuna_mde.objective import Objective


def import_(
    ratios: Annotated[
        Path, typer.Argument(metavar="RATIOS", help="Table of rates: a row a run, named `run`.")
    ],
    metrics: Annotated[
        Path, typer.Argument(metavar="METRICS", help="Table of losses of the same runs.")
    ],
    study: Annotated[
        str,
        typer.Option(
            "--study",
            metavar="STUDY",
            help="Where they go: a definition or a study's folder; with --storage, the name of a "
            "study there, made if it is not there.",
        ),
    ],
    storage: Annotated[
        str | None, typer.Option(metavar="URL", help="Storage of Optuna's, sqlite:///own.db.")
    ] = None,
    runs: Annotated[
        Path | None,
        typer.Option(metavar="RUNS", help="Table of what else is known of them (runs.csv)."),
    ] = None,
    logprobs: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of experts' files, named <run>.safetensors or <domain>.safetensors.",
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(help="What they are judged by, as in a definition. [default: the study's]"),
    ] = None,
    out: OutOption = None,
) -> None:
    """Takes runs over from tables, as finished trials that the search learns from."""
    from optuna_mde_studies.exchange.files import Tables, examine, take
    from optuna_mde_studies.wording import count

    source = Tables(ratios, metrics, runs, logprobs)
    found = source.read()
    into = _into_folder if storage is None else _into_storage
    target, begin, kept, where, share = into(study, storage or "", objective, ratios, found, out)
    intake = examine(target, found, source)
    experts = take(begin(), intake, kept)
    share()
    for line in (*found.remarks, *intake.said):
        print(line)
    print(f"{where}: {count(len(intake.new), 'run')} taken over, {experts} with an expert's file")


def export(
    study: KeptStudyArgument,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where ratios.csv, metrics.csv … go.")
    ],
    name: NameOption = None,
    out: OutOption = None,
) -> None:
    """Writes a study's runs as tables that other tools read, and `import` reads back."""
    from optuna_mde_studies.exchange import files

    for line in files.export(opened(study, name, out).study, folder):
        print(line)


Into = tuple["Target", Callable[[], "optuna.Study"], Path | None, str, Callable[[], None]]
"""What is taken into, for checks; what begins the study, if it has not begun; its folder for files
of experts; where it is, for people; and what shows such files to other machines."""


def _into_storage(
    name: str, url: str, objective: str | None, ratios: Path, found: TableRuns, out: Path | None
) -> Into:
    """A study in a storage, made if it is not there."""
    import optuna
    from optuna.study import StudyDirection
    from optuna_mde_studies.exchange.files import written
    from optuna_mde_studies.exchange.recorded import Target, mixture_of
    from optuna_mde_studies.report import overview
    from optuna_mde_studies.wording import shown

    quiet()
    goals = _objective(objective)
    told = goals or _of_run(next((run.objective for run in found.runs if run.objective), None))
    directions = [StudyDirection.MINIMIZE] * len(told.names)

    def begin(storage: optuna.storages.BaseStorage | None = None) -> optuna.Study:
        return optuna.create_study(
            study_name=name,
            storage=storage or new_storage(url),
            directions=directions,
            sampler=optuna.samplers.RandomSampler(),  # never asked
            load_if_exists=True,
        )

    study = begin(None if holds(url, name) else optuna.storages.InMemoryStorage())
    known = overview.read(study)
    minimised = goals or known.goals or told
    group = mixture_of(study, found)
    target = Target(study, group, goals, written(ratios), minimised, tuple(known.sets))
    return target, begin, None, f"{shown(url)}, study {name}", lambda: None


def _into_folder(
    name: str, _: str, objective: str | None, ratios: Path, found: TableRuns, out: Path | None
) -> Into:
    """The study of a definition, which is begun if it has not been."""
    import optuna
    from optuna.study import StudyDirection
    from optuna_mde_studies.exchange.files import written
    from optuna_mde_studies.exchange.recorded import Target, check_names, mixture_of
    from optuna_mde_studies.runner import opening
    from optuna_mde_studies.runner.changes import keep_definition
    from optuna_mde_studies.runner.folder import StudyError, create
    from optuna_mde_studies.runner.remote import check_url

    if objective is not None:
        raise StudyError("--objective: a definition says what its study is judged by; change it")
    definition, folder = resolve(name, out)
    begun = folder.url is not None or folder.database.exists()
    if begun and folder.definition.exists():
        definition, folder = resolve_existing(name, out)
    config = definition.config

    def begin() -> optuna.Study:
        check_url(definition, folder)
        create(folder)
        with folder.owned():
            keep_definition(folder, definition)
            return opening.begin(definition, folder)

    quiet()
    directions = [StudyDirection.MINIMIZE] * len(config.goals.names)
    study = (
        begin() if begun else optuna.create_study(study_name=config.name, directions=directions)
    )
    group = mixture_of(study, found, config.domains, config.search.bounds, config.search.natural)
    sets = config.corpus.set_names
    target = Target(study, group, config.goals, written(ratios), config.goals, sets)
    check_names(target, found)
    share = partial(folder.share, folder.imported)
    return target, begin, folder.imported, str(folder.path), share


def _objective(text: str | None) -> Objective | None:
    import yaml
    from optuna_mde_studies.exchange.tables import ExchangeError

    from optuna_mde.objective import Objective, ObjectiveError

    if text is None:
        return None
    try:
        return Objective.parse(yaml.safe_load(text))
    except (yaml.YAMLError, ObjectiveError) as error:
        raise ExchangeError(f"--objective: {' '.join(str(error).split())}") from None


def _of_run(text: str | None) -> Objective:
    from optuna_mde_studies.exchange.tables import ExchangeError

    from optuna_mde.objective import Objective, ObjectiveError

    try:
        return Objective.from_json(text) if text is not None else Objective()
    except ObjectiveError as error:
        raise ExchangeError(str(error)) from None
