"""One pass over the sources of a corpus, into an empty folder.

gather      read every source; of copies the first stays
drop        domains of the environment that hold too little text
tokenizer   trained on the same amount of every domain, or loaded
pack        training text, cut to size; excerpts of validation text
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from optuna_mde_trainers.corpus import blocks, sources, tokenizer
from optuna_mde_trainers.corpus.blocks import Corpus, DomainInfo, SetInfo
from optuna_mde_trainers.corpus.documents import (
    Chosen,
    CorpusError,
    digest,
    excerpt,
    first_bytes,
    shuffled,
    split,
    without_copies,
)
from optuna_mde_trainers.corpus.prompts import examples
from optuna_mde_trainers.corpus.prompts import tokens as prompts

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from optuna_mde_trainers.corpus.config import CorpusConfig
    from optuna_mde_trainers.corpus.prompts.source import TaskSource
    from optuna_mde_trainers.corpus.sources import DomainSource
    from tokenizers import Tokenizer

# Characters of one document in a validation set, per token of the set: 20 documents or more
# share a set, else one long file could be the whole of it.
MAX_EXCERPT = 1 / 8
Progress = Callable[[str], None]


def source_fingerprint(made_from: dict[str, str]) -> str:
    """Hash of a description of definition and sources."""
    return digest("made from", json.dumps(made_from, sort_keys=True))


@dataclass
class _Texts:
    """Documents of every domain and validation set, without copies."""

    train: dict[str, Chosen]
    validation: dict[str, Chosen]
    """By set; each domain has one of its name."""
    dropped: dict[str, str]


def build(config: CorpusConfig, folder: Path, made_from: dict[str, str], say: Progress) -> None:
    """Fills an empty folder with a corpus.

    Args:
        config: what to build.
        folder: where.
        made_from: description of definition and sources, kept with the corpus.
        say: called with short lines of progress.

    Raises:
        CorpusError: a source cannot be read, or holds too little text.
    """
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
    for name, task in config.tasks.items():
        sets[name] = tokens.write_task(name, task, say)
    total = sum(info.tokens for info in domains.values())
    say(
        f"packed {len(domains)} domains, {total / 1e6:.1f} M tokens, and "
        f"{len(sets) - len(config.tasks)} validation "
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
            source=source_fingerprint(made_from),
            made_from=made_from,
            end_of_text=tokens.end_of_text,
        )
    )


def _gather(config: CorpusConfig, say: Progress) -> _Texts:
    """Reads all sources. Of copies the first stays: domains in their order, then the sets."""
    seen: set[bytes] = set()
    texts = _Texts({}, {}, {})

    def read(field: str, name: str, source: DomainSource, split: str | None = None) -> Chosen:
        documents = sources.read(field, source, split=split)
        chosen = without_copies(documents, seen)
        others = len(documents.texts) - len(chosen.indices)
        kind = "documents" if source.environment is None else "files"
        note = f" ({others:,} copies or blank ones left out)" if others else ""
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

    def write_task(self, name: str, task: TaskSource, say: Progress) -> SetInfo:
        """Tokens of a prompt/target set."""
        field = f"tasks.{name}"
        rows = prompts.encode(
            field,
            examples.read(field, task),
            self.encoder,
            end_of_text=self.end_of_text,
            block_size=self.block_size,
        )
        prompts.write(rows, blocks.set_folder(self.folder, blocks.TASKS, name))
        cut = f", {rows.cut:,} prompts cut to block_size" if rows.cut else ""
        say(f"{name}: {rows.examples:,} examples, {rows.tokens:,} target tokens{cut}")
        return SetInfo(
            name=name,
            domain=None,
            tokens=rows.tokens,
            bytes=rows.bytes,
            blocks=rows.examples,
            fingerprint=digest(self.fingerprint, rows.fingerprint),
            kind="prompts",
        )

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
