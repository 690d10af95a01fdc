"""Streams of tokens to blocks on disk, a few megabytes at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna_mde_trainers.corpus.blocks import set_folder
from optuna_mde_trainers.corpus.documents import batches, digest, num_bytes

if TYPE_CHECKING:
    from optuna_mde_trainers.corpus.encoding import Tokens
    from tokenizers import Tokenizer

DATA_FILE = "data-00000-of-00001.arrow"
STREAM_TOKENS = 2**20  # gathered at once
LONG = 2_000  # tokens a document from which copying slices beats gathering by index


def pack(stream: np.ndarray, block_size: int) -> np.ndarray:
    """Blocks of a stream: `[T]` -> `[n, block_size + 1]`; what fills no block is left out."""
    n = max(0, (len(stream) - 1) // block_size)
    inputs = stream[: n * block_size].reshape(n, block_size)
    last_targets = stream[block_size : n * block_size + 1 : block_size]
    return np.concatenate([inputs, last_targets[:n, None]], axis=1)


def gathered(
    tokens: Tokens, rows: np.ndarray, end_of_text: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Documents in an order of their own, each with an end of text behind it.

    Args:
        tokens: where they are.
        rows: `[m]` which, in that order.
        end_of_text: token between documents.

    Yields:
        A part of the stream `[T]`, and where documents begin in it and how many of their tokens
        follow there, without the end of text, `[n]`.
    """
    starts, lengths = tokens.spans(rows)
    ends = np.cumsum(lengths)
    at = 0
    while at < len(rows):
        reach = (ends[at - 1] if at else 0) + STREAM_TOKENS
        to = int(np.searchsorted(ends, reach, side="right"))
        ids = tokens.ids()  # mapped anew: pages that were read count as memory of this process
        if to > at:
            yield _stream(ids, starts[at:to], lengths[at:to], end_of_text)
        else:
            yield from _long_document(ids[starts[at] : starts[at] + lengths[at]], end_of_text)
        at = max(to, at + 1)


