"""Experts' files read a piece at a time: a set of any size takes a few MB of memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from optuna_mde.mde.logprobs import LogprobFile
from optuna_mde.mde.tokens import Block, TokenTable, divided

# Of 8 experts 2 MB, enough for a disk to stream.
_BLOCK = 65_536


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
