"""The JSON schema of a definition: editors must not mark what is right, and should see slips."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from optuna_mde_studies.definition.schema import schema

ROOT = Path(__file__).parents[3]


class _Editors(yaml.SafeLoader):
    """YAML 1.2, as language servers read it: `1e-2` is a number, `2_200` text, `<<` merges."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012


for tag, pattern, first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("merge", "<<", "<"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    _Editors.add_implicit_resolver(
        f"tag:yaml.org,2002:{tag}", re.compile(f"^({pattern})$"), [*first]
    )


def definitions() -> dict[str, Any]:
    """Every definition that we ship or show, and parts of some in a whole one."""
    shipped = [
        path for path in files("optuna_mde_studies").iterdir() if path.name.endswith("yaml")
    ]
    found = {path.name: yaml.load(path.read_text("utf-8"), _Editors) for path in shipped}
    page = (ROOT / "docs/definition.md").read_text("utf-8")
    for number, text in enumerate(re.findall(r"^```yaml\n(.*?)^```$", page, re.M | re.S)):
        part = yaml.load(text, _Editors)
        whole = part if "name" in part else {**found["demo.yaml"], **part}
        whole = whole if "name" in part else _filled(whole, found["demo.yaml"])
        found[f"definition.md, {number}"] = whole
    return found


def _filled(part: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {**base[name], **section} if isinstance(base.get(name), dict) else section
        for name, section in part.items()
    } | {"objective": part["objective"]}


def faults(data: Any) -> list[str]:
    found = jsonschema.Draft202012Validator(schema()).iter_errors(data)
    return [f"{error.json_path}: {error.message}" for error in found]


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(schema())
    json.dumps(schema())


@pytest.mark.parametrize("name", definitions())
def test_what_is_right_is_not_marked(name):
    assert faults(definitions()[name]) == []


@pytest.mark.parametrize(
    "written",
    [
        {"launch": {"logger": "csv"}},
        {"launch": {"logger": ["csv", "wandb"]}},
        {"launch": {"logger": {"wandb": {"project": "x"}, "csv": None}}},
        {"launch": {"callbacks": ["a.b.C", {"a.D": {"x": 1}}]}},
        {"launch": {"devices": [0, 1]}},
        {"model": {"preset": "1M"}},
        {"objective": ["mean", "docs"][0]},
        {"objective": {"code": ["python", "cpp"], "rest": "docs", "prose": {"prose": 2}}},
    ],
)
def test_other_ways_to_write_a_field_are_not_marked(written):
    assert faults({**definitions()["demo.yaml"], **written}) == []


@pytest.mark.parametrize(
    ("written", "place"),
    [
        ({"serach": {}}, "$: "),
        ({"search": {"n_trials": "many"}}, "$.search.n_trials"),
        ({"search": {"n_trials": 5, "bounds": {"docs": [0, 2]}}}, "$.search.bounds.docs[1]"),
        ({"launch": {"logger": "wandbb"}}, "$.launch.logger"),
        ({"objective": {"docs": -1}}, "$.objective"),
        ({"name": "a b"}, "$.name"),
    ],
)
def test_slips_are_marked(written, place):
    assert any(place in fault for fault in faults({**definitions()["demo.yaml"], **written}))


def test_every_field_has_a_word_for_who_hovers_over_it():
    for section in schema()["$defs"].values():
        for name, field in section["properties"].items():
            assert "description" in field or "$ref" in field, name
