"""Documents of one pass that somebody wants: their text, or their tokens in a store on disk."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna_mde_trainers.corpus import cache, stores
from optuna_mde_trainers.corpus.documents import CorpusError, batches, digest
from optuna_mde_trainers.corpus.progress import Meter, Say
from optuna_mde_trainers.corpus.reading.chunks import chunks
from optuna_mde_trainers.corpus.reading.rows import rows
from optuna_mde_trainers.corpus.reading.scans import Chunk, Scan
from optuna_mde_trainers.corpus.scanning import PARALLEL_BYTES, Group, Index, placed
from optuna_mde_trainers.corpus.tokenizer import loaded, vocabulary_size
from optuna_mde_trainers.corpus.words import WordEncoder, units_of

if TYPE_CHECKING:
    from optuna_mde_trainers.corpus.processes import Workers

VERSION = "1"  # raise it when the same documents give other tokens
PIECE = 1_000_000  # characters that are encoded at once: an encoding takes 100 bytes a token
PIECE_END = re.compile(r" (?=\S)|\n")
LARGEST_UINT16 = 2**16 - 1
INT64, UINT32 = np.dtype(np.int64), np.dtype(np.uint32)


# -- one process -----------------------------------------------------------------------------


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Two bytes an id where they suffice, else four."""
    return np.dtype(np.uint16 if vocab_size - 1 <= LARGEST_UINT16 else np.uint32)


class Encoder:
    """Texts to token ids, without the tokens that a tokenizer adds around them.

    Args:
        file: a tokenizer.json.
    """

    def __init__(self, file: str) -> None:
        self._tokenizer = loaded(file)
        self.dtype = token_dtype(vocabulary_size(self._tokenizer))
        units = units_of(self._tokenizer)
        self._words = WordEncoder(self._tokenizer, units, self.dtype) if units else None

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of all texts, one after the other, `[T]`, and how many each has, `[n]`."""
        pieces: list[str] = []
        owners: list[int] = []
        for i, text in enumerate(texts):
            for piece in _pieces(text):
                pieces.append(piece)
                owners.append(i)
        found, lengths = [np.zeros(0, self.dtype)], [np.zeros(0, np.int64)]
        for batch in batches(pieces, num_characters=PIECE):
            ids, counts = self._words.encode(batch) if self._words else self._plain(batch)
            found.append(ids)
            lengths.append(counts)
        each = np.bincount(owners, np.concatenate(lengths), len(texts)) if texts else np.zeros(0)
        return np.concatenate(found), each.astype(np.int64)

    def _plain(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        ids = [np.array(encoding.ids, self.dtype) for encoding in encodings]
        return np.concatenate(ids), np.array([len(part) for part in ids], np.int64)


@lru_cache(maxsize=2)
def encoder(file: str) -> Encoder:
    """The encoder of a tokenizer.json, with what it has learnt in this process."""
    return Encoder(file)


def _pieces(text: str) -> Iterator[str]:
    """A long text in parts that end before a space or behind a line, where words end too."""
    start = 0
    while len(text) - start > PIECE:
        end = PIECE_END.search(text, start + PIECE - 2_000)
        if end is None:
            break
        cut = end.start() if end.group() == " " else end.end()
        yield text[start:cut]
        start = cut
    yield text[start:]


# -- one pass --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Wanted:
    """A chunk, and which of its rows are wanted."""

    chunk: Chunk
    rows: np.ndarray


def _wanted_chunks(
    scan: Scan, counts: np.ndarray, wanted: np.ndarray, done: int
) -> Iterator[tuple[tuple[int, int], _Wanted | None]]:
    """Chunks up to the last one with a wanted row; None for those that need no work.

    Args:
        scan: the pass.
        counts: rows of every chunk.
        wanted: sorted rows of the pass.
        done: chunks that an earlier process has done.
    """
    ends = np.cumsum(counts, dtype=np.int64)
    last = int(np.searchsorted(ends, wanted[-1], side="right")) if len(wanted) else -1
    if last < 0:
        return
    for number, chunk in enumerate(chunks(scan)):
        if number > last:
            return
        start = int(ends[number] - counts[number])
        low, high = np.searchsorted(wanted, [start, start + int(counts[number])])
        mine = wanted[low:high] - start
        needs_work = number >= done and len(mine) > 0
        yield (number, chunk.position), (_Wanted(chunk, mine) if needs_work else None)


def _values(scan: Scan, asked: _Wanted | None) -> list[Any]:
    if asked is None:
        return []
    found = rows(scan, asked.chunk).values
    return [found[row] for row in asked.rows]


def texts(group: Group, index: Index, wanted: np.ndarray, workers: Workers, say: Say) -> list[Any]:
    """Texts (or arrays of token ids) of some rows of a pass, in the order of the rows.

    Args:
        group: what is read.
        index: its index.
        wanted: sorted rows.
        workers: processes that parse.
        say: called with lines of progress.
    """
    meter = Meter(say, f"reading samples of {group.label}", group.num_bytes)
    take = partial(_values, replace(group.scan, files=()))
    found: list[Any] = []
    with _messages(group):
        for (_, position), part in workers.map(
            take,
            _wanted_chunks(group.scan, index.counts, wanted, 0),
            parallel=group.num_bytes > PARALLEL_BYTES,
        ):
            found += part
            meter.at(position)
    return found


def kept_texts(
    group: Group, index: Index, wanted: np.ndarray, work: Path, workers: Workers, say: Say
) -> list[Any]:
    """`texts`, read from the cache where an earlier corpus took the same ones."""
    key = digest(VERSION, group.identity, wanted.tobytes())
    file = work / "texts" / f"{key}.json"
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        return [np.array(ids) for ids in held] if group.scan.is_tokens else held
    except (OSError, ValueError):
        pass
    found = texts(group, index, wanted, workers, say)
    plain = [value.tolist() if isinstance(value, np.ndarray) else value for value in found]
    cache.write_whole(file, json.dumps(plain, ensure_ascii=False))
    return found


class _messages:  # noqa: N801 - reads as a statement
    """Errors of readers get the place of the group's first source."""

    def __init__(self, group: Group) -> None:
        self._group = group

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, CorpusError):
            raise CorpusError(placed(self._group.fields[0], str(error))) from error


