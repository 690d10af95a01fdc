"""From sources to a corpus folder.

index       one pass over each group of files: keys and sizes of all documents, no text
choose      copies go, documents are held out, ordered and cut to size: arrays only
tokenizer   trained on the same amount of every domain, or loaded
tokens      a second pass encodes what was chosen, in several processes
pack        training documents in their order; excerpts of validation documents

Index and tokens are stores in a cache that corpora share, which go on after a kill.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna_mde_trainers.corpus import blocks, cache, selection, tokenizer
from optuna_mde_trainers.corpus.blocks import Corpus, DomainInfo, SetInfo
from optuna_mde_trainers.corpus.choosing import Choice, Sources
from optuna_mde_trainers.corpus.documents import CorpusError, digest, first_characters
from optuna_mde_trainers.corpus.encoding import Tokens, encoder, kept_texts, tokens
from optuna_mde_trainers.corpus.near import MAX_TOKENS, HeldOut
from optuna_mde_trainers.corpus.packing import BlockWriter, gathered
from optuna_mde_trainers.corpus.processes import Workers
from optuna_mde_trainers.corpus.progress import Say
from optuna_mde_trainers.corpus.prompts import examples
from optuna_mde_trainers.corpus.prompts import tokens as prompts
from optuna_mde_trainers.corpus.reading.chunks import collected
from optuna_mde_trainers.corpus.selection import Chosen
from optuna_mde_trainers.corpus.validation import Pool, SetWriter, pool_of

if TYPE_CHECKING:
    from optuna_mde_trainers.corpus.config import CorpusConfig
    from optuna_mde_trainers.corpus.prompts.source import TaskSource

Part = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Training text: tokens `[T]`, where documents begin and how long they are, `[n]`."""

COMPARED = 8 * MAX_TOKENS  # characters of a held-out document that are looked at for near-copies


def source_fingerprint(made_from: dict[str, str], held: dict[str, str]) -> str:
    """Hash of a definition and of what its sources hold."""
    return digest("made from", json.dumps([made_from, held], sort_keys=True))


def build(
    config: CorpusConfig,
    folder: Path,
    made_from: dict[str, str],
    held: dict[str, str],
    say: Say,
    *,
    processes: int | None,
    share: float | None,
    beside: Iterable[Part] = (),
    own_sets: bool = True,
) -> None:
    """Fills an empty folder with a corpus.

    Args:
        config: what to build.
        folder: where.
        made_from: the definition in words, kept with the corpus.
        held: what its sources hold, in words.
        say: called with short lines of progress.
        processes: that parse and encode. None: as many as there are usable cores.
        share: of each domain's whole source that is kept. None: all, up to `max_train_bytes`.
        beside: further training text, near-duplicates of which no set may hold.
        own_sets: whether what is held out of the domains becomes sets.

    Raises:
        CorpusError: a source cannot be read, or holds too little text.
    """
    work = cache.folder()
    if not cache.is_writable(work):
        say(f"{work} cannot be written: what is read and tokenised is not kept for other studies")
        work = folder / ".work"
    try:
        with Workers(processes) as workers:
            builder = _Builder(config, folder, work, workers, say, share)
            builder.build(made_from, held, beside, own_sets)
    finally:
        collected.cache_clear()
    shutil.rmtree(folder / ".work", ignore_errors=True)


