"""Parquet and Arrow, of which the wanted columns alone are read."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from optuna_mde_trainers.corpus.documents import CorpusError
from optuna_mde_trainers.corpus.reading.scans import CHUNK_BYTES, Chunk, Scan, no_column, short
from optuna_mde_trainers.corpus.reading.streams import DAMAGED

if TYPE_CHECKING:
    import pyarrow as pa

TEXT_TYPES = ("string", "large_string", "string_view")


def parquet_chunks(scan: Scan, file: str, raw: IO[bytes]) -> Iterator[Chunk]:
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
        raise CorpusError(f"{file} {DAMAGED} ({short(error)}); copy it again") from error


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


def arrow_chunks(scan: Scan, file: str, raw: IO[bytes]) -> Iterator[Chunk]:
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
    return f"{file} is no whole {kind} file ({short(error)}); copy it again or remove it"
