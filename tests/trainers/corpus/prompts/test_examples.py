from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna_mde_trainers.corpus.documents import CorpusError
from optuna_mde_trainers.corpus.prompts.examples import Example, read
from optuna_mde_trainers.corpus.prompts.source import TEMPLATES, TaskSource
from pydantic import ValidationError

from tests.trainers.tasks import ARC, MULTIRC, OPENBOOKQA, Rows, written


def _read(tmp_path: Path, rows: Rows, **fields: Any) -> list[Example]:
    return read(
        "tasks.x", TaskSource.model_validate(written(tmp_path / "x.jsonl", rows, **fields))
    )


@pytest.mark.parametrize("template", ["arc_easy", "arc_challenge"])
def test_arc_by_letters_and_numbers(tmp_path: Path, template: str) -> None:
    assert _read(tmp_path, ARC, template=template) == [
        Example(
            "Question: Which of these is hot?\nAnswer:", (" ice", " the sun", " snow"), answer=1
        ),
        Example("Question: What do cows eat?\nAnswer:", (" grass", " stones"), answer=0),
    ]


def test_openbookqa(tmp_path: Path) -> None:
    (example,) = _read(tmp_path, OPENBOOKQA, template="openbookqa")
    assert example.prompt == "Question: A rose needs\nAnswer:"
    assert example.choices == (" oil", " light", " sand", " smoke")
    assert example.answer == 1


def test_multirc_sets_each_right_answer_against_the_wrong_ones(tmp_path: Path) -> None:
    who = "Ann fed a cat.\nQuestion: Who fed it?\nAnswer:"
    what = "Ann fed a cat.\nQuestion: What ate?\nAnswer:"
    assert _read(tmp_path, MULTIRC, template="multirc") == [
        Example(who, (" Ann", " Bob"), 0),
        Example(who, (" a girl", " Bob"), 0),
        Example(what, (" a cat", " a dog"), 0),
    ]


def test_templates_of_ones_own(tmp_path: Path) -> None:
    rows: Rows = [{"q": {"stem": "2 + 2 ="}, "a": 4, "options": ["3", "4"], "right": 1}]
    assert _read(tmp_path, rows, prompt="{q[stem]}", target="{a}") == [
        Example("2 + 2 =", (" 4",), 0)
    ]
    assert _read(tmp_path, rows, prompt="Sum:\n", target="{a}!") == [Example("Sum:\n", ("4!",), 0)]
    assert _read(tmp_path, rows, prompt="", choices="options", answer="right") == [
        Example("", ("3", "4"), 1)
    ]


def test_columns_called_prompt_and_target_need_no_word(tmp_path: Path) -> None:
    rows: Rows = [{"prompt": "2 + 2 =", "target": "4", "id": 7}]
    assert _read(tmp_path, rows) == [Example("2 + 2 =", (" 4",), 0)]


def test_a_template_names_the_published_set() -> None:
    for name in TEMPLATES:
        source = TaskSource.model_validate({"template": name})
        assert source.path is not None
        assert source.split == "validation"
        assert TaskSource.model_validate(source.model_dump()) == source
    test = TaskSource.model_validate({"template": "arc_easy", "split": "test"})
    assert (test.path, test.name, test.split) == ("allenai/ai2_arc", "ARC-Easy", "test")


@pytest.mark.parametrize(
    ("rows", "fields", "words"),
    [
        (ARC, {"prompt": "{query}", "target": "x"}, ["row 0", "prompt", "'query'", "question"]),
        (
            ARC,
            {"prompt": "", "choices": "choices.texts", "answer": "answerKey"},
            ["choices.texts"],
        ),
        (
            [{**ARC[0], "answerKey": ""}],
            {"template": "arc_easy"},
            ["row 0", "answerKey is ''", "A, B, C", "published"],
        ),
        ([{**MULTIRC[0], "label": -1}], {"template": "multirc"}, ["label is -1", "published"]),
        ([{"o": ["a", "b"], "n": 2}], {"prompt": "", "choices": "o", "answer": "n"}, ["n is 2"]),
        ([{"a": " "}], {"prompt": "?", "target": "{a}"}, ["row 0", "empty target"]),
        ([{"a": "x"}, {"a": None}], {"prompt": "?", "target": "{a}"}, ["row 1", "a is null"]),
        ([{"o": [None, "b"], "n": 1}], {"prompt": "", "choices": "o", "answer": "n"}, ["a null"]),
        ([{"o": "ab", "n": 1}], {"prompt": "", "choices": "o", "answer": "n"}, ["no list"]),
        ([{"o": ["a"], "n": None}], {"prompt": "", "choices": "o", "answer": "n"}, ["n is None"]),
        ([{"a": "x"}], {"prompt": "{", "target": "{a}"}, ["row 0", "prompt '{'"]),
    ],
)
def test_a_row_that_fits_no_template_is_named(
    tmp_path: Path, rows: Rows, fields: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(CorpusError, match=r"tasks\.x") as caught:
        _read(tmp_path, rows, **fields)
    for word in ["x.jsonl", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"template": "arc"}, "arc_easy, arc_challenge"),
        ({"path": "json", "data_files": "x", "target": "t"}, "give template, or prompt"),
        ({"path": "json", "data_files": "x", "prompt": "p"}, "either target, or choices"),
        ({"path": "json", "data_files": "x", "prompt": "p", "choices": "c"}, "need answer"),
        ({"path": "json", "prompt": "p", "target": "t"}, "needs data_files"),
        ({"path": "owner/set", "prompt": "p", "target": "t"}, "give the split"),
        ({"path": "text", "data_files": "x", "template": "arc_easy"}, "no columns"),
    ],
)
def test_incomplete_sources_say_what_is_missing(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TaskSource.model_validate(fields)