class _Builder:
    def __init__(
        self,
        config: CorpusConfig,
        folder: Path,
        work: Path,
        workers: Workers,
        say: Say,
        share: float | None,
    ) -> None:
        self.config, self.folder, self.work = config, folder, work
        self.workers, self.say, self.share = workers, say, share
        self.tokenizer_file: Path | None = None
        if config.tokenizer.type != "bpe":  # known without any text; token ids need it to be read
            self._keep_tokenizer(tokenizer.build(config.tokenizer, []))
        self.sources = Sources(config, say, share, self.tokenizer_file)

    def _keep_tokenizer(self, made: Any) -> None:
        print_ = tokenizer.fingerprint(made)
        self.tokenizer_file = self.work / "tokenizers" / f"{print_}.json"
        if not self.tokenizer_file.exists():
            cache.write_whole(self.tokenizer_file, made.to_str())

    @property
    def encoder_file(self) -> Path:
        assert self.tokenizer_file is not None
        return self.tokenizer_file

    # -- the steps ---------------------------------------------------------------------------

    def build(
        self,
        made_from: dict[str, str],
        held: dict[str, str],
        beside: Iterable[Part],
        own_sets: bool,
    ) -> None:
        config, say = self.config, self.say
        self.sources.read(self.work, self.workers)
        choice = self.sources.choose()
        self.sources.drop_small_domains(choice)
        found = {n: self.sources.found_bytes(n, chosen) for n, chosen in choice.train.items()}
        natural = {name: size / math.fsum(found.values()) for name, size in found.items()}
        kept = {name: self.sources.kept(name, chosen) for name, chosen in choice.train.items()}
        pools = {
            name: pool_of(chosen, config.validation_tokens, config.block_size)
            for name, chosen in choice.validation.items()
            if own_sets or name not in choice.train
        }
        texts = self._texts(kept, pools)
        say(f"tokenizer: {config.tokenizer.type}, {self._vocab_size():,} tokens")
        self._write_tokenizer()
        stored = self._tokens(kept)
        held_out = self._held_out(pools, texts)
        domains = {
            name: self._write_domain(name, chosen, stored[name], natural[name], found, held_out)
            for name, chosen in kept.items()
        }
        if pools:
            for part in beside:
                held_out.see(*part)
        sets = self._write_sets(choice, pools, texts, held_out)
        total = sum(info.tokens for info in domains.values())
        say(
            f"packed {len(domains)} domains, {total / 1e6:.1f} M tokens, and {len(sets)} "
            f"validation sets of {config.validation_blocks * config.block_size:,} tokens"
        )
        for name, task in config.tasks.items():
            sets[name] = self._write_task(name, task)
        print_ = self.encoder_file.stem
        trained_on = [
            part for name in sorted(domains) for part in (name, domains[name].fingerprint)
        ]
        blocks.write_corpus(
            Corpus(
                folder=self.folder,
                fingerprint=digest(print_, str(config.block_size), *trained_on),
                tokenizer_fingerprint=print_,
                vocab_size=self._vocab_size(),
                block_size=config.block_size,
                domains=domains,
                sets=sets,
                dropped=choice.dropped,
                source=source_fingerprint(made_from, held),
                made_from=made_from,
                held=held,
                end_of_text=self._end_of_text(),
            )
        )

    # -- text and tokens ---------------------------------------------------------------------

    def _texts(self, kept: dict[str, Chosen], pools: dict[str, Pool]) -> dict[str, list[Any]]:
        """Texts of the validation pools; trains the tokenizer that needs text."""
        samples = {}
        if self.tokenizer_file is None:
            limit = self.config.tokenizer.train_bytes
            samples = {name: selection.first_bytes(c, limit) for name, c in kept.items()}
        asked: dict[int, list[np.ndarray]] = {}
        for name, chosen in samples.items():
            asked.setdefault(id(self.sources.group(name, "train")), []).append(chosen.rows)
        for name, pool in pools.items():
            asked.setdefault(id(self.sources.group(name, "validation")), []).append(
                pool.chosen.rows
            )
        held: dict[int, dict[int, Any]] = {}
        for group in self.sources.groups:
            if id(group) in asked:
                wanted = np.unique(np.concatenate(asked[id(group)]))
                found = kept_texts(
                    group, self.sources.index(group), wanted, self.work, self.workers, self.say
                )
                held[id(group)] = dict(zip(wanted.tolist(), found, strict=True))

        def of(name: str, role: str, chosen: Chosen) -> list[Any]:
            texts = held[id(self.sources.group(name, role))]
            return [texts[row] for row in chosen.rows.tolist()]

        if self.tokenizer_file is None:
            sample = (
                part
                for name, c in samples.items()
                for part in first_characters(of(name, "train", c), limit)
            )
            self._keep_tokenizer(tokenizer.build(self.config.tokenizer, sample))
        return {name: of(name, "validation", pool.chosen) for name, pool in pools.items()}

    def _tokens(self, kept: dict[str, Chosen]) -> dict[str, Tokens]:
        """Tokens of every domain's documents, by domain; those of a group in one pass."""
        stored: dict[str, Tokens] = {}
        for group in self.sources.groups:
            mine = [name for name in kept if self.sources.group(name, "train") is group]
            if mine:
                wanted = np.unique(np.concatenate([kept[name].rows for name in mine]))
                found = tokens(
                    group, self.sources.index(group), wanted, self.encoder_file, self.work,
                    self.workers, self.say,
                )  # fmt: skip
                stored |= dict.fromkeys(mine, found)
        return stored

    def _held_out(self, pools: dict[str, Pool], texts: dict[str, list[Any]]) -> HeldOut:
        """The documents that validation sets may take, to be compared with training text."""
        documents: list[np.ndarray] = []
        encode = encoder(str(self.encoder_file)).encode
        for name, pool in pools.items():
            pool.first = len(documents)
            if self.sources.group(name, "validation").scan.is_tokens:
                documents += texts[name]
                continue
            ids, lengths = encode([text[:COMPARED] for text in texts[name]])
            documents += np.split(ids, np.cumsum(lengths)[:-1]) if len(lengths) else []
        return HeldOut(documents)

    # -- writing -----------------------------------------------------------------------------

    def _write_tokenizer(self) -> None:
        shutil.copyfile(self.encoder_file, self.folder / blocks.TOKENIZER_FILE)

    def _vocab_size(self) -> int:
        return len(tokenizer.bytes_of_tokens(str(self.encoder_file)))

    def _end_of_text(self) -> int:
        name = self.config.tokenizer.end_of_text
        found = tokenizer.loaded(str(self.encoder_file)).token_to_id(name)
        assert found is not None
        return found

    def _write_domain(
        self,
        name: str,
        chosen: Chosen,
        stored: Tokens,
        natural: float,
        found: dict[str, float],
        held_out: HeldOut,
    ) -> DomainInfo:
        """Packs a domain's training text."""
        block_size, end = self.config.block_size, self._end_of_text()
        counted = int(stored.spans(chosen.rows)[1].sum()) + len(chosen)
        source_tokens = round(counted * found[name] / chosen.num_bytes)
        limit = None
        if self.share is not None:
            limit = math.ceil(source_tokens * self.share / block_size)
        writer = BlockWriter(
            self.folder, blocks.TRAIN, name,
            block_size=block_size, first=end, dtype=stored.dtype, limit=limit,
        )  # fmt: skip
        for stream, starts, lengths in gathered(stored, chosen.rows, end):
            writer.add(stream)
            held_out.see(stream, starts, lengths)
        fingerprint = writer.finish()
        if writer.blocks == 0:
            raise CorpusError(
                f"domains.{name}: its {writer.tokens + 1:,} training tokens do not fill one block "
                f"of block_size {block_size}; give more text or lower block_size"
            )
        return DomainInfo(
            name=name,
            tokens=writer.blocks * block_size,
            bytes=chosen.num_bytes,
            blocks=writer.blocks,
            natural=natural,
            fingerprint=digest(self.encoder_file.stem, fingerprint),
            source_bytes=round(found[name]),
            source_tokens=source_tokens,
        )

    def _write_task(self, name: str, task: TaskSource) -> SetInfo:
        """Tokens of a prompt/target set."""
        place = f"tasks.{name}"
        rows = prompts.encode(
            place,
            examples.read(place, task),
            tokenizer.loaded(str(self.encoder_file)),
            end_of_text=self._end_of_text(),
            block_size=self.config.block_size,
        )
        prompts.write(rows, blocks.set_folder(self.folder, blocks.TASKS, name))
        cut = f", {rows.cut:,} prompts cut to block_size" if rows.cut else ""
        self.say(f"{name}: {rows.examples:,} examples, {rows.tokens:,} target tokens{cut}")
        return SetInfo(
            name=name,
            domain=None,
            tokens=rows.tokens,
            bytes=rows.bytes,
            blocks=rows.examples,
            fingerprint=digest(self.encoder_file.stem, rows.fingerprint),
            kind="prompts",
        )

    def _write_sets(
        self,
        choice: Choice,
        pools: dict[str, Pool],
        texts: dict[str, list[Any]],
        held_out: HeldOut,
    ) -> dict[str, SetInfo]:
        writer = SetWriter(self.config, self.folder, self.encoder_file)
        sets = {}
        for name, pool in pools.items():
            domain = name if name in choice.train else None
            copies = held_out.copies[pool.first : pool.first + len(texts[name])]
            if copies.any():
                count = int(copies.sum())
                self.say(f"{name}: {count:,} near-duplicates of training text left out")
            left = [text for text, copy in zip(texts[name], copies, strict=True) if not copy]
            info, available = writer.write(name, domain, left)
            if info is not None:
                sets[name] = info
                continue
            reason = (
                f"its {'held-out ' if domain else ''}text gives {available:,} tokens, and "
                f"validation_tokens asks for {writer.num_tokens:,}"
            )
            place = f"domains.{name}" if domain else f"validation.{name}"
            if domain is None and self.config.validation[name].environment is not None:
                choice.dropped[name] = reason
                self.say(f"{name} is left out: {reason}")
            else:
                mend = "give more text, raise held_out" if domain else "give more text"
                mend += " or lower validation_tokens"
                if domain and len(choice.train[name]) == 1:
                    mend = (
                        "it is one document, of which nothing can be held out: split it (the end "
                        "of text ends a document of token ids) or give a validation_split"
                    )
                raise CorpusError(f"{place}: {reason}; {mend}")
        return sets
