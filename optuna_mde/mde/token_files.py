"""Experts' files read a piece at a time: a set of any size takes a few MB of memory."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from optuna_mde.mde.logprobs import ExpertFileError, copy_of, opened, version
from optuna_mde.mde.tokens import Block, TokenTable, divided
from optuna_mde.mde.urls import is_local, local_path

# Of 8 experts 2 MB, enough for a disk to stream.
_BLOCK = 65_536

_TYPES = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}
_LONGEST_HEADER = 100_000_000  # bytes, as in safetensors


class UnusableFileError(ExpertFileError):
    """An expert's file that turned out to be unreadable, or to hold no log-probabilities."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{url}: {reason}")
        self.url = url


@contextlib.contextmanager
def _errors_named(url: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # what stands behind a URL raises errors of its own
        raise UnusableFileError(url, f"no readable log-probability file ({error})") from error


@dataclass(frozen=True)
class LogprobFile:
    """An expert's file of which the header has been read.

    Args:
        url: where it lies.
        header: of safetensors, as bytes.
    """

    url: str
    header: bytes

    @classmethod
    def open(cls, url: str) -> LogprobFile:
        """Read the header.

        Raises:
            UnusableFileError: if the file is missing, or is no file of log-probabilities.
        """
        with _errors_named(url), opened(url) as stream:
            size = int.from_bytes(stream.read(8), "little")
            if not 2 <= size <= _LONGEST_HEADER:
                raise ValueError("it is no safetensors file")
            file = cls(url, stream.read(size))
            end = stream.seek(0, 2) - 8 - size
            if max((place.end for place in file._places.values()), default=0) > end:
                raise ValueError("its end is missing")
        return file

    @property
    def sets(self) -> dict[str, int]:
        """Number of tokens of each validation set; the format keeps no order."""
        return {name: self._places[name].n_tokens for name in sorted(self._places)}

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        """What the writer said of the file."""
        found = self._content.get("__metadata__", {})
        return found if isinstance(found, dict) else {}

    @cached_property
    def mark(self) -> str | None:
        """What tells this content of the file from any other; None where nothing does."""
        written = version(self.url)
        if written is None or re.fullmatch(r"\{('size': \d+)?\}", written):
            return None
        return f"{written} {hashlib.blake2b(self.header, digest_size=16).hexdigest()}"

    @contextlib.contextmanager
    def reading(self) -> Iterator[BinaryIO]:
        """The open file, for `read`. One that is not local is copied first, once."""
        with _errors_named(self.url):
            stream = self._path.open("rb")
        with stream:
            yield stream

    def read(self, stream: BinaryIO, name: str, start: int, stop: int) -> np.ndarray:
        """Log-probabilities `[stop - start]` of some tokens of a set, float32.

        Raises:
            UnusableFileError: if they cannot be read, or are no log-probabilities.
        """
        place = self._places[name]
        size = np.dtype(place.dtype).itemsize
        with _errors_named(self.url):
            stream.seek(8 + len(self.header) + place.start + start * size)
            data = stream.read((stop - start) * size)
            if len(data) != (stop - start) * size:
                raise OSError("its end is missing")
        values = np.frombuffer(data, place.dtype)
        if place.dtype == _TYPES["BF16"]:
            values = (values.astype("<u4") << 16).view("<f4")
        values = values.astype(np.float32)
        # NaN is at most nothing; float32 rounding of log-softmax may end a hair above zero
        if not values.max() <= 1e-3:
            raise UnusableFileError(
                self.url, f"{name}: log-probabilities must be numbers of at most 0"
            )
        return values

    @cached_property
    def _path(self) -> Path:
        if is_local(self.url):
            return local_path(self.url)
        copy = copy_of(self.url)
        weakref.finalize(self, copy.unlink, missing_ok=True)
        return copy

    @cached_property
    def _content(self) -> Mapping[str, Any]:
        content = json.loads(self.header)
        if not isinstance(content, dict):
            raise ValueError("it is no safetensors file")
        return content

    @cached_property
    def _places(self) -> dict[str, _Place]:
        entries = {k: v for k, v in self._content.items() if k != "__metadata__"}
        return {name: _Place.of(name, entry) for name, entry in entries.items()}


@dataclass(frozen=True)
class _Place:
    """Where a set's log-probabilities lie, from the end of the header."""

    dtype: str
    n_tokens: int
    start: int
    end: int

    @classmethod
    def of(cls, name: str, entry: Mapping[str, Any]) -> _Place:
        shape, (start, end) = entry["shape"], entry["data_offsets"]
        if len(shape) != 1 or shape[0] < 1:
            raise ValueError(f"{name}: log-probabilities must have shape [T], got {tuple(shape)}")
        if entry["dtype"] not in _TYPES:
            raise ValueError(f"{name}: numbers of type {entry['dtype']}")
        dtype = _TYPES[entry["dtype"]]
        if start < 0 or end - start != shape[0] * np.dtype(dtype).itemsize:
            raise ValueError(f"{name}: its place does not fit its shape")
        return cls(dtype, int(shape[0]), int(start), int(end))


@dataclass(frozen=True)
class FileTokens:
    """The tokens of one validation set, which stay in their files.

    Args:
        name: the set.
        files: of the E experts.
        experts: `[E]` indices of the experts among the K domains.
    """

    name: str
    files: tuple[LogprobFile, ...]
    experts: np.ndarray

    @property
    def n_tokens(self) -> int:
        return self.files[0].sets[self.name]

    def blocks(self) -> Iterator[Block]:
        """All tokens, in order.

        Raises:
            UnusableFileError: if a file cannot be read, or holds no log-probabilities.
        """
        T = self.n_tokens
        with contextlib.ExitStack() as stack:
            streams = [stack.enter_context(file.reading()) for file in self.files]
            for start in range(0, T, _BLOCK):
                stop = min(start + _BLOCK, T)
                logs = np.empty((len(streams), stop - start), dtype=np.float32)
                for row, file, stream in zip(logs, self.files, streams, strict=True):
                    row[:] = file.read(stream, self.name, start, stop)
                top = divided(logs)
                yield Block(logs.T, 1.0 / T, float(top.sum(dtype=np.float64)) / T)

    def in_memory(self) -> TokenTable:
        """The same tokens, read once."""
        ratios = np.empty((self.n_tokens, len(self.experts)), dtype=np.float32)
        start, offset = 0, 0.0
        for block in self.blocks():
            ratios[start : start + len(block.ratios)] = block.ratios
            start, offset = start + len(block.ratios), offset + block.top
        return TokenTable(ratios, offset, self.experts)
