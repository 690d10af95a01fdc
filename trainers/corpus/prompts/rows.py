"""Rows of an end-task source, with all of their columns.

Such sets are small: files are read whole, each by itself, so that shards may differ in columns.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from optuna_mde_trainers.corpus.documents import CorpusError
from optuna_mde_trainers.corpus.reading.files import locate
from optuna_mde_trainers.corpus.reading.scans import not_utf8
from optuna_mde_trainers.corpus.reading.streams import members, open_raw
from optuna_mde_trainers.corpus.sources import SPLIT

if TYPE_CHECKING:
    from optuna_mde_trainers.corpus.prompts.source import TaskSource

Row = Mapping[str, Any]


def rows(field: str, source: TaskSource) -> Iterator[tuple[str, Row]]:
    """Every row of the split, with its place in words.

    Args:
        field: the source's place in the definition, for messages.
        source: the source.

    Raises:
        CorpusError: there is no such file or split, or a file is damaged or holds no rows.
    """
    place = source.text_source
    named = SPLIT.fullmatch(place.split)
    assert named is not None  # checked by the source
    located = locate(field, place, named["name"])
    if located.format not in _READERS:
        raise CorpusError(
            f"{field}: {place.label} holds {located.format}, which has no columns for prompt and "
            f"target; {', '.join(_READERS)} have"
        )
    try:
        found = [
            (f"{field}: row {number} of {file}", row)
            for file in located.files
            for number, row in enumerate(_of_file(file, _READERS[located.format]))
        ]
    except CorpusError as error:
        raise CorpusError(f"{field}: {error}") from error
    if named["slice"] is None:
        yield from found
        return
    from datasets import ReadInstruction

    try:
        lengths = {named["name"]: len(found)}
        (taken,) = ReadInstruction.from_spec(place.split).to_absolute(lengths)
    except (ValueError, AssertionError) as error:
        raise CorpusError(f"{field}.split: {place.split!r}: {error}") from error
    yield from found[taken.from_ : taken.to]


def _of_file(file: str, read: Callable[[str, bytes], Iterator[Row]]) -> Iterator[Row]:
    try:
        with open_raw(file) as raw:
            for member in members(file, raw):
                yield from read(member.name, b"".join(member.pieces))
    except OSError as error:
        raise CorpusError(f"{file} cannot be read ({_short(error)})") from error


def _json(file: str, data: bytes) -> Iterator[Row]:
    """Lines of objects, or one array of them."""
    text = _text(file, data)
    if text.lstrip().startswith("["):
        parts = [(file, text)]
    else:
        lines = enumerate(text.split("\n"), start=1)
        parts = [(f"line {number} of {file}", line) for number, line in lines if line.strip()]
    for where, part in parts:
        try:
            found = json.loads(part)
        except ValueError as error:
            raise CorpusError(f"{where} is no JSON ({error})") from error
        for row in found if isinstance(found, list) else [found]:
            if not isinstance(row, dict):
                raise CorpusError(f"{where} holds {row!r:.60}, which is no object with columns")
            yield row


def _csv(file: str, data: bytes) -> Iterator[Row]:
    try:
        for row in csv.DictReader(io.StringIO(_text(file, data), newline="")):
            yield {name: value for name, value in row.items() if name is not None}
    except csv.Error as error:
        raise CorpusError(f"{file} is no CSV ({error})") from error


def _parquet(file: str, data: bytes) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        yield from pq.read_table(io.BytesIO(data)).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise CorpusError(f"{file} is no whole Parquet file ({_short(error)})") from error


def _arrow(file: str, data: bytes) -> Iterator[Row]:
    import pyarrow as pa

    try:
        opened = pa.ipc.open_file if data.startswith(b"ARROW1") else pa.ipc.open_stream
        yield from opened(data).read_all().to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise CorpusError(f"{file} is no whole Arrow file ({_short(error)})") from error


_READERS = {"json": _json, "csv": _csv, "parquet": _parquet, "arrow": _arrow}


def _text(file: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(not_utf8(file, error)) from error


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
