"""Files as a stream of chunks: some megabytes of rows each, the same ones every time.

The process that reads unpacks and cuts; what a row holds is found by whoever gets the chunk
(`rows`), so that parsing runs in parallel too.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import IO, TYPE_CHECKING

from optuna_mde_trainers.corpus.documents import CorpusError
from optuna_mde_trainers.corpus.reading.columns import arrow_chunks, parquet_chunks
from optuna_mde_trainers.corpus.reading.files import LINES
from optuna_mde_trainers.corpus.reading.lines import (
    csv_chunks,
    json_chunks,
    line_chunks,
    whole_text,
)
from optuna_mde_trainers.corpus.reading.scans import CHUNK_BYTES, Chunk, Scan
from optuna_mde_trainers.corpus.reading.streams import Member, members, open_raw
from optuna_mde_trainers.corpus.reading.token_ids import id_chunks

if TYPE_CHECKING:
    from optuna_mde_trainers.corpus.builtin.environment import Document


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
        yield from id_chunks(scan, file, before)
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
        yield from parquet_chunks(scan, file, raw)
    elif scan.format == "arrow" and file.endswith(".arrow"):
        yield from arrow_chunks(scan, file, raw)
    else:
        for member in members(file, raw):
            yield from _member_chunks(scan, member)


def _member_chunks(scan: Scan, member: Member) -> Iterator[Chunk]:
    if scan.format == "text":
        yield Chunk(member.name, 0, [whole_text(member)])
    elif scan.format == "json":
        yield from json_chunks(member)
    elif scan.format == LINES:
        yield from line_chunks(member.name, member.pieces)
    elif scan.format == "csv":
        yield from csv_chunks(scan, member)
    else:  # in an archive: random access needs it whole
        whole = io.BytesIO(b"".join(member.pieces))
        read = parquet_chunks if scan.format == "parquet" else arrow_chunks
        yield from read(scan, member.name, whole)
