"""Files as a stream of chunks: some megabytes of rows each, the same ones every time.

The process that reads unpacks and cuts; what a row holds is found by whoever gets the chunk
(`rows`), so that parsing runs in parallel too.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from optuna_mde_trainers.corpus.documents import CorpusError
from optuna_mde_trainers.corpus.reading.files import LINES
from optuna_mde_trainers.corpus.reading.streams import (
    DAMAGED,
    Member,
    as_file,
    members,
    open_raw,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from optuna_mde_trainers.corpus.builtin.environment import Document

CHUNK_BYTES = 2**22  # of unpacked text: 64 chunks in flight stay below 300 MB
TEXT_TYPES = ("string", "large_string", "string_view")
NUMBER = re.compile(r"\s*[-+]?[\d.]+(?:[eE][-+]?\d+)?\s*")
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Scan:
    """Files that are read together, and what is taken from their rows."""

    format: str
    files: tuple[str, ...]
    column: str
    """Column of the text, or of the token ids; a dot leads into a field of it."""
    tags: tuple[str, ...] = ()
    """Columns that filters look at, sorted."""
    holds_ids: bool = False
    """Whether the column holds lists of token ids."""
    dtype: str | None = None
    """Type of the ids of `.bin` files."""
    end_of_text: int | None = None
    """Token that ends the documents of `.bin` and `.npy` files."""
    collection: str | None = None
    """Built-in collection that is read in place of files."""

    @property
    def is_tokens(self) -> bool:
        """Whether the rows are token ids in place of text."""
        return self.holds_ids or self.format in ("npy", "bin")


@dataclass(frozen=True)
class Chunk:
    """Rows of one file, not parsed yet."""

    file: str
    first: int
    """Line of the file at which a chunk of lines begins, from 1; else its first row, from 0."""
    rows: Any
    """Bytes of whole lines, a list of texts or of dicts, a record batch, or token ids."""
    names: tuple[str, ...] | None = None
    """Identity of each row for split and order; None: its text."""
    position: int = 0
    """Bytes of the files that have been read at the end of this chunk, as they are packed."""


def chunks(scan: Scan) -> Iterator[Chunk]:
    """All chunks of a scan, in an order that depends on its files alone.

    Raises:
        CorpusError: a file is damaged, is of another format, or lacks the column.
    """
    if scan.collection is not None:
        yield from _collection_chunks(scan.collection)
    elif scan.format == "text":
        yield from _grouped(_one_by_one(scan))
    else:
        yield from _one_by_one(scan)


def _one_by_one(scan: Scan) -> Iterator[Chunk]:
    before = 0
    for file in scan.files:
        for chunk in _file_chunks(scan, file, before):
            yield chunk
            before = chunk.position


def _collection_chunks(collection: str) -> Iterator[Chunk]:
    yield from _grouped(
        Chunk(collection, 0, [document.text], (document.name,), len(document.text))
        for document in collected(collection)
    )


@lru_cache(maxsize=16)
def collected(collection: str) -> list[Document]:
    """Documents of a built-in collection, some ten megabytes, kept until `cache_clear`.

    Listing and cutting them takes longer than tokenising, and they are read three times.
    """
    from optuna_mde_trainers.corpus.builtin import environment

    return environment.documents(collection)


def _grouped(single: Iterator[Chunk]) -> Iterator[Chunk]:
    """Chunks of one document each, put together to chunks of some megabytes."""
    held: list[Chunk] = []
    size = 0
    for chunk in single:
        held.append(chunk)
        size += len(chunk.rows[0])
        if size >= CHUNK_BYTES:
            yield _together(held)
            held, size = [], 0
    if held:
        yield _together(held)


def _together(held: list[Chunk]) -> Chunk:
    names = tuple(name for chunk in held for name in chunk.names or ())
    texts = [text for chunk in held for text in chunk.rows]
    return Chunk(held[0].file, 0, texts, names or None, held[-1].position)


def _file_chunks(scan: Scan, file: str, before: int) -> Iterator[Chunk]:
    if scan.format in ("npy", "bin"):
        yield from _id_chunks(scan, file, before)
        return
    try:
        with open_raw(file) as raw:
            for chunk in _raw_chunks(scan, file, raw):
                done = before + (chunk.position or raw.tell())
                yield replace(chunk, position=done)
    except CorpusError:
        raise
    except OSError as error:
        reason = " ".join(str(error).split())
        raise CorpusError(f"{file} cannot be read ({reason})") from error


def _raw_chunks(scan: Scan, file: str, raw: IO[bytes]) -> Iterator[Chunk]:
    if scan.format == "parquet" and file.endswith((".parquet", ".pq")):
        yield from _parquet_chunks(scan, file, raw)
    elif scan.format == "arrow" and file.endswith(".arrow"):
        yield from _arrow_chunks(scan, file, raw)
    else:
        for member in members(file, raw):
            yield from _member_chunks(scan, member)


def _member_chunks(scan: Scan, member: Member) -> Iterator[Chunk]:
    if scan.format == "text":
        yield Chunk(member.name, 0, [_whole_text(member)])
    elif scan.format == "json":
        yield from _json_chunks(member)
    elif scan.format == LINES:
        yield from _line_chunks(member.name, member.pieces)
    elif scan.format == "csv":
        yield from _csv_chunks(scan, member)
    else:  # in an archive: random access needs it whole
        whole = io.BytesIO(b"".join(member.pieces))
        read = _parquet_chunks if scan.format == "parquet" else _arrow_chunks
        yield from read(scan, member.name, whole)


def _whole_text(member: Member) -> str:
    try:
        return b"".join(member.pieces).decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise CorpusError(not_utf8(member.name, error)) from error


# -- lines -----------------------------------------------------------------------------------


def _line_chunks(name: str, pieces: Iterator[bytes]) -> Iterator[Chunk]:
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


def _json_chunks(member: Member) -> Iterator[Chunk]:
    """Lines of JSON, or the objects of one array."""
    first = b""
    for piece in member.pieces:
        first += piece
        if first.lstrip(BOM + b" \t\r\n"):
            break
    if not first.removeprefix(BOM).lstrip().startswith(b"["):
        yield from _line_chunks(member.name, _chained(first.removeprefix(BOM), member.pieces))
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


def not_utf8(place: str, error: UnicodeDecodeError) -> str:
    """The sentence on bytes that are no UTF-8."""
    found = error.object[error.start : error.start + 1].hex()
    return (
        f"{place} is not UTF-8 (byte 0x{found}); convert the file, "
        "for example with iconv -f latin1 -t utf-8"
    )


def _csv_chunks(scan: Scan, member: Member) -> Iterator[Chunk]:
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


def no_column(scan: Scan, file: str, columns: list[str]) -> str:
    """The sentence on a column that a file lacks."""
    shown = ", ".join(columns[:20]) or "no columns"
    more = f" and {len(columns) - 20} more" if len(columns) > 20 else ""
    field = "tokens_column" if scan.holds_ids else "text_column"
    return f"{field}: {file} has no column {scan.column!r}; it has {shown}{more}"


# -- columns ---------------------------------------------------------------------------------


def _parquet_chunks(scan: Scan, file: str, raw: IO[bytes]) -> Iterator[Chunk]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        parquet = pq.ParquetFile(raw)
    except (pa.ArrowInvalid, OSError) as error:
        raise CorpusError(_no_such(file, "Parquet", raw, error)) from error
    schema = parquet.schema_arrow
    check_column(scan, file, schema)
    wanted = [scan.column, *(tag for tag in scan.tags if field_of(schema, tag) is not None)]
    if parquet.metadata.num_rows == 0:
        return
    bytes_a_row = _column_bytes(parquet, scan.column) / parquet.metadata.num_rows
    rows = max(1, min(2**16, int(CHUNK_BYTES / max(bytes_a_row, 1))))
    size = raw.seek(0, io.SEEK_END)
    first = 0
    try:
        for batch in parquet.iter_batches(rows, columns=wanted):
            done = first + len(batch)
            yield Chunk(file, first, batch, position=size * done // parquet.metadata.num_rows)
            first = done
    except (pa.ArrowInvalid, OSError) as error:
        raise CorpusError(f"{file} {DAMAGED} ({_short(error)}); copy it again") from error


def _column_bytes(parquet: Any, column: str) -> int:
    """Unpacked bytes of a column in the file."""
    total = 0
    for group in range(parquet.num_row_groups):
        meta = parquet.metadata.row_group(group)
        for i in range(meta.num_columns):
            held = meta.column(i)
            if held.path_in_schema == column or held.path_in_schema.startswith(f"{column}."):
                total += held.total_uncompressed_size
    return total


def _arrow_chunks(scan: Scan, file: str, raw: IO[bytes]) -> Iterator[Chunk]:
    import pyarrow as pa

    magic = raw.read(6)
    raw.seek(0)
    first = 0
    try:
        if magic == b"ARROW1":
            opened = pa.ipc.open_file(raw)
            batches = (opened.get_batch(i) for i in range(opened.num_record_batches))
        else:
            batches = opened = pa.ipc.open_stream(raw)
        check_column(scan, file, opened.schema)
        tops = {name.split(".")[0] for name in (scan.column, *scan.tags)}
        tops |= {scan.column, *scan.tags}
        kept = [name for name in opened.schema.names if name in tops]
        for batch in batches:
            rows = max(1, int(CHUNK_BYTES * len(batch) / max(batch.nbytes, 1)))
            for start in range(0, len(batch), rows):
                yield Chunk(file, first, _compact(batch.select(kept).slice(start, rows)))
                first += len(batch.slice(start, rows))
    except (pa.ArrowInvalid, OSError) as error:
        raise CorpusError(_no_such(file, "Arrow", raw, error)) from error


def _compact(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A slice without the rest of the batch, which would travel to another process with it."""
    import pyarrow as pa

    return pa.RecordBatch.from_arrays(
        [pa.concat_arrays([column]) for column in batch.columns], schema=batch.schema
    )