# -- the store of tokens -----------------------------------------------------------------------


@dataclass(frozen=True)
class Tokens:
    """Tokens of some documents of a pass, read from disk as they are used."""

    rows: np.ndarray
    """`[n]` sorted places in the pass."""
    starts: np.ndarray
    """`[n + 1]` places of their tokens in `ids()`."""
    ids: Callable[[], np.ndarray]
    """Maps them."""
    dtype: np.dtype[Any]

    def spans(self, rows_: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the tokens of some rows begin and how many they are, `[m]` each."""
        at = np.searchsorted(self.rows, rows_)
        starts = self.starts[at]
        return starts, self.starts[at + 1] - starts


def _encoded(scan: Scan, file: str, asked: _Wanted | None) -> dict[str, np.ndarray]:
    values = _values(scan, asked)
    if scan.is_tokens:
        dtype = token_dtype(vocabulary_size(loaded(file)))
        ids = [value.astype(dtype) for value in values]
        lengths = np.array([len(part) for part in ids], np.int64)
        return {"ids": np.concatenate([np.zeros(0, dtype), *ids]), "lengths": lengths}
    found, counts = encoder(file).encode(values)
    return {"ids": found, "lengths": counts}


def tokens(
    group: Group,
    index: Index,
    wanted: np.ndarray,
    tokenizer_file: Path,
    work: Path,
    workers: Workers,
    say: Say,
) -> Tokens:
    """Tokens of some rows of a pass: found in the cache, gone on with, or made.

    Args:
        group: what is read.
        index: its index.
        wanted: sorted rows.
        tokenizer_file: a tokenizer.json named by its fingerprint.
        work: the cache.
        workers: processes that encode.
        say: called with lines of progress.

    Raises:
        CorpusError: a file cannot be read, or has changed since the index was made.
    """
    place = work / "tokens" / digest(VERSION, group.identity, tokenizer_file.stem)
    dtype = token_dtype(vocabulary_size(loaded(str(tokenizer_file))))
    for folder in sorted(place.iterdir()) if place.is_dir() else ():
        if folder.is_dir() and stores.is_finished(folder):
            held = stores.column(folder, "rows", INT64)
            if np.isin(wanted, held, assume_unique=True).all():
                return _opened(folder, dtype)
    folder = place / digest(wanted.tobytes())
    with _messages(group), stores.one_writer(folder) as unfinished:
        if unfinished:
            _fill(group, index, wanted, tokenizer_file, folder, dtype, workers, say)
    return _opened(folder, dtype)


def _fill(
    group: Group,
    index: Index,
    wanted: np.ndarray,
    tokenizer_file: Path,
    folder: Path,
    dtype: np.dtype[Any],
    workers: Workers,
    say: Say,
) -> None:
    columns = {"ids": dtype, "lengths": UINT32, "rows": INT64}
    store = stores.Store(folder, columns)
    try:
        done = store.chunks
        starts = np.cumsum(index.counts, dtype=np.int64) - index.counts
        size = int(np.asarray(index.sizes)[wanted].sum())
        make = partial(_encoded, replace(group.scan, files=()), str(tokenizer_file))
        meter = None
        finished = 0
        for (number, _), part in workers.map(
            make,
            _wanted_chunks(group.scan, index.counts, wanted, done),
            parallel=size > PARALLEL_BYTES,
        ):
            low, high = np.searchsorted(
                wanted, [starts[number], starts[number] + int(index.counts[number])]
            )
            mine = wanted[low:high]
            finished += int(np.asarray(index.sizes)[mine].sum())
            if number < done:
                continue
            if meter is None:
                meter = Meter(say, f"tokenising {group.label}", size, finished)
            store.append({**part, "rows": mine})
            meter.at(finished)
        store.flush(finished=True)
    finally:
        store.close()


def _opened(folder: Path, dtype: np.dtype[Any]) -> Tokens:
    lengths = stores.column(folder, "lengths", UINT32)
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return Tokens(
        np.asarray(stores.column(folder, "rows", INT64)),
        starts,
        partial(stores.column, folder, "ids", dtype),
        dtype,
    )
