"""Rows of a chunk: their text or token ids, and the values that filters look at."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna_mde_trainers.corpus.documents import CorpusError
from optuna_mde_trainers.corpus.reading.columns import field_of
from optuna_mde_trainers.corpus.reading.files import LINES
from optuna_mde_trainers.corpus.reading.scans import Chunk, Scan, no_column, not_utf8


@dataclass(frozen=True)
class Rows:
    """What a scan takes from some rows."""

    values: Sequence[Any]
    """Text, or token ids as an array; None: absent."""
    tags: Sequence[Sequence[str]]
    """For each filter column the value of every row, as JSON text."""
    lacking: str = ""
    """What to say if no row of the file has the column; empty: some row has."""


class _Absent:
    """A field that a row lacks."""


ABSENT = _Absent()


def rows(scan: Scan, chunk: Chunk) -> Rows:
    """Parses a chunk.

    Raises:
        CorpusError: a row is no UTF-8, no JSON, or holds something else than text.
    """
    held = chunk.rows
    if isinstance(held, np.ndarray):
        return Rows(_documents(held, scan.end_of_text), ())
    if isinstance(held, bytes):
        if scan.format == LINES:
            return Rows(_decoded(chunk, held).split("\n"), ())
        return _from_dicts(scan, chunk, _parsed(chunk, held))
    if isinstance(held, list):
        if scan.format == "text" or scan.collection is not None:
            return Rows(held, ())
        places = (f"{chunk.file}, row {chunk.first + i}" for i in range(len(held)))
        return _from_dicts(scan, chunk, zip(places, held, strict=False))
    return _from_batch(scan, chunk)


def find(row: dict[str, Any], path: str) -> Any:
    """Value at a dotted path; a column may have the dot in its own name. ABSENT: none."""
    if path in row:
        return row[path]
    value: Any = row
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            return ABSENT
        value = value[part]
    return value


def tag(value: Any) -> str:
    """A value as filters compare it: 1 and 1.0 are equal, 1, "1" and true are not."""
    if value is ABSENT:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def clean(text: str) -> str:
    """A text that UTF-8 can hold: halves of surrogate pairs, which JSON can say, are joined."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _decoded(chunk: Chunk, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = chunk.first + data[: error.start].count(b"\n")
        raise CorpusError(not_utf8(f"{chunk.file}, line {line},", error)) from error


def _parsed(chunk: Chunk, data: bytes) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(_decoded(chunk, data).split("\n"), chunk.first):
        if line and not line.isspace():
            place = f"{chunk.file}, line {number}"
            try:
                yield place, json.loads(line)
            except ValueError as error:
                raise CorpusError(
                    f"{place} is no JSON ({error}); path: json reads one object a line, or one "
                    "array of objects"
                ) from error


def _from_dicts(scan: Scan, chunk: Chunk, found: Iterator[tuple[str, Any]]) -> Rows:
    values: list[Any] = []
    tags: list[list[str]] = [[] for _ in scan.tags]
    lacking = True
    keys: list[str] = []
    for place, row in found:
        if not isinstance(row, dict):
            raise CorpusError(f"{place} holds a {type(row).__name__}, not an object with columns")
        value = find(row, scan.column)
        keys = keys or list(row)
        lacking = lacking and value is ABSENT
        values.append(None if value is ABSENT else _value(scan, place, value))
        for column, name in zip(tags, scan.tags, strict=True):
            column.append(tag(find(row, name)))
    sentence = no_column(scan, chunk.file, keys) if lacking and values else ""
    return Rows(values, tags, sentence)


def _value(scan: Scan, place: str, value: Any) -> Any:
    if value is None:
        return None
    if scan.holds_ids:
        if isinstance(value, list) and all(type(token) is int for token in value):
            return np.array(value, np.int64)
        raise CorpusError(
            f"tokens_column: {place}: {scan.column!r} holds a {type(value).__name__}, not a list "
            "of token ids"
        )
    if not isinstance(value, str):
        raise CorpusError(f"text_column: {place}: {scan.column!r} holds {_kind(value)}, not text")
    return clean(value)


def _kind(value: Any) -> str:
    if isinstance(value, (int, float)):
        return f"the number {value}"
    return {"list": "a list", "dict": "an object"}.get(type(value).__name__, repr(value))


def _from_batch(scan: Scan, chunk: Chunk) -> Rows:
    batch = chunk.rows
    values = _column(batch, scan.column)
    if scan.holds_ids:
        taken: Sequence[Any] = [
            None if value is None else np.asarray(value, np.int64) for value in values.to_pylist()
        ]
    else:
        taken = values.to_pylist()
    tags = [
        [""] * len(batch)
        if field_of(batch.schema, name) is None
        else [tag(value) for value in _column(batch, name).to_pylist()]
        for name in scan.tags
    ]
    return Rows(taken, tags)


def _column(batch: Any, path: str) -> Any:
    """A column of a record batch, or a field within it, null where its parent is."""
    import pyarrow.compute as pc

    if path in batch.schema.names:
        return batch.column(path)
    name, *rest = path.split(".")
    column = batch.column(name)
    return pc.struct_field(column, rest) if rest else column


def _documents(ids: np.ndarray, end_of_text: int | None) -> list[np.ndarray]:
    """Documents of a stream of ids, without the tokens that end them."""
    parts = np.split(ids, np.flatnonzero(ids == end_of_text))
    return [part[1:] if len(part) and part[0] == end_of_text else part for part in parts]