def field_of(schema: Any, path: str) -> Any:
    """Type of a column, or of a field within it, by its dotted path; None: there is none."""
    if path in schema.names:
        return schema.field(path).type
    name, _, rest = path.partition(".")
    if name not in schema.names:
        return None
    kind = schema.field(name).type
    for part in rest.split(".") if rest else ():
        if not _is_struct(kind) or kind.get_field_index(part) < 0:
            return None
        kind = kind.field(part).type
    return kind


def _is_struct(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_struct(kind))


def check_column(scan: Scan, file: str, schema: Any) -> None:
    """The column is there and holds text, or token ids.

    Raises:
        CorpusError: it is not or does not.
    """
    import pyarrow as pa

    kind = field_of(schema, scan.column)
    if kind is None:
        raise CorpusError(no_column(scan, file, schema.names))
    if pa.types.is_null(kind):
        return  # a shard in which it is empty
    held = kind.value_type if pa.types.is_dictionary(kind) else kind
    if scan.holds_ids:
        inner = getattr(held, "value_type", None)
        if inner is None or not pa.types.is_integer(inner):
            raise CorpusError(
                f"tokens_column: column {scan.column!r} of {file} holds {kind}, not lists of "
                "token ids"
            )
    elif str(held) not in TEXT_TYPES:
        raise CorpusError(
            f"text_column: column {scan.column!r} of {file} holds {kind}, not text"
            + ("; tokens_column reads token ids" if pa.types.is_list(held) else "")
        )


