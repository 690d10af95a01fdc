"""Tokenizers of a corpus: trained on it, plain bytes, or one that exists.

All of them end as one `tokenizers.Tokenizer` in one `tokenizer.json`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from optuna_mde_trainers.corpus.documents import CorpusError, digest
from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"


class TokenizerConfig(BaseModel):
    """How text becomes tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    type: Literal["bpe", "bytes", "pretrained"] = "bpe"
    """`bpe`: byte-level BPE trained on the corpus; `bytes`: one token a byte; `pretrained`."""
    vocab_size: int = Field(default=1024, ge=257)
    """Tokens of a `bpe` tokenizer, the 256 bytes and the end of text included."""
    train_bytes: int = Field(default=500_000, ge=1)
    """Text of every training domain that a `bpe` tokenizer is trained on, in bytes."""
    path: str | None = None
    """`pretrained`: a tokenizer.json, a folder with one, or a name on the Hugging Face hub."""
    end_of_text: str = END_OF_TEXT
    """Token between documents; a `pretrained` tokenizer must know it."""

    @model_validator(mode="after")
    def _path_goes_with_pretrained(self) -> Self:
        if self.type == "pretrained" and self.path is None:
            raise ValueError(
                "type 'pretrained' needs a path: a tokenizer.json, its folder or name"
            )
        if self.type != "pretrained" and self.path is not None:
            raise ValueError(f"path goes with type 'pretrained', not with {self.type!r}")
        return self


def build(config: TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    """The tokenizer that a configuration asks for.

    Args:
        config: what is asked.
        texts: what a `bpe` tokenizer is trained on.

    Raises:
        CorpusError: no tokenizer at the path, or one without the end-of-text token.
    """
    if config.type == "bytes":
        return byte_tokenizer(config.end_of_text)
    if config.type == "bpe":
        return train_bpe(texts, config.vocab_size, config.end_of_text)
    assert config.path is not None
    tokenizer = pretrained(config.path)
    if tokenizer.token_to_id(config.end_of_text) is None:
        special = [t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special]
        raise CorpusError(
            f"tokenizer.end_of_text: {config.path!r} has no token {config.end_of_text!r}; "
            f"its special tokens are {', '.join(map(repr, special[:8])) or 'none'}"
        )
    return tokenizer


def train_bpe(texts: Iterable[str], vocab_size: int, end_of_text: str) -> Tokenizer:
    """A byte-level BPE; text so short that it has fewer pairs gives a smaller vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[end_of_text],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def byte_tokenizer(end_of_text: str) -> Tokenizer:
    """Token id = value of the byte; the end of text is 256."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {character: byte for byte, character in enumerate(_byte_characters())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([end_of_text])
    return tokenizer


def _byte_characters() -> list[str]:
    """Character that the byte-level alphabet uses for each of the 256 bytes (GPT-2's table)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def pretrained(path: str) -> Tokenizer:
    """A tokenizer from a file, a folder or the Hugging Face hub.

    Raises:
        CorpusError: there is none.
    """
    from tokenizers import Tokenizer

    local = Path(path)
    file = local / "tokenizer.json" if local.is_dir() else local
    try:
        if file.is_file():
            return _whole_texts(Tokenizer.from_file(str(file)))
        return _whole_texts(Tokenizer.from_pretrained(path))
    except Exception as error:  # the Rust library raises plain Exception
        raise CorpusError(
            f"tokenizer.path: {path!r} is neither a tokenizer.json, nor a folder with one, nor a "
            f"tokenizer of the Hugging Face hub that can be reached ({error})"
        ) from error


def _whole_texts(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer as it was saved, but for truncation and padding to the length of some model."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def fingerprint(tokenizer: Tokenizer) -> str:
    """Hash of everything that decides how text becomes tokens."""
    return digest("tokenizer", tokenizer.to_str())


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """Rows that an embedding needs: the largest token id + 1."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


@lru_cache(maxsize=4)
def loaded(file: str) -> Tokenizer:
    """A tokenizer.json, read once a process."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(file)
    tokenizer.encode_special_tokens = True  # a text that speaks of "<|endoftext|>" does not end
    return tokenizer


@lru_cache(maxsize=4)
def bytes_of_tokens(file: str) -> np.ndarray:
    """UTF-8 bytes that each token id stands for: `[V]`, 0 for special tokens.

    Exact for byte-level vocabularies, in which every character is a byte, and for others up to
    what their decoder does with spaces.
    """
    import numpy as np

    tokenizer = loaded(file)
    special = {i for i, t in tokenizer.get_added_tokens_decoder().items() if t.special}
    byte_level = set(_byte_characters())
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    plain = [token for token, i in vocabulary.items() if i not in special]
    one_byte_each = all(byte_level.issuperset(token) for token in plain)
    lengths = np.zeros(vocabulary_size(tokenizer), np.int64)
    for token in plain:
        text = token if one_byte_each else token.replace("\u2581", " ")
        lengths[vocabulary[token]] = len(text) if one_byte_each else len(text.encode())
    return lengths
