"""Rows of a dataset to examples: a prompt, its choices, and which of them is right."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optuna_mde_trainers.corpus.documents import CorpusError
from optuna_mde_trainers.corpus.prompts.rows import Row, rows

if TYPE_CHECKING:
    from optuna_mde_trainers.corpus.prompts.source import TaskSource


@dataclass(frozen=True)
class Example:
    """One question of an end-task set."""

    prompt: str
    choices: tuple[str, ...]
    """With the space that stands between prompt and target; one where there is only a target."""
    answer: int
    """Place of the right choice."""


def read(field: str, source: TaskSource) -> list[Example]:
    """All examples of a source, in the order of its rows.

    Args:
        field: the source's place in the definition, for messages: `corpus.tasks.arc`.
        source: the source.

    Raises:
        CorpusError: it cannot be read, a column is missing, or a row has no right answer.
    """
    found = list((_grouped if source.is_right else _single)(source, rows(field, source)))
    if not found:
        raise CorpusError(f"{field}: {source.text_source.label} holds no example")
    return found


def _single(source: TaskSource, found: Iterator[tuple[str, Row]]) -> Iterator[Example]:
    assert source.prompt is not None
    for where, row in found:
        prompt = _filled(where, "prompt", source.prompt, row)
        if source.target is not None:
            target = _filled(where, "target", source.target, row)
            yield Example(prompt, (_joined(where, prompt, target),), 0)
            continue
        assert source.choices is not None
        choices = _column(where, "choices", source.choices, row)
        if not isinstance(choices, list) or not choices:
            raise CorpusError(f"{where}: {source.choices} is no list of choices ({choices!r})")
        if None in choices:
            raise CorpusError(f"{where}: {source.choices} holds a null")
        texts = tuple(_joined(where, prompt, str(choice)) for choice in choices)
        yield Example(prompt, texts, _place_of_answer(where, source, row, len(texts)))


def _place_of_answer(where: str, source: TaskSource, row: Row, number: int) -> int:
    assert source.answer is not None
    answer = _column(where, "answer", source.answer, row)
    if source.labels is not None:
        labels = [str(label) for label in _column(where, "labels", source.labels, row)]
        if str(answer) in labels[:number]:
            return labels.index(str(answer))
        raise CorpusError(
            f"{where}: {source.answer} is {answer!r}, and its choices are called "
            f"{', '.join(labels)}: take a split whose answers are published"
        )
    try:
        place = int(answer)
    except (TypeError, ValueError):
        place = -1
    if not 0 <= place < number:
        raise CorpusError(
            f"{where}: {source.answer} is {answer!r}, no place among {number} choices from 0; "
            "give labels if it is a label"
        )
    return place


def _grouped(source: TaskSource, found: Iterator[tuple[str, Row]]) -> Iterator[Example]:
    """Every right target against the wrong ones of its prompt."""
    assert source.prompt is not None
    assert source.target is not None
    assert source.is_right is not None
    right: dict[str, list[str]] = {}
    wrong: dict[str, list[str]] = {}
    for where, row in found:
        prompt = _filled(where, "prompt", source.prompt, row)
        target = _joined(where, prompt, _filled(where, "target", source.target, row))
        label = _column(where, "is_right", source.is_right, row)
        if label not in (0, 1):
            raise CorpusError(
                f"{where}: {source.is_right} is {label!r}, neither 1 nor 0: take a split whose "
                "answers are published"
            )
        (right if label else wrong).setdefault(prompt, []).append(target)
    for prompt, targets in right.items():
        for target in targets:
            yield Example(prompt, (target, *wrong.get(prompt, ())), 0)


class _Columns(string.Formatter):
    """Refuses to write `None` where a row says nothing."""

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        value, first = super().get_field(field_name, args, kwargs)
        if value is None:
            raise ValueError(f"{field_name} is null")
        return value, first


def _filled(where: str, field: str, template: str, row: Row) -> str:
    try:
        return _Columns().vformat(template, (), row)
    except (KeyError, IndexError, AttributeError, TypeError, ValueError) as error:
        raise CorpusError(
            f"{where} does not fit {field} {template!r} ({error}); it has {', '.join(row)}"
        ) from error


def _column(where: str, field: str, path: str, row: Row) -> Any:
    value: Any = row
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise CorpusError(f"{where} has no {path!r} for {field}; it has {', '.join(row)}")
        value = value[key]
    return value


def _joined(where: str, prompt: str, target: str) -> str:
    """The target as it follows the prompt."""
    if not target.strip():
        raise CorpusError(f"{where} has an empty target")
    if not prompt or prompt[-1].isspace() or target[0].isspace():
        return target
    return f" {target}"
