"""Sources that cannot be read: `validate` names the field, the file and the mend, all at once."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
from optuna_mde_studies.definition import reading
from optuna_mde_studies.runner import checks


def lines(rows: Iterable[object]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


GOOD = lines({"text": f"a document with the number {i}"} for i in range(50))
FAULTS = {
    "missing column": ("body.jsonl", lines([{"body": "text"}]), "text_column: body.jsonl has no"),
    "numbers": ("numbers.jsonl", lines([{"text": 5}]), "text_column: numbers.jsonl, line 1"),
    "latin-1": (
        "latin.jsonl",
        '{"text": "caf\xe9"}\n'.encode("latin1"),
        "line 1, is not UTF-8",
    ),
    "cut short": (
        "cut.jsonl.gz",
        gzip.compress(GOOD)[:-40],
        ": cut.jsonl.gz is damaged",
    ),
    "empty": ("empty.jsonl.gz", b"", "data_files: empty.jsonl.gz is empty (0 bytes)"),
    "no JSON": ("prose.jsonl", b"hello\nworld\n", ": prose.jsonl, line 1 is no JSON"),
    "no Parquet": ("json.parquet", GOOD, ": json.parquet is no whole Parquet file"),
    "no file": ("nothing.jsonl", None, "data_files: no file matches 'nothing.jsonl'"),
}


def source(name: str, content: bytes | None) -> str:
    if content is not None:
        Path(name).write_bytes(content)
    kind = "parquet" if name.endswith(".parquet") else "json"
    return f"{{path: {kind}, data_files: {name}}}"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_source_that_cannot_be_read_is_named(fault, workplace):
    name, content, said = FAULTS[fault]
    setting = f"corpus.validation.news={source(name, content)}"
    (problem,) = checks.problems(reading.read("tiny.yaml", [setting]))
    assert "corpus.validation.news" in problem
    assert said in problem
    assert "\n" not in problem


def test_all_of_them_are_named_at_once(workplace):
    sources = [source(name, content) for name, content, _ in FAULTS.values()]
    named = ", ".join(f"set{i}: {written}" for i, written in enumerate(sources))
    tokenizer = "corpus.tokenizer={type: pretrained, path: tok.json}"
    Path("tok.json").write_text("{}")
    overrides = [f"corpus.validation={{{named}}}", "objective=code", tokenizer]
    problems = checks.problems(reading.read("tiny.yaml", overrides))
    places = [re.findall(r": corpus\.validation\.(set\d)[.:]", said)[-1] for said in problems[1:]]
    assert "corpus.tokenizer.path" in problems[0]
    assert places == [f"set{i}" for i in range(len(FAULTS))]


def test_validate_names_them_beside_fields_that_are_wrong(cli, workplace):
    code, out, err = cli(
        *("validate", "tiny.yaml", "--set", "training.max_steps=many"),
        *("--set", "corpus.domains.code.data_files=gone/*.txt", "--set", "corpus.tasks={t: 5}"),
        *("--set", "objective={moon: 1}"),
    )
    assert (code, out) == (2, "")
    task, wrong, objective, source = err.strip().split("\n")
    assert "training.max_steps: a whole number is needed" in wrong
    assert "corpus.tasks.t: " in task
    assert "objective.moon: no validation set is called 'moon'" in objective
    assert "corpus.domains.code.data_files: no file matches 'gone/*.txt'" in source


def test_validate_looks_at_the_study_that_out_names(cli, tiny_run, tmp_path, monkeypatch):
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    Path("runs/tiny").rename("elsewhere")
    code, out, _ = cli("validate", "tiny.yaml", "--set", "search.n_trials=8")
    assert (code, "into runs/tiny" in out) == (0, True)
    assert re.search(r"experts +3 ", out)
    arguments = ("validate", "tiny.yaml", "--out", "elsewhere")
    code, out, _ = cli(*arguments, "--set", "search.n_trials=8")
    assert (code, "into elsewhere" in out) == (0, True)
    assert re.search(r"experts +0 ", out)
    assert re.search(r"search +2 ", out)
    code, _, err = cli(*arguments, "--set", "training.max_steps=21")
    assert code == 2
    assert "was begun with training.max_steps = 20, and now it is 21" in err


@pytest.mark.parametrize("command", ["run", "work"])
def test_a_start_without_its_sources_names_all_and_writes_nothing(command, cli, workplace):
    before = {*workplace.rglob("*")}
    gone = (("code", "gone/*.txt"), ("prose", "lost.txt"))
    options = [f"corpus.domains.{name}.data_files={files}" for name, files in gone]
    code, _, err = cli(command, "tiny.yaml", *(x for o in options for x in ("--set", o)))
    assert code == 2
    lines = err.strip().split("\n")
    assert len(lines) == len(gone)
    for line, (name, files) in zip(lines, gone, strict=True):
        assert f"corpus.domains.{name}.data_files: no file matches {files!r}" in line
    assert {*workplace.rglob("*")} == before
