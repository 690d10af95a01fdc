"""Validation sets: which documents they may take, and their blocks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna_mde_trainers.corpus import blocks, selection
from optuna_mde_trainers.corpus.blocks import SetInfo
from optuna_mde_trainers.corpus.documents import digest, excerpt
from optuna_mde_trainers.corpus.encoding import token_dtype
from optuna_mde_trainers.corpus.packing import (
    BlockWriter,
    encode_validation,
    excerpt_of_ids,
    ids_for_validation,
)
from optuna_mde_trainers.corpus.selection import Chosen
from optuna_mde_trainers.corpus.tokenizer import bytes_of_tokens, loaded

if TYPE_CHECKING:
    from optuna_mde_trainers.corpus.config import CorpusConfig

# Characters of one document in a validation set, per token of the set: 20 documents or more
# share a set, else one long file could be the whole of it.
MAX_EXCERPT = 1 / 8
# Bytes of text that are looked at for each token of a set. A token is some 4 bytes, and
# near-copies of training text are left out.
POOL_BYTES = 12


@dataclass
class Pool:
    """Documents that one set may take, in their order."""

    chosen: Chosen
    first: int = 0
    """Number of the first among the held-out documents of all sets."""


def pool_of(chosen: Chosen, num_tokens: int, block_size: int) -> Pool:
    """The first held-out documents, as many as a set surely needs."""
    chosen = selection.shuffled(chosen, seed=0)
    useful = np.minimum(chosen.sizes, _longest_excerpt(num_tokens, block_size))
    before = np.cumsum(useful) - useful
    return Pool(chosen.take(before < POOL_BYTES * num_tokens))


def _longest_excerpt(num_tokens: int, block_size: int) -> int:
    return max(int(num_tokens * MAX_EXCERPT), block_size)


class SetWriter:
    """Writes the validation sets of one corpus folder.

    Args:
        config: of the corpus.
        folder: its folder.
        tokenizer_file: named by the tokenizer's fingerprint.
    """

    def __init__(self, config: CorpusConfig, folder: Path, tokenizer_file: Path) -> None:
        self._folder, self._file = folder, tokenizer_file
        self._tokenizer = loaded(str(tokenizer_file))
        end_of_text = self._tokenizer.token_to_id(config.tokenizer.end_of_text)
        assert end_of_text is not None
        self._end_of_text = end_of_text
        self._block_size = config.block_size
        self.num_tokens = config.validation_blocks * config.block_size
        """Tokens of every set."""

    def write(
        self, name: str, domain: str | None, documents: list[Any]
    ) -> tuple[SetInfo | None, int]:
        """Packs a set; None, and the tokens there are, when they are too few.

        Args:
            name: of the set.
            domain: whose held-out text it is.
            documents: texts, or arrays of token ids.
        """
        stream, size = self._excerpts(documents)
        if len(stream) <= self.num_tokens:
            return None, len(stream) - 1
        dtype = token_dtype(len(bytes_of_tokens(str(self._file))))
        writer = BlockWriter(
            self._folder, blocks.VALIDATION, name,
            block_size=self._block_size, first=int(stream[0]), dtype=dtype,
        )  # fmt: skip
        writer.add(stream[1:].astype(dtype))
        fingerprint = digest(self._file.stem, writer.finish())
        tokens = writer.blocks * self._block_size
        info = SetInfo(name, domain, tokens, size, writer.blocks, fingerprint)
        return info, tokens

    def _excerpts(self, documents: list[Any]) -> tuple[np.ndarray, int]:
        """Stream of excerpts of many documents; of longer ones where there are few."""
        limit = _longest_excerpt(self.num_tokens, self._block_size)
        while True:
            stream, size = self._stream(documents, limit)
            longest = max((len(document) for document in documents), default=0)
            if len(stream) > self.num_tokens or limit >= longest:
                return stream, size
            limit *= 2

    def _stream(self, documents: list[Any], limit: int) -> tuple[np.ndarray, int]:
        if documents and isinstance(documents[0], np.ndarray):
            parts = (excerpt_of_ids(ids, max(limit // 4, 1)) for ids in documents)
            lengths = bytes_of_tokens(str(self._file))
            return ids_for_validation(parts, self._end_of_text, self.num_tokens, lengths)
        texts = (excerpt(text, limit) for text in documents)
        return encode_validation(self._tokenizer, texts, self._end_of_text, self.num_tokens)
