"""The definition that `optuna-mde init` writes: the fields that matter, with a comment each."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from string import Template

from optuna_mde_studies.definition.config import STUDY_NAME, STUDY_NAME_RULE
from optuna_mde_studies.definition.reading import DefinitionError
from optuna_mde_studies.definition.schema import SCHEMA_FILE

TEMPLATE = "template.yaml"


def template(path: Path) -> str:
    """The text of a definition to be written at `path`; the study is named like its file.

    Raises:
        DefinitionError: if that is no name for a study.
    """
    if not re.fullmatch(STUDY_NAME, path.stem):
        raise DefinitionError(f"{path}: a study is named like its file: {STUDY_NAME_RULE}")
    text = files("optuna_mde_studies.definition").joinpath(TEMPLATE).read_text("utf-8")
    filled = {"name": path.stem, "file": path, "schema": SCHEMA_FILE}
    return Template(text).substitute(filled)
