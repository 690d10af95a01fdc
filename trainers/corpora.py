"""A corpus: training domains and validation sets, from their sources to blocks on disk.

`prepare` reads the sources, removes copies over all of them, holds documents out, trains or
loads the tokenizer, and writes the folder that `optuna_mde_trainers.blocks.Corpus` reads.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from optuna_mde_trainers import blocks, sources, tokenizer
from optuna_mde_trainers.blocks import Corpus, DomainInfo, SetInfo
from optuna_mde_trainers.documents import (
    Chosen,
    CorpusError,
    digest,
    excerpt,
    first_bytes,
    shuffled,
    split,
    without_copies,
)
from optuna_mde_trainers.sources import DomainSource
from optuna_mde_trainers.tokenizer import TokenizerConfig
from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer

__all__ = [
    "CorpusChangedError",
    "CorpusConfig",
    "CorpusError",
    "DomainSource",
    "TokenizerConfig",
    "describe",
    "fingerprint",
    "prepare",
]

PACKING = "1"  # raise it when the same texts become other blocks
MAX_EXCERPT = 1 / 8  # characters of a document in a validation set, per token of the set: 20
# documents or more share a set, else one long file could be the whole of it
Progress = Callable[[str], None]


class CorpusConfig(BaseModel):
    """The text of a study."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    domains: dict[str, DomainSource] = Field(min_length=1)
    """Training domains; each has a validation set of its own name."""
    validation: dict[str, DomainSource] = {}
    """Unseen validation sets, which belong to no domain."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """How text becomes tokens."""
    block_size: int = Field(default=64, ge=1)
    """Tokens that one block trains or scores."""
    max_train_bytes: int | None = Field(default=None, ge=1)
    """Text of a domain that is kept for training, in bytes. None: all of it."""
    validation_tokens: int = Field(default=8192, ge=1)
    """Scored tokens of each validation set, rounded down to whole blocks."""
    held_out: float = Field(default=0.1, gt=0, lt=1)
    """Share of a domain's documents that is kept from training, for its validation set."""
    min_domain_bytes: int = Field(default=800_000, ge=0)
    """Training text below which a domain of the environment is dropped, in bytes."""
    min_domains: int = Field(default=4, ge=1)
    """Domains that must be left when some are dropped."""
    seed: int = 0
    """Order of the training documents, and which of them `max_train_bytes` keeps."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        for name in (*self.domains, *self.validation):
            if not name or name in (".", ".."):
                raise ValueError(f"{name!r} cannot be the name of a domain or validation set")
        for name, source in self.validation.items():
            if name in self.domains:
                raise ValueError(
                    f"validation.{name}: the domain {name!r} has a set of this name already"
                )
            if source.validation_split is not None:
                raise ValueError(
                    f"validation.{name}.validation_split belongs to domains; set split here"
                )
        if self.validation_tokens < self.block_size:
            raise ValueError(
                f"validation_tokens ({self.validation_tokens}) is less than one block of "
                f"block_size ({self.block_size}) tokens; raise it"
            )
        return self

    @property
    def validation_blocks(self) -> int:
        """Blocks of each validation set."""
        return self.validation_tokens // self.block_size


class CorpusChangedError(CorpusError):
    """A finished corpus stands in the folder, from another definition or other sources."""

    def __init__(self, folder: Path, changes: list[str]) -> None:
        self.folder = folder
        self.changes = changes
        more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
        super().__init__(
            f"{folder} was built from something else: {'; '.join(changes[:3])}{more}. Undo this, "
            "or start afresh in another folder (or delete this one)"
        )


def describe(config: CorpusConfig) -> dict[str, str]:
    """What a corpus would be made from now: fields of the definition and state of the sources.

    Reads no text: package versions, names and sizes of files.

    Raises:
        CorpusError: a local file is missing.
    """
    made_from = {
        "packing": PACKING,
        "order of domains": ", ".join(config.domains),
        **_flat("", config.model_dump(mode="json", exclude_defaults=True)),
    }
    for field, source in _sources(config):
        made_from |= sources.inventory(field, source)
    return made_from


def fingerprint(config: CorpusConfig) -> str:
    """Hash of `describe`: equal as long as `prepare` would build the same corpus."""
    return _hash(describe(config))


def prepare(config: CorpusConfig, folder: Path, *, progress: Progress = lambda _: None) -> Corpus:
    """Builds a corpus in a folder, or reads it when it is finished.

    A folder has one builder at a time; others wait and read. A builder that was killed leaves
    nothing that is taken for a corpus.

    Args:
        config: what to build.
        folder: where; its parents are created.
        progress: called with short lines such as `python: 437 files, 8.3 MB`.

    Raises:
        CorpusChangedError: the folder holds a corpus of another definition or other sources.
        CorpusError: a source cannot be read, or holds too little text.
    """
    from filelock import FileLock

    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        made_from = describe(config)
        if (folder / blocks.CORPUS_FILE).exists():
            corpus = Corpus.load(folder)
            if corpus.made_from != made_from:
                raise CorpusChangedError(folder, _changes(corpus.made_from, made_from))
            return corpus
        if folder.exists() and any(folder.iterdir()):
            raise CorpusError(f"{folder} holds other files; take an empty or new folder")
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        _build(config, partial, made_from, progress)
        os.replace(partial, folder)
    return Corpus.load(folder)


def _sources(config: CorpusConfig) -> Iterator[tuple[str, DomainSource]]:
    for name, source in config.domains.items():
        yield f"domains.{name}", source
    for name, source in config.validation.items():
        yield f"validation.{name}", source


def _flat(prefix: str, value: Any) -> dict[str, str]:
    """Leaves of nested dicts and lists by their dotted path."""
    if isinstance(value, Mapping):
        flat: dict[str, str] = {}
        for key, child in value.items():
            flat |= _flat(f"{prefix}.{key}" if prefix else key, child)
        return flat
    return {prefix: json.dumps(value, ensure_ascii=False)}


def _hash(made_from: dict[str, str]) -> str:
    return digest("made from", json.dumps(made_from, sort_keys=True))


def _changes(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """Lines such as `scipy (docs): 1.17.1, 600 files, 12ab → 1.18.0, 607 files, 34cd`."""
    return [
        f"{key}: {old.get(key, 'absent')} → {new.get(key, 'absent')}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]


# -- building ------------------------------------------------------------------------------


@dataclass
class _Texts:
    """Documents of every domain and validation set, without copies."""

    train: dict[str, Chosen]
    validation: dict[str, Chosen]
    """By set; each domain has one of its name."""
    dropped: dict[str, str]


def _build(config: CorpusConfig, folder: Path, made_from: dict[str, str], say: Progress) -> None:
    texts = _gather(config, say)
    _drop_small_domains(config, texts, say)
    found = sum(chosen.num_bytes for chosen in texts.train.values())
    natural = {name: chosen.num_bytes / found for name, chosen in texts.train.items()}
    kept = {
        name: first_bytes(shuffled(chosen, config.seed), config.max_train_bytes)
        for name, chosen in texts.train.items()
    }
    tokens = _Tokens(config, folder, tokenizer.build(config.tokenizer, _sample(config, kept)))
    say(f"tokenizer: {config.tokenizer.type}, {tokens.vocab_size:,} tokens")
    domains = {
        name: tokens.write_domain(name, chosen, natural[name]) for name, chosen in kept.items()
    }
    sets = _write_sets(config, texts, tokens, say)
    total = sum(info.tokens for info in domains.values())
    say(
        f"packed {len(domains)} domains, {total / 1e6:.1f} M tokens, and {len(sets)} validation "
        f"sets of {tokens.validation_tokens:,} tokens"
    )
    trained_on = [part for name in sorted(domains) for part in (name, domains[name].fingerprint)]
    blocks.write_corpus(
        Corpus(
            folder=folder,
            fingerprint=digest(tokens.fingerprint, str(config.block_size), *trained_on),
            tokenizer_fingerprint=tokens.fingerprint,
            vocab_size=tokens.vocab_size,
            block_size=config.block_size,
            domains=domains,
            sets=sets,
            dropped=texts.dropped,
            source=_hash(made_from),
            made_from=made_from,
        )
    )


def _gather(config: CorpusConfig, say: Progress) -> _Texts:
    """Reads all sources. Of copies the first stays: domains in their order, then the sets."""
    seen: set[bytes] = set()
    texts = _Texts({}, {}, {})

    def read(field: str, name: str, source: DomainSource, split: str | None = None) -> Chosen:
        documents = sources.read(field, source, split=split)
        chosen = without_copies(documents, seen)
        copies = len(documents.texts) - len(chosen.indices)
        kind = "documents" if source.environment is None else "files"
        note = f" ({copies:,} copies left out)" if copies else ""
        say(f"{name}: {len(chosen.indices):,} {kind}, {_megabytes(chosen.num_bytes)}{note}")
        return chosen

    for name, source in config.domains.items():
        texts.train[name] = read(f"domains.{name}", name, source)
    for name, source in config.domains.items():
        if source.validation_split is None:
            parts = split(texts.train[name], config.held_out)
            texts.train[name], texts.validation[name] = parts
        else:
            label = f"{name} ({source.validation_split})"
            texts.validation[name] = read(
                f"domains.{name}.validation_split", label, source, source.validation_split
            )
    for name, source in config.validation.items():
        texts.validation[name] = read(f"validation.{name}", name, source)
    return texts


def _drop_small_domains(config: CorpusConfig, texts: _Texts, say: Progress) -> None:
    for name, source in config.domains.items():
        size = texts.train[name].num_bytes
        if source.environment is None:
            if size == 0:
                raise CorpusError(
                    f"domains.{name}: no training text is left after copies and held-out "
                    "documents are taken away; give more documents"
                )
        elif size < config.min_domain_bytes:
            reason = (
                f"{_megabytes(size)} of training text in this environment, less than "
                f"{_megabytes(config.min_domain_bytes)}"
            )
            texts.dropped[name] = reason
            say(f"{name} is left out: {reason}")
            del texts.train[name], texts.validation[name]
    if texts.dropped and len(texts.train) < config.min_domains:
        raise CorpusError(
            f"domains: only {', '.join(texts.train) or 'none'} hold enough text in this "
            f"environment, and {config.min_domains} domains are needed; install the packages "
            "that hold the others, or lower min_domain_bytes or min_domains"
        )


def _sample(config: CorpusConfig, kept: dict[str, Chosen]) -> Iterator[str]:
    """What the tokenizer is trained on: the same amount of every domain."""
    for chosen in kept.values():
        yield from first_bytes(chosen, config.tokenizer.train_bytes).texts()


def _write_sets(
    config: CorpusConfig, texts: _Texts, tokens: _Tokens, say: Progress
) -> dict[str, SetInfo]:
    sets = {}
    for name, chosen in texts.validation.items():
        domain = name if name in texts.train else None
        field = f"domains.{name}" if domain else f"validation.{name}"
        info, available = tokens.write_set(name, domain, chosen)
        if info is not None:
            sets[name] = info
            continue
        reason = (
            f"its {'held-out ' if domain else ''}text gives {available:,} tokens, and "
            f"validation_tokens asks for {tokens.validation_tokens:,}"
        )
        if domain is None and config.validation[name].environment is not None:
            texts.dropped[name] = reason
            say(f"{name} is left out: {reason}")
        else:
            mend = "give more text, raise held_out" if domain else "give more text"
            raise CorpusError(f"{field}: {reason}; {mend} or lower validation_tokens")
    return sets


class _Tokens:
    """Turns texts into the blocks of one corpus folder."""

    def __init__(self, config: CorpusConfig, folder: Path, encoder: Tokenizer) -> None:
        encoder.save(str(folder / blocks.TOKENIZER_FILE))
        end_of_text = encoder.token_to_id(config.tokenizer.end_of_text)
        assert end_of_text is not None
        self.folder = folder
        self.encoder = encoder
        self.end_of_text = end_of_text
        self.block_size = config.block_size
        self.validation_tokens = config.validation_blocks * config.block_size
        self.fingerprint = tokenizer.fingerprint(encoder)
        self.vocab_size = tokenizer.vocabulary_size(encoder)

    def write_domain(self, name: str, chosen: Chosen, natural: float) -> DomainInfo:
        """Packs a domain's training text."""
        stream = blocks.encode_train(self.encoder, chosen.texts(), self.end_of_text)
        packed = blocks.pack(stream, self.block_size)
        if len(packed) == 0:
            raise CorpusError(
                f"domains.{name}: its {len(stream):,} training tokens do not fill one block of "
                f"block_size {self.block_size}; give more text or lower block_size"
            )
        blocks.write_blocks(packed, self.folder, blocks.TRAIN, name)
        return DomainInfo(
            name=name,
            tokens=len(packed) * self.block_size,
            bytes=chosen.num_bytes,
            blocks=len(packed),
            natural=natural,
            fingerprint=digest(self.fingerprint, blocks.blocks_fingerprint(packed)),
        )

    def write_set(
        self, name: str, domain: str | None, chosen: Chosen
    ) -> tuple[SetInfo | None, int]:
        """Packs a validation set; None, and the tokens there are, when they are too few."""
        stream, size = self._excerpts(shuffled(chosen, seed=0))
        if len(stream) <= self.validation_tokens:
            return None, len(stream) - 1
        packed = blocks.pack(stream, self.block_size)
        blocks.write_blocks(packed, self.folder, blocks.VALIDATION, name)
        info = SetInfo(
            name=name,
            domain=domain,
            tokens=len(packed) * self.block_size,
            bytes=size,
            blocks=len(packed),
            fingerprint=digest(self.fingerprint, blocks.blocks_fingerprint(packed)),
        )
        return info, info.tokens

    def _excerpts(self, chosen: Chosen) -> tuple[np.ndarray, int]:
        """Stream of excerpts of many documents; of longer ones where there are few."""
        limit = max(int(self.validation_tokens * MAX_EXCERPT), self.block_size)
        while True:
            parts = (excerpt(text, limit) for text in chosen.texts())
            stream, size = blocks.encode_validation(
                self.encoder, parts, self.end_of_text, self.validation_tokens
            )
            if len(stream) > self.validation_tokens or limit >= max(chosen.sizes, default=0):
                return stream, size
            limit *= 2


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
