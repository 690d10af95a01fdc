"""`init` and `schema`: what a new user begins with must be right as it stands."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from optuna_mde_studies.definition import reading
from optuna_mde_studies.definition.schema import schema

SETTING = re.compile(r"^( *)#(?=[a-z\"])", re.M)
"""A setting that is commented out."""


def put_text_in_its_places() -> None:
    lines = [f"{i} a document of some words, the {i}th of them all" for i in range(3000)]
    rows = "".join(json.dumps({"text": line}) + "\n" for line in lines)
    for name in ("web", "code", "books"):
        Path("data", name).mkdir(parents=True)
    Path("data/web/a.jsonl").write_text(rows)
    Path("data/target.jsonl").write_text(rows)
    pd.DataFrame({"content": lines}).to_parquet("data/code/a.parquet")
    Path("data/books/a.txt").write_text("\n".join(lines))


def test_the_template_is_right_once_its_paths_exist(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = cli("init", "mine")
    assert (code, out) == (
        0,
        "mine.yaml: put in your text and goal, then `optuna-mde validate mine.yaml`\n",
    )
    code, _, err = cli("validate", "mine.yaml")
    assert code == 2
    assert all("no file matches" in line for line in err.strip().split("\n"))
    put_text_in_its_places()
    code, out, err = cli("validate", "mine.yaml")
    assert (code, err) == (0, "")
    assert out.startswith("mine.yaml: right. 3 domains")


def test_its_settings_are_right_without_the_number_sign(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli("init")
    text, count = SETTING.subn(r"\1", Path("my-study.yaml").read_text())
    assert count >= 10
    Path("my-study.yaml").write_text(text)
    config = reading.read("my-study.yaml").config
    assert config.search.bounds == {"books": (0, 0.5)}
    assert config.target is not None
    assert config.launch.command is not None


def test_the_editor_finds_the_schema(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli("init")
    first = Path("my-study.yaml").read_text().split("\n")[0]
    named = first.removeprefix("# yaml-language-server: $schema=")
    assert json.loads(Path(named).read_text()) == json.loads(cli("schema")[1]) == schema()


@pytest.mark.parametrize("name", ["mine", "mine.yaml"])
def test_nothing_is_overwritten(name, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("mine")
    Path("optuna-mde.schema.json").write_text("{}")
    assert cli("init", name) == (2, "", "mine.yaml: is there already; give another name\n")
    assert Path("mine.yaml").read_text() == "mine"
    cli("init", "other")
    assert Path("optuna-mde.schema.json").read_text() == "{}"


@pytest.mark.parametrize("name", ["a b", "no/such/folder/x", "-", "é"])
def test_a_name_that_cannot_be_one(name, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = cli("init", "--", name)
    assert code == 2
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())
