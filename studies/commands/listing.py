"""The command that finds studies: list."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from optuna_mde_studies.commands.opened import is_storage, open_storage
from optuna_mde_studies.commands.shared import fail, quiet


def list(
    place: Annotated[
        str,
        typer.Argument(
            metavar="[PLACE]",
            help="Folder that holds studies' folders, or a storage's URL (sqlite:///own.db).",
        ),
    ] = "runs",
) -> None:
    """Lists studies: how far each is, and where."""
    from optuna_mde_studies.runner import survey
    from optuna_mde_studies.terminal import progress, summary

    quiet()
    if is_storage(place):
        found = [*survey.within(open_storage(place))]
    elif Path(place).is_dir():
        found = [*survey.below(Path(place))]
    else:
        fail(f"{place}: no such folder; name one that holds studies' folders, or a storage's URL")
    if not found:
        print(f"{place}: no study")
        return
    progress.console().print(summary.studies(found))
