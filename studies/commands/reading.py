"""Commands that read a study: report, recommend, status, dashboard."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from optuna_mde_studies.commands.shared import (
    OutOption,
    StudyArgument,
    fail,
    open_kept,
    print_parts,
    resolve_existing,
)


class Format(StrEnum):
    """How a recommendation is printed."""

    text = "text"
    yaml = "yaml"
    json = "json"


def dashboard(
    study: StudyArgument,
    out: OutOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8080,
) -> None:
    """Opens Optuna Dashboard on a study, with this package's figures among its graphs."""
    from optuna_mde_studies.report import dashboard as server
    from optuna_mde_studies.runner.confirm import Confirmation

    definition, folder = resolve_existing(study, out)
    confirmation = Confirmation.read(folder.confirmation)
    server.publish(open_kept(definition, folder), confirmation=confirmation)
    server.serve(folder.storage_url, host, port)


def report(study: StudyArgument, out: OutOption = None) -> None:
    """Writes the HTML report again, of a running study too."""
    from optuna_mde_studies.report import page
    from optuna_mde_studies.runner.confirm import Confirmation

    definition, folder = resolve_existing(study, out)
    confirmation = Confirmation.read(folder.confirmation)
    print(page.write(open_kept(definition, folder), folder.path, confirmation=confirmation))


def recommend(
    study: StudyArgument,
    out: OutOption = None,
    format: Annotated[
        Format, typer.Option(help="text: tables; yaml, json: the rates, for a training config.")
    ] = Format.text,
) -> None:
    """Prints the best mixture by what is known now."""
    from optuna_mde_studies.runner import findings
    from optuna_mde_studies.runner.confirm import Confirmation
    from optuna_mde_studies.terminal import progress, summary

    definition, folder = resolve_existing(study, out)
    opened = open_kept(definition, folder)
    try:
        recommendation = findings.recommend(opened, folder.recommendation)
    except ValueError as error:  # nothing to learn from yet
        fail(f"{folder.path}: {error}")
    if format is Format.text:
        confirmation = Confirmation.read(folder.confirmation)
        parts = [*summary.outcome(recommendation, definition.config.goals)]
        parts += summary.beside(opened, folder, recommendation, confirmation)
        print_parts(progress.console(), parts)
    else:
        print(summary.rates_as(format.value, recommendation.mixture), end="")


def status(study: StudyArgument, out: OutOption = None) -> None:
    """Says how far a study is."""
    from optuna_mde_studies.runner import trials
    from optuna_mde_studies.terminal import summary

    definition, folder = resolve_existing(study, out)
    opened = open_kept(definition, folder)
    running = "running now" if folder.is_running() else "not running"
    for line in summary.status(opened, trials.counts(opened), definition.config.search.n_trials):
        print(line)
    print(f"{folder.path}: {running}")
