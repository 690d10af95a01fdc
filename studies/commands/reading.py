"""Commands that read a study: report, recommend, status, dashboard."""

from __future__ import annotations

import sys
import warnings
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from optuna_mde_studies.commands.opened import KeptStudyArgument, NameOption, opened
from optuna_mde_studies.commands.questions import (
    CapOption,
    FloorOption,
    LimitOption,
    ObjectiveOption,
    asked,
)
from optuna_mde_studies.commands.shared import OutOption, fail, print_parts

if TYPE_CHECKING:
    from optuna_mde_studies.runner.confirm import Confirmation


class Format(StrEnum):
    """How a recommendation is printed."""

    text = "text"
    json = "json"
    yaml = "yaml"
    megatron = "megatron"
    mosaicml = "mosaicml"
    litgpt = "litgpt"
    olmix = "olmix"


def dashboard(
    study: KeptStudyArgument,
    name: NameOption = None,
    out: OutOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8080,
) -> None:
    """Opens Optuna Dashboard on a study, with this package's figures, renewed as trials finish."""
    from optuna_mde_studies.report import dashboard as server
    from optuna_mde_studies.runner.remote import bring_shown

    kept = opened(study, name, out)
    runs = kept.folder.runs if kept.config is not None else None

    def confirmation() -> Confirmation | None:
        bring_shown(kept.folder)
        return kept.confirmation

    follower = server.Follower(kept.study, confirmation, runs)
    follower.follow()
    server.serve(kept.storage, host, port, runs=runs, follower=follower)


def report(study: KeptStudyArgument, name: NameOption = None, out: OutOption = None) -> None:
    """Writes the HTML report again, of a running study too."""
    from optuna_mde_studies.report import page
    from optuna_mde_studies.runner.folder import create
    from optuna_mde_studies.runner.remote import bring_shown

    kept = opened(study, name, out)
    create(kept.folder)
    bring_shown(kept.folder)
    print(page.write(kept.study, kept.folder.path, confirmation=kept.confirmation))


def recommend(
    study: KeptStudyArgument,
    name: NameOption = None,
    out: OutOption = None,
    format: Annotated[
        Format,
        typer.Option(
            help="text: tables; json: all of their figures; yaml: the rates; the others: the "
            "rates as that trainer's configuration has them."
        ),
    ] = Format.text,
    objective: ObjectiveOption = None,
    cap: CapOption = None,
    floor: FloorOption = None,
    limit: LimitOption = None,
) -> None:
    """Prints the best mixture by what is known now, for the study's goal or another one."""
    from optuna_mde_studies.exchange import trainers
    from optuna_mde_studies.report import overview
    from optuna_mde_studies.report.judgement import judge
    from optuna_mde_studies.runner import trials
    from optuna_mde_studies.terminal import answers, progress, summary

    from optuna_mde.objective import Objective

    kept = opened(study, name, out)
    question = asked(kept.study, kept.config, objective, cap, floor, limit)
    with warnings.catch_warnings(record=True) as heard:
        found = kept.recommend(question)
    for warning in heard:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    confirmation = None if question else kept.confirmation
    if format is Format.text:
        about = overview.read(kept.study)
        goals = about.goals or Objective.parse(None)
        judgement = judge(about, found, confirmation)
        parts = [*summary.headline(about, found, confirmation)]
        parts += summary.asked(found) if "objective" in question else ()
        parts += summary.outcome(found, goals, judgement)
        if judgement is not None and judgement.is_current:
            parts += summary.confirmed(judgement.confirmation, goals)
        parts += summary.beside(about, kept.folder, found, confirmation)
        if lost := about.lost_experts:
            parts.append(trials.no_expert(lost, len(about.domains)))
        print_parts(progress.console(), parts)
        return
    for said in found.warnings:  # which the tables say, too
        if not any(str(warning.message) in said for warning in heard):
            print(f"warning: {said}", file=sys.stderr)
    if format is Format.json:
        print(answers.as_json(overview.read(kept.study), found, confirmation), end="")
    else:
        try:
            print(trainers.rendered(format.value, found.mixture), end="")
        except ValueError as error:
            fail(f"--format {format.value}: {error}")


def status(study: KeptStudyArgument, name: NameOption = None, out: OutOption = None) -> None:
    """Says how far a study is."""
    from optuna_mde_studies.runner import trials
    from optuna_mde_studies.terminal import summary

    kept = opened(study, name, out)
    for line in summary.status(kept.study, trials.counts(kept.study), kept.n_trials):
        print(line)
    if kept.config is not None:
        running = trials.activity(kept.study, has_runner=kept.folder.is_running())
        print(f"{kept.folder.path}: {running}")
