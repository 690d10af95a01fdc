"""Commands that train a study's runs: run, confirm."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from optuna_mde_studies.commands.shared import (
    OutOption,
    SetOption,
    StudyArgument,
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

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def run(study: StudyArgument, out: OutOption = None, set: SetOption = None) -> None:
    """Runs a study to its confirmed mixture; run again, it goes on where it stopped."""
    from optuna_mde_studies.runner import session
    from optuna_mde_studies.terminal import progress

    definition, folder = resolve(study, out, set)
    console = progress.console()
    quiet()
    try:
        with progress.Progress(definition.config.name, console) as display:
            outcome = session.run(definition, folder, display)
            _write_report(outcome, folder, display)
    except KeyboardInterrupt:
        _say_interrupted(folder)
    _print_outcome(console, outcome, definition, folder)
    elsewhere = "" if out is None else f" --out {out}"
    console.print(f"\nreport: {folder.report}\nbrowse: optuna-mde dashboard {study}{elsewhere}")


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
    try:
        with progress.Progress(definition.config.name, console) as display:
            outcome = session.confirm_again(definition, folder, display, seeds)
            _write_report(outcome, folder, display)
    except KeyboardInterrupt:
        _say_interrupted(folder)
    _print_outcome(console, outcome, definition, folder)


def _say_interrupted(folder: StudyFolder) -> NoReturn:
    print(
        f"\nInterrupted. Every finished run is kept in {folder.path}; the same command goes on.",
        file=sys.stderr,
    )
    raise SystemExit(INTERRUPTED)


def _write_report(outcome: Outcome, folder: StudyFolder, display: Progress) -> None:
    from optuna_mde_studies.report import page

    begin = partial(display.stage, "writing the report")
    page.keep_current(outcome.study, folder, outcome.recommendation, begin)


def _print_outcome(
    console: Console, outcome: Outcome, definition: Definition, folder: StudyFolder
) -> None:
    from optuna_mde_studies.terminal import summary

    goals = definition.config.goals
    parts = [*summary.headline(outcome.study, outcome.recommendation, outcome.confirmation)]
    parts += summary.outcome(outcome.recommendation, goals)
    if outcome.confirmation is not None:
        parts += summary.confirmed(outcome.confirmation, goals)
    parts += summary.beside(outcome.study, folder, outcome.recommendation, outcome.confirmation)
    print_parts(console, parts)
