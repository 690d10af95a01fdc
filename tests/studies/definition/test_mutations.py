"""Definitions with something wrong in them: a sentence with the file, never a traceback."""

from __future__ import annotations

import copy
import datetime
import random
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna_mde_studies.definition import reading

VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1.5, float("nan"), float("inf"), 10**400, -(10**30)),
    *("", "x", "\0", "é漢字", "../../etc/passwd", "1e3", "%s{}$", "a" * 5000, b"abc"),
    *([], [1], ["a"], [[]], [None], {}, {"a": 1}, {1: 2}, {None: None}, {True: 1}),
    *({"a": {"b": {"c": [1]}}}, datetime.date(2020, 1, 1), "!!python/object:os.system"),
]
PIECES = ["\0", "\t", ":", "{", "- ", '"', "\x07", "&a", "*b", "%", "? [a]\n: ", "2020-99-99 "]


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def mutated(rng: random.Random, base: dict[str, Any]) -> str:
    data = copy.deepcopy(base)
    *way, last = rng.choice(list(places(data)))
    section: Any = data
    for key in way:
        section = section[key]
    value = rng.choice(VALUES)
    kind = rng.choice(["set", "set", "set", "drop", "rename"])
    if kind == "set":
        section[last] = value
    elif kind == "drop":
        del section[last]
    elif isinstance(section, dict) and not isinstance(value, dict | list):
        section[value] = section.pop(last)
    text = yaml.safe_dump(data, allow_unicode=True)
    if rng.random() < 0.15:
        place = rng.randrange(len(text))
        text = text[:place] + rng.choice(PIECES) + text[place:]
    return text


def test_every_mutated_definition_is_read_or_refused_in_sentences(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = yaml.safe_load((files("optuna_mde_studies") / "demo.yaml").read_text("utf-8"))
    base["corpus"]["tasks"] = {"arc": {"template": "arc_easy"}}
    base["target"] = {"tokens": 1e12, "max_epochs": 4}
    rng, said = random.Random(5), []
    for _ in range(300):
        Path("m.yaml").write_text(mutated(rng, base), encoding="utf-8")
        try:
            reading.read("m.yaml")
        except reading.DefinitionError as error:
            said += str(error).split("\n")
    assert len(said) > 200
    assert [line for line in said if not line.startswith("m.yaml")] == []
    assert [line for line in said if "pattern" in line or len(line) > 1000] == []


def test_a_mutated_definition_starts_and_writes_nothing(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = yaml.safe_load((files("optuna_mde_studies") / "demo.yaml").read_text("utf-8"))
    rng, refused = random.Random(3), 0
    while refused < 25:
        Path("m.yaml").write_text(mutated(rng, base), encoding="utf-8")
        try:
            reading.read("m.yaml")
            continue
        except reading.DefinitionError as error:
            said = str(error)
        refused += 1
        assert cli("run", "m.yaml") == (2, "", f"{said}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["m.yaml"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "    python:",
            "    no:",
            "11: corpus.domains.no: YAML reads this name as False; put",
        ),
        (
            "    cpp:",
            "    1:",
            "12: corpus.domains.1: YAML reads this name as 1; put it in",
        ),
        ("n_trials: 22", "n_trials: 1e3", "search.n_trials: a whole number is needed (1000 or"),
        ("name: demo", "name: a b", "7: name: a name has letters a to z, digits"),
        ("    python:", "    on:", "corpus.domains.on: YAML reads this name as True; put it in"),
        ("    python:", "    ~:", "corpus.domains.~: YAML reads this name as None; put it in"),
        ("    python:", "    cpp:", "corpus.domains.cpp: written twice; keep one"),
        ("  n_trials: 22", "\tn_trials: 22", "not valid YAML: found character '\\t'"),
        ("name: demo", "name: demo\0", "not valid YAML: unacceptable character #x0000"),
        ("seed: 0", "seed: " + "9" * 5000, "a value cannot be read (Exceeds the limit"),
        ("n_trials: 22", "n_trials: .inf", "search.n_trials: a number of finite size is"),
        ("max_steps: 180", "max_steps: 1e400", "training.max_steps: "),
        ("name: demo", "name: demo\nname: demo", "name: written twice; keep one"),
        ("name: demo", "name: 2020-99-99", "a value cannot be read (month must be in 1..12)"),
        ("name: demo", "? [a]\n: 3\nname: demo", "not valid YAML: found unhashable key"),
        ("name: demo", 'name: "a\x07"', "not valid YAML: unacceptable character #x0007"),
        ("name: demo", "name: " + "[" * 3000, "a value cannot be read"),
    ],
)
def test_what_yaml_reads_otherwise_is_said(old, new, said, tmp_path):
    text = (files("optuna_mde_studies") / "demo.yaml").read_text("utf-8")
    assert old in text
    path = tmp_path / "study.yaml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(reading.DefinitionError) as raised:
        reading.read(str(path))
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