def _no_such(file: str, kind: str, raw: IO[bytes], error: Exception) -> str:
    raw.seek(0)
    if not raw.read(1):
        return f"{file} is empty (0 bytes), which no {kind} file is; copy it again or remove it"
    return f"{file} is no whole {kind} file ({_short(error)}); copy it again or remove it"


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


# -- token ids -------------------------------------------------------------------------------


def _id_chunks(scan: Scan, file: str, before: int) -> Iterator[Chunk]:
    """Chunks that end where a document does."""
    ids = _mapped(scan, file)
    size = ids.dtype.itemsize
    start, window = 0, CHUNK_BYTES // size
    while start < len(ids):
        end = min(start + window, len(ids))
        while end < len(ids):
            ends = np.flatnonzero(ids[start:end] == scan.end_of_text)
            if len(ends):
                end = start + int(ends[-1]) + 1
                break
            end = min(end + window, len(ids))
        yield Chunk(file, start, np.array(ids[start:end]), position=before + end * size)
        start = end


def _mapped(scan: Scan, file: str) -> np.ndarray:
    try:
        if scan.format == "npy":
            ids = np.load(file, mmap_mode="r", allow_pickle=False)
        else:
            assert scan.dtype is not None
            ids = np.memmap(file, dtype=scan.dtype, mode="r")
    except (ValueError, OSError, EOFError) as error:
        what = "a whole .npy file" if scan.format == "npy" else f"a file of {scan.dtype} ids"
        raise CorpusError(f"{file} is not {what} ({_short(error)}); copy it again") from error
    if ids.dtype.kind not in "ui":
        raise CorpusError(f"{file} holds {ids.dtype}, not token ids; save whole numbers")
    if ids.ndim != 1:
        raise CorpusError(
            f"{file} holds an array of shape {ids.shape}, not one row of ids; save the tokens of "
            "all documents one after the other"
        )
    return ids
