"""Text, lines of JSON and CSV, in chunks of whole rows."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterator

from optuna_mde_trainers.corpus.documents import CorpusError
from optuna_mde_trainers.corpus.reading.scans import CHUNK_BYTES, Chunk, Scan, no_column, not_utf8
from optuna_mde_trainers.corpus.reading.streams import Member, as_file

NUMBER = re.compile(r"\s*[-+]?[\d.]+(?:[eE][-+]?\d+)?\s*")
BOM = b"\xef\xbb\xbf"


def whole_text(member: Member) -> str:
    try:
        return b"".join(member.pieces).decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise CorpusError(not_utf8(member.name, error)) from error


def line_chunks(name: str, pieces: Iterator[bytes]) -> Iterator[Chunk]:
    held: list[bytes] = []
    size, line = 0, 1
    for piece in pieces:
        end = piece.rfind(b"\n") + 1
        if end and size + end >= CHUNK_BYTES:
            rows = b"".join([*held, piece[:end]])
            yield Chunk(name, line, rows)
            line += rows.count(b"\n")
            held, size = [piece[end:]], len(piece) - end
        else:
            held.append(piece)
            size += len(piece)
    if size:
        yield Chunk(name, line, b"".join(held))


def json_chunks(member: Member) -> Iterator[Chunk]:
    """Lines of JSON, or the objects of one array."""
    first = b""
    for piece in member.pieces:
        first += piece
        if first.lstrip(BOM + b" \t\r\n"):
            break
    if not first.removeprefix(BOM).lstrip().startswith(b"["):
        yield from line_chunks(member.name, _chained(first.removeprefix(BOM), member.pieces))
        return
    import json

    try:
        rows = json.loads(b"".join([first, *member.pieces]).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise CorpusError(not_utf8(member.name, error)) from error
    except ValueError as error:
        raise CorpusError(f"{member.name} is no JSON ({error})") from error
    yield Chunk(member.name, 0, rows)


def _chained(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def csv_chunks(scan: Scan, member: Member) -> Iterator[Chunk]:
    csv.field_size_limit(sys.maxsize)
    lines = io.TextIOWrapper(as_file(member.pieces), encoding="utf-8-sig", newline="")
    try:
        reader = csv.DictReader(lines)
        if reader.fieldnames is None:
            return
        _require(scan, member.name, list(reader.fieldnames))
        wanted = (scan.column, *scan.tags)
        rows: list[dict[str, str | None]] = []
        size = first = 0
        for row in reader:
            rows.append({name: row.get(name) for name in wanted})
            if len(rows) == 100 and not first:
                _refuse_numbers(scan, member.name, rows)
            size += len(row.get(scan.column) or "")
            if size >= CHUNK_BYTES:
                yield Chunk(member.name, first, rows)
                first, rows, size = first + len(rows), [], 0
        if rows:
            if not first:
                _refuse_numbers(scan, member.name, rows)
            yield Chunk(member.name, first, rows)
    except UnicodeDecodeError as error:
        raise CorpusError(not_utf8(member.name, error)) from error
    except csv.Error as error:
        raise CorpusError(f"{member.name} is no CSV ({error})") from error


def _refuse_numbers(scan: Scan, file: str, rows: list[dict[str, str | None]]) -> None:
    """CSV knows no types: a column in which all rows are numbers is no text."""
    values = [row[scan.column] for row in rows if row[scan.column]]
    if values and all(NUMBER.fullmatch(value or "") for value in values):
        raise CorpusError(
            f"text_column: column {scan.column!r} of {file} holds numbers ({values[0]}), not text"
        )


def _require(scan: Scan, file: str, columns: list[str]) -> None:
    if scan.column not in columns:
        raise CorpusError(no_column(scan, file, columns))
