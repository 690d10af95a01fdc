"""Commands that train a study's runs: run, work, confirm."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from optuna_mde_studies.commands.shared import (
    OutOption,
    SetOption,
    StorageOption,
    StudyArgument,
    orderly,
    print_parts,
    quiet,
    resolve,
    resolve_existing,
)

if TYPE_CHECKING:
    from optuna_mde_studies.definition.reading import Definition
    from optuna_mde_studies.runner.folder import StudyFolder
    from optuna_mde_studies.runner.session import Outcome
    from optuna_mde_studies.terminal.progress import Progress
    from rich.console import Console


def run(
    study: StudyArgument,
    out: OutOption = None,
    set: SetOption = None,
    storage: StorageOption = None,
) -> None:
    """Runs a study to its confirmed mixture; run again, it goes on where it stopped."""
    from optuna_mde_studies.runner import session
    from optuna_mde_studies.terminal import progress

    definition, folder = resolve(study, out, set, storage=storage)
    console = progress.console()
    quiet()
    with orderly(folder), progress.Progress(definition.config.name, console) as display:
        outcome = session.run(definition, folder, display)
        _write_report(outcome, folder, display)
    _print_outcome(console, outcome, definition, folder)
    elsewhere = "" if out is None else f" --out {out}"
    console.print(f"\nreport: {folder.report}\nbrowse: optuna-mde dashboard {study}{elsewhere}")


def work(
    study: StudyArgument,
    out: OutOption = None,
    set: SetOption = None,
    storage: StorageOption = None,
) -> None:
    """Performs a study's trials, one at a time, until as many are finished as it asks for.

    One worker: start as many as you have machines or GPUs, and `run` for the confirmation."""
    from optuna_mde_studies.runner import working
    from optuna_mde_studies.terminal import progress

    definition, folder = resolve(study, out, set, storage=storage)
    console = progress.console()
    quiet()
    with orderly(folder), progress.Progress(definition.config.name, console) as display:
        finished = working.work(definition, folder, display)
    console.print(f"{finished} trials are finished, as many as the study asks for.")


def confirm(
    study: StudyArgument,
    seeds: Annotated[
        int | None, typer.Option(min=2, help="Fresh seeds. [default: the definition's]")
    ] = None,
    out: OutOption = None,
) -> None:
    """Trains the recommended mixture and its rivals with fresh seeds, and compares them."""
    from optuna_mde_studies.runner import session
    from optuna_mde_studies.terminal import progress

    definition, folder = resolve_existing(study, out)
    console = progress.console()
    quiet()
    with orderly(folder), progress.Progress(definition.config.name, console) as display:
        outcome = session.confirm_again(definition, folder, display, seeds)
        _write_report(outcome, folder, display)
    _print_outcome(console, outcome, definition, folder)


def _write_report(outcome: Outcome, folder: StudyFolder, display: Progress) -> None:
    from optuna_mde_studies.report import page
    from optuna_mde_studies.runner.remote import bring_shown

    bring_shown(replace(folder, say=display.line))
    begin = partial(display.stage, "writing the report")
    page.keep_current(outcome.study, folder, outcome.recommendation, begin)


def _print_outcome(
    console: Console, outcome: Outcome, definition: Definition, folder: StudyFolder
) -> None:
    from optuna_mde_studies.report import overview
    from optuna_mde_studies.report.judgement import judge
    from optuna_mde_studies.terminal import summary

    found = overview.read(outcome.study)
    goals = found.goals or definition.config.goals  # another machine may have changed it
    judgement = judge(found, outcome.recommendation, outcome.confirmation)
    parts = [*summary.headline(found, outcome.recommendation, outcome.confirmation)]
    parts += summary.outcome(outcome.recommendation, goals, judgement)
    if outcome.confirmation is not None:
        parts += summary.confirmed(outcome.confirmation, goals)
    parts += summary.beside(found, folder, outcome.recommendation, outcome.confirmation)
    print_parts(console, parts)
