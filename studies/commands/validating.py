"""The command that checks a definition and plans its study: validate."""

from __future__ import annotations

from typing import Annotated

import typer
from optuna_mde_studies.commands.shared import (
    OutOption,
    SetOption,
    StudyArgument,
    fail,
    print_parts,
    resolve,
)


def validate(
    study: StudyArgument,
    out: OutOption = None,
    set: SetOption = None,
    tokens_per_second: Annotated[
        float | None,
        typer.Option(min=1e-9, help="Training tokens a second of one run, to estimate the time."),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Train a few steps here to find that rate.")
    ] = False,
) -> None:
    """Checks all that can be known without running: fields, sources, devices; prints the plan."""
    from optuna_mde_studies.definition.reading import DefinitionError
    from optuna_mde_studies.runner import checks, warm
    from optuna_mde_studies.runner.corpus import fit_problems, standing
    from optuna_mde_studies.runner.domains import planned
    from optuna_mde_studies.runner.plan import done, finished_rate, plan
    from optuna_mde_studies.runner.remote import bring_shown
    from optuna_mde_studies.runner.speed import measure as measured
    from optuna_mde_studies.terminal import progress, summary

    problems: list[str] = []
    try:
        definition, folder = resolve(study, out, set, problems)
    except DefinitionError as error:
        more = [] if error.rest is None else checks.source_problems(error.rest)
        fail("\n".join([str(error), *more]))
    if measure and definition.config.launch.command is not None:
        fail(
            "--measure trains the built-in model, and launch.command has a trainer of its own: "
            "say --tokens-per-second instead, or leave both out"
        )
    problems += checks.problems(definition)
    if problems:
        fail("\n".join(problems))
    if folder.definition.is_file():  # it has begun, here or elsewhere
        bring_shown(folder)
        folder.bring(folder.confirmation)
    said, config = planned(definition, folder), definition.config
    corpus = standing(config, folder)
    if corpus is not None and (problems := fit_problems(definition, corpus)):
        fail("\n".join(problems))
    offers = warm.offers(folder, config)
    had = done(config, folder, {domain for offer in offers for domain in offer.experts})
    found = plan(config, had)
    print(f"{definition.label}: right. {summary.planned(config, found, had)}, into {folder.path}")
    lines = [said, *(offer.summary for offer in offers), *checks.doubts(definition)]
    for line in filter(None, lines):
        print(line)
    rate = tokens_per_second or (measured(config) if measure else finished_rate(folder))
    print_parts(progress.console(), summary.plan(found, rate))
