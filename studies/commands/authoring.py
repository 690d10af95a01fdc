"""Commands for who writes a definition: init, schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from optuna_mde_studies.commands.shared import fail


def init(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="Name of the study, or of its file.")
    ] = "my-study",
) -> None:
    """Writes a definition to fill in, and its schema for editors."""
    from optuna_mde_studies.definition.schema import SCHEMA_FILE
    from optuna_mde_studies.definition.template import template

    path = Path(name) if Path(name).suffix in (".yaml", ".yml") else Path(f"{name}.yaml")
    text = template(path)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
        beside = path.with_name(SCHEMA_FILE)
        if not beside.exists():
            beside.write_text(_schema(), encoding="utf-8")
    except FileExistsError:
        fail(f"{path}: is there already; give another name")
    except OSError as error:
        fail(f"{path}: cannot be written ({(error.strerror or str(error)).lower()})")
    print(f"{path}: put in your text and goal, then `optuna-mde validate {path}`")


def schema() -> None:
    """Prints the JSON schema of a definition, for editors."""
    print(_schema(), end="")


def _schema() -> str:
    from optuna_mde_studies.definition.schema import schema

    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"
