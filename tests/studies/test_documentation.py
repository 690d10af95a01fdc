"""What the documentation says, held against what the code does."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import optuna
import pytest
import yaml
from optuna_mde_studies.definition import reading
from optuna_mde_studies.definition.config import StudyConfig
from optuna_mde_trainers.spec import RunResult, RunSpec
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

ROOT = Path(__file__).parents[2]
DOCUMENTS = {name: ROOT / name for name in ("README.md", "docs/definition.md", "docs/formats.md")}

ROW = re.compile(r"^\| `(\w+)` \| (.+?) \| (.+?) \| ?(.*?) ?\| (.+) \|$", re.MULTILINE)
"""A row of a table of fields: field, type, default, example, meaning."""


def snippets(document: str, language: str) -> list[str]:
    """Fenced blocks that begin at the margin."""
    text = DOCUMENTS[document].read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def definitions_in(document: str) -> tuple[list[str], list[str]]:
    """Complete definitions, and parts of definitions."""
    found = snippets(document, "yaml")
    whole = [text for text in found if "name" in yaml.safe_load(text)]
    return whole, [text for text in found if text not in whole]


def models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def sections(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Every section of a definition; `*` stands for names that the user chooses."""
    yield path or "definition", model
    for name, field in model.model_fields.items():
        for inner in models_in(field.annotation):
            nested = get_origin(field.annotation) is dict
            yield from sections(inner, f"{path}.{name}".lstrip(".") + (".*" if nested else ""))


SECTIONS = dict(sections(StudyConfig))


def tables() -> dict[str, dict[str, tuple[str, str]]]:
    """Section -> field -> cells of its default and example, by the headings in backticks."""
    text = DOCUMENTS["docs/definition.md"].read_text(encoding="utf-8")
    found = {}
    for part in re.split(r"^#+ ", text, flags=re.MULTILINE):
        heading, _, body = part.partition("\n")
        rows = {field: (default, example) for field, _, default, example, _ in ROW.findall(body)}
        found |= dict.fromkeys(re.findall(r"`([^`]+)`", heading), rows)
    return found


TABLES = tables()


def cell(text: str) -> Any:
    """The value in a cell, written as in YAML."""
    assert text.startswith("`"), text
    assert text.endswith("`"), text
    return yaml.safe_load(text.strip("`").replace(r"\|", "|"))


def validated(field: FieldInfo, value: Any) -> Any:
    return TypeAdapter(field.rebuild_annotation()).validate_python(value)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_field_is_documented_with_its_default_and_a_valid_example(section):
    model, rows = SECTIONS[section], TABLES[section]
    assert list(rows) == list(model.model_fields)
    for name, field in model.model_fields.items():
        default, example = rows[name]
        if field.is_required():
            assert default == "required", name
        elif isinstance(field.default, BaseModel):
            assert default == "its defaults", name
        else:
            assert validated(field, cell(default)) == field.default, name
        if example:
            assert validated(field, cell(example)) != field.default, name
        else:
            assert models_in(field.annotation), name


def test_collections_of_the_environment_are_named():
    from optuna_mde_trainers.corpus.builtin.environment import COLLECTIONS

    line = next(
        row
        for row in ROW.findall(DOCUMENTS["docs/definition.md"].read_text("utf-8"))
        if row[0] == "environment"
    )
    assert set(re.findall(r"`(\w+)`", line[4])) == set(COLLECTIONS)


@pytest.mark.parametrize("document", ["README.md", "docs/definition.md"])
def test_definitions_are_valid(document, tmp_path):
    whole, parts = definitions_in(document)
    if document == "docs/definition.md":
        assert len(whole) >= 2
    base = yaml.safe_load(definitions_in("docs/definition.md")[0][0]) | {"objective": "mean"}
    for part in map(yaml.safe_load, parts):
        merged = {name: {**base.get(name, {}), **section} for name, section in part.items()}
        whole.append(yaml.safe_dump(base | {"search": {"n_trials": 20}} | merged))
    for number, text in enumerate(whole):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text, encoding="utf-8")
        reading.read(str(path))


def test_changeable_fields_are_those_that_are_named():
    from optuna_mde_studies.runner.changes import CHANGEABLE

    text = DOCUMENTS["docs/definition.md"].read_text(encoding="utf-8")
    named = re.findall(r"^\| `([\w.]+?)(?:\.\*)?` \| may change", text, re.MULTILINE)
    assert named == [".".join(map(str, field)) for field in CHANGEABLE]


@pytest.mark.parametrize(
    ("document", "index"), [("README.md", 0), ("docs/formats.md", 0), ("docs/formats.md", 1)]
)
def test_python_examples_run(document, index, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = re.sub(r"n_trials=\d+", "n_trials=8", snippets(document, "python")[index])
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(code, f"{document}, Python example {index + 1}", "exec"), names)
    assert capsys.readouterr().out.startswith("Recommended: ")
    study = names["study"]
    states = [trial.state for trial in study.trials]
    shortened = states.count(optuna.trial.TrialState.PRUNED)  # cheap experts
    assert shortened == (3 if "expert_budget" in code else 0)
    assert shortened + states.count(optuna.trial.TrialState.COMPLETE) == len(states) >= 6


def test_the_examples_of_spec_and_result_are_read():
    spec, result = (snippets("docs/formats.md", "json")[i] for i in (0, 1))
    text = DOCUMENTS["docs/formats.md"].read_text(encoding="utf-8")
    assert f"`{RunSpec.model_validate_json(spec).folder_name}`" in text
    for model, example in ((RunSpec, spec), (RunResult, result)):
        assert model.model_validate_json(example).model_dump(mode="json") == json.loads(example)


def test_whatever_a_study_writes_is_documented(tiny_run):
    text = DOCUMENTS["docs/formats.md"].read_text(encoding="utf-8")
    folder = tiny_run / "runs/tiny"
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{folder}/study.db")
    written = set(study.user_attrs).union(*(trial.user_attrs for trial in study.trials))
    written |= {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}
    written |= {path.name for path in (folder / "runs").glob("*/*")}
    written |= {path.name for path in (folder / "corpus").iterdir()}
    missing = [name for name in sorted(written) if not re.search(rf"`{name}[`/]", text)]
    assert not missing


PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("examples/*.md"),
    *ROOT.glob("benchmarks/**/*.md"),
]


def anchors(page: Path) -> set[str]:
    """Names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target


def constants() -> Iterator[tuple[str, str, str]]:
    """Module, name and value of every constant on the page of the model."""
    text = (ROOT / "docs/model.md").read_text(encoding="utf-8").partition("## 13.")[2]
    module = ""
    for first, values in re.findall(r"^\| ([*`].+?) \| (.*?) \|", text, re.MULTILINE):
        names = re.findall(r"`(\w+)`", first)
        module = module if names else first.strip("*")
        yield from ((module, *pair) for pair in zip(names, values.split(", "), strict=bool(names)))


@pytest.mark.parametrize(("module", "name", "written"), list(constants()))
def test_constants_of_the_model_are_those_of_the_code(module, name, written):
    value = vars(importlib.import_module(f"optuna_mde.{module}"))[name]
    value = dataclasses.astuple(value) if dataclasses.is_dataclass(value) else value
    numbers = value if isinstance(value, tuple) else (value,)
    assert tuple(map(float, written.split(" / "))) == numbers
