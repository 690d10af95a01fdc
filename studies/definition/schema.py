"""The JSON schema of a definition, with which an editor completes and checks one as it is written.

Nothing that `reading` takes is refused by it; what only several fields together can be wrong in is
left to `optuna-mde validate`.
"""

from __future__ import annotations

from typing import Any

from optuna_mde_studies.definition.config import StudyConfig
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

SCHEMA_FILE = "optuna-mde.schema.json"
"""Its name beside a definition that `optuna-mde init` has written."""

WITH_UNDERSCORES = {"type": "string", "pattern": "^[0-9][0-9_]*$"}
"""`2_200_000`: a whole number in YAML 1.1, which we read, and text in 1.2, which editors read."""


class _Written(GenerateJsonSchema):
    """Fields as people write them."""

    def int_schema(self, schema: core_schema.IntSchema) -> JsonSchemaValue:
        return {"anyOf": [super().int_schema(schema), WITH_UNDERSCORES]}


def schema() -> dict[str, Any]:
    """The JSON schema of a study definition, draft 2020-12."""
    generated = StudyConfig.model_json_schema(schema_generator=_Written)
    return {"$schema": _Written.schema_dialect, **generated, "title": "optuna-mde study"}