def _long_document(
    ids: np.ndarray, end_of_text: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """A document in several parts; it begins in the first one."""
    for start in range(0, len(ids), STREAM_TOKENS):
        part = np.array(ids[start : start + STREAM_TOKENS])
        begins = np.zeros(int(start == 0), np.int64)
        yield part, begins, np.full(len(begins), len(part))
    nothing = np.zeros(0, np.int64)
    yield np.array([end_of_text], ids.dtype), nothing, nothing


def _stream(
    ids: np.ndarray, starts: np.ndarray, lengths: np.ndarray, end_of_text: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ends = np.cumsum(lengths + 1)
    begins = ends - lengths - 1
    stream = np.full(int(ends[-1]), end_of_text, ids.dtype)
    if ends[-1] > LONG * len(starts):
        for begin, start, length in zip(begins, starts, lengths, strict=True):
            stream[begin : begin + length] = ids[start : start + length]
    else:
        shift = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        stream[np.repeat(begins, lengths) + shift] = ids[np.repeat(starts, lengths) + shift]
    return stream, begins, lengths


class BlockWriter:
    """Blocks of one domain or set, written as they come.

    Args:
        folder: the corpus's.
        split: `blocks.TRAIN` or `blocks.VALIDATION`.
        name: of the domain or set.
        block_size: tokens that a block trains or scores.
        first: the token that begins the stream.
        dtype: of token ids.
        limit: blocks after which the rest is left out. None: all are kept.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        name: str,
        *,
        block_size: int,
        first: int,
        dtype: np.dtype[Any],
        limit: int | None = None,
    ) -> None:
        import pyarrow as pa

        self._place = set_folder(folder, split, name)
        self._place.mkdir(parents=True)
        self._block_size, self._limit = block_size, limit
        self._rest = np.array([first], dtype)
        self._hash = hashlib.blake2b(digest_size=16)
        self.tokens = 0
        """Tokens that were added."""
        self.blocks = 0
        self._type = pa.list_(pa.from_numpy_dtype(dtype), block_size + 1)
        self._schema = pa.schema({"input_ids": self._type})
        self._sink = pa.ipc.new_stream(str(self._place / DATA_FILE), self._schema)

    def add(self, ids: np.ndarray) -> None:
        """Goes on with the stream."""
        self.tokens += len(ids)
        stream = np.concatenate([self._rest, ids])
        packed = pack(stream, self._block_size)
        self._rest = stream[len(packed) * self._block_size :]
        if self._limit is not None:
            packed = packed[: self._limit - self.blocks]
        if len(packed):
            self._write(packed)

    def _write(self, packed: np.ndarray) -> None:
        import pyarrow as pa

        flat = np.ascontiguousarray(packed)
        self._hash.update(flat.tobytes())
        rows = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), packed.shape[1])
        self._sink.write_batch(pa.record_batch([rows.cast(self._type)], schema=self._schema))
        self.blocks += len(packed)

    def finish(self) -> str:
        """Completes what `datasets.load_from_disk` reads; gives the blocks' fingerprint.

        `Dataset.save_to_disk` writes the same files, but from a table, which would have to be
        mapped whole.
        """
        from datasets import DatasetInfo, Features, List, Value

        self._sink.close()
        dtype = self._rest.dtype
        width = self._block_size + 1
        fingerprint = digest(str(self.blocks), str(width), dtype.name, self._hash.hexdigest())
        features = Features({"input_ids": List(Value(dtype.name), length=width)})
        DatasetInfo(features=features).write_to_directory(str(self._place))
        state: dict[str, object] = {
            "_data_files": [{"filename": DATA_FILE}],
            "_fingerprint": fingerprint,
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
        }
        (self._place / "state.json").write_text(json.dumps(state, indent=2))
        return fingerprint


# -- validation sets ---------------------------------------------------------------------------


def encode_validation(
    tokenizer: Tokenizer, texts: Iterable[str], end_of_text: int, num_tokens: int
) -> tuple[np.ndarray, int]:
    """The first `num_tokens` + 1 tokens of a stream, and the bytes of all but the first.

    Shorter when the texts hold less. Reads no more texts than it needs.
    """
    ids = [end_of_text]
    size = 0
    for batch in batches(texts, num_characters=4 * num_tokens):
        encodings = tokenizer.encode_batch(batch, add_special_tokens=False)
        for text, encoding in zip(batch, encodings, strict=True):
            missing = num_tokens + 1 - len(ids)
            ids += encoding.ids[:missing]
            if len(encoding.ids) >= missing:
                last = encoding.offsets[missing - 1][1]  # characters up to the last token's end
                return np.array(ids), size + num_bytes(text[:last])
            ids.append(end_of_text)
            size += num_bytes(text)
            if len(ids) > num_tokens:
                return np.array(ids), size
    return np.array(ids), size


def ids_for_validation(
    parts: Iterable[np.ndarray], end_of_text: int, num_tokens: int, lengths: np.ndarray
) -> tuple[np.ndarray, int]:
    """The same of documents that are token ids already.

    Args:
        parts: token ids of each document.
        end_of_text: token between documents.
        num_tokens: tokens that are scored.
        lengths: `[V]` bytes of each token.
    """
    held = [np.array([end_of_text])]
    count = 0
    for part in parts:
        held += [part, held[0]]
        count += len(part) + 1
        if count >= num_tokens:
            break
    ids = np.concatenate(held)[: num_tokens + 1]
    return ids, int(lengths[ids[1:]].sum())


def excerpt_of_ids(ids: np.ndarray, limit: int) -> np.ndarray:
    """At most `limit` tokens, from a place that the document itself decides."""
    if len(ids) <= limit:
        return ids
    start = int(digest("excerpt", np.ascontiguousarray(ids).tobytes(), size=8), 16)
    start %= len(ids) - limit + 1
    return ids[start : start + limit]
