"""Which documents of which sources make a corpus: arrays of keys and sizes, no text yet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from optuna_mde_trainers.corpus import scanning, selection, tokenizer
from optuna_mde_trainers.corpus.documents import CorpusError
from optuna_mde_trainers.corpus.progress import Say, megabytes
from optuna_mde_trainers.corpus.scanning import Group, Index
from optuna_mde_trainers.corpus.selection import Chosen
from optuna_mde_trainers.corpus.streaming import Enough

if TYPE_CHECKING:
    from optuna_mde_trainers.corpus.config import CorpusConfig
    from optuna_mde_trainers.corpus.processes import Workers
    from optuna_mde_trainers.corpus.sources import DomainSource

SHARE_MARGIN = 1.02  # tokens a byte differ between documents: text enough for a share's blocks


@dataclass
class _Part:
    """What one source gives to one domain or validation set."""

    place: str
    name: str
    source: DomainSource
    split: str
    group: Group


@dataclass
class Choice:
    """Documents of every domain and validation set, without copies."""

    train: dict[str, Chosen] = field(default_factory=dict)
    validation: dict[str, Chosen] = field(default_factory=dict)
    """By set; each domain has one of its name."""
    dropped: dict[str, str] = field(default_factory=dict)


class Sources:
    """The sources of a corpus, and what one pass over each group of their files finds.

    Args:
        config: the corpus.
        say: called with lines of progress.
        share: of each domain's whole source that is kept. None: all, up to `max_train_bytes`.
        tokenizer_file: tokenizer of sources of token ids, named by its fingerprint.
    """

    def __init__(
        self, config: CorpusConfig, say: Say, share: float | None, tokenizer_file: Path | None
    ) -> None:
        self.config, self.say, self.share = config, say, share
        self.tokenizer_file = tokenizer_file
        self.parts = list(self._parts())
        self.groups = scanning.joined(part.group for part in self.parts)
        self.indices: dict[int, Index] = {}
        for part in self.parts:
            part.group = next(group for group in self.groups if part.place in group.fields)

    def read(self, work: Path, workers: Workers) -> None:
        """Makes the index of every group, or finds it in the cache."""
        for group in self.groups:
            self.indices[id(group)] = self._index(group, work, workers)

    def index(self, group: Group) -> Index:
        """What the pass over a group has found."""
        return self.indices[id(group)]

    def group(self, name: str, role: str) -> Group:
        """The group whose rows a domain's training text, or a set's text, are."""
        places = [f"validation.{name}", f"domains.{name}.validation_split"]
        wanted = places if role == "validation" else []
        for place in (*wanted, f"domains.{name}"):
            for part in self.parts:
                if part.place == place:
                    return part.group
        raise KeyError(name)

    def _parts(self) -> Iterator[_Part]:
        for name, source in self.config.domains.items():
            yield self._part(f"domains.{name}", name, source, source.split)
            if source.validation_split is not None:
                place = f"domains.{name}.validation_split"
                yield self._part(place, name, source, source.validation_split)
        for name, source in self.config.validation.items():
            yield self._part(f"validation.{name}", name, source, source.split)

    def _part(self, place: str, name: str, source: DomainSource, split: str) -> _Part:
        print_, end = "", None
        if source.holds_ids:
            assert self.tokenizer_file is not None
            print_ = self.tokenizer_file.stem
            end = tokenizer.loaded(str(self.tokenizer_file)).token_to_id(
                self.config.tokenizer.end_of_text
            )
        group = scanning.group_of(place, source, split, end_of_text=end, tokenizer=print_)
        if source.streaming:
            group.until = self._until(name, source)
        return _Part(place, name, source, split, group)

    def _until(self, name: str, source: DomainSource) -> str:
        """What decides where a streamed source's reading stops."""
        config = self.config
        return json.dumps(
            [name, source.filter, config.max_train_bytes, config.held_out,
             config.validation_tokens, source.validation_split is None]
        )  # fmt: skip

    def _index(self, group: Group, work: Path, workers: Workers) -> Index:
        place = work / "index" / group.identity
        enough = None
        if group.until:
            members = [part for part in self.parts if part.place in group.fields]
            enough = Enough(
                self.config, [(part.source, part.place.startswith("domains.")) for part in members]
            )
        return scanning.index(
            group,
            place,
            workers,
            self.say,
            tokenizer_file=self.tokenizer_file,
            enough=enough,
        )

    def choose(self) -> Choice:
        """Of copies the first stays: domains in their order, then the sets."""
        choice = Choice()
        seen = np.zeros(0, np.uint64)
        later: list[_Part] = []
        for part in self.parts:
            if part.place != f"domains.{part.name}":
                later.append(part)
                continue
            choice.train[part.name], seen = self._read(part, seen)
        for name, source in self.config.domains.items():
            if source.validation_split is None:
                parts = selection.split(choice.train[name], self.config.held_out)
                choice.train[name], choice.validation[name] = parts
            else:
                choice.validation[name] = choice.train[name].take(np.zeros(0, np.int64))
        for part in later:
            choice.validation[part.name], seen = self._read(part, seen)
        return choice

    def _read(self, part: _Part, seen: np.ndarray) -> tuple[Chosen, np.ndarray]:
        found = self.indices[id(part.group)].chosen(part.source, part.split)
        chosen, seen = selection.without_copies(found, seen)
        others = len(found) - len(chosen)
        kind = "documents" if part.source.environment is None else "files"
        note = f" ({others:,} copies or blank ones left out)" if others else ""
        name = part.name
        if part.place.endswith(".validation_split"):
            name = f"{name} ({part.split})"
        self.say(f"{name}: {len(chosen):,} {kind}, {megabytes(chosen.num_bytes)}{note}")
        if not len(found) and part.source.filter:
            self._explain_filter(part)
        return chosen, seen

    def _explain_filter(self, part: _Part) -> None:
        values = self.indices[id(part.group)].values
        shown = "; ".join(
            f"{column} is " + (", ".join(filter(None, values[column][:12])) or "in no row")
            for column in part.source.filter or ()
        )
        raise CorpusError(f"{part.place}.filter: lets no row through; {shown}")

    def drop_small_domains(self, choice: Choice) -> None:
        config = self.config
        for name, source in config.domains.items():
            size = choice.train[name].num_bytes
            if source.environment is None:
                if size == 0:
                    raise CorpusError(f"domains.{name}: {self._why_empty(name, choice)}")
            elif size < config.min_domain_bytes:
                reason = (
                    f"{megabytes(size)} of training text in this environment, less than "
                    f"{megabytes(config.min_domain_bytes)}"
                )
                choice.dropped[name] = reason
                self.say(f"{name} is left out: {reason}")
                del choice.train[name], choice.validation[name]
        if choice.dropped and len(choice.train) < config.min_domains:
            raise CorpusError(
                f"domains: only {', '.join(choice.train) or 'none'} hold enough text in this "
                f"environment, and {config.min_domains} domains are needed; install the packages "
                "that hold the others, or lower min_domain_bytes or min_domains"
            )

    def _why_empty(self, name: str, choice: Choice) -> str:
        if not self._of_domain(name).sizes.any():
            return "its files hold no text; give documents"
        if len(choice.validation[name]) == 1:
            return (
                "its only document is held out; split its text into documents, or give a "
                "validation_split"
            )
        return (
            "no training text is left after copies and held-out documents are taken away; give "
            "more documents"
        )

    def found_bytes(self, name: str, chosen: Chosen) -> float:
        """Bytes of the whole source; estimated from the share of its files that was read."""
        return chosen.num_bytes / self._of_domain(name).read

    def _of_domain(self, name: str) -> Index:
        part = next(part for part in self.parts if part.place == f"domains.{name}")
        return self.indices[id(part.group)]

    def kept(self, name: str, chosen: Chosen) -> Chosen:
        chosen = selection.shuffled(chosen, self.config.seed)
        limit: float | None = self.config.max_train_bytes
        if self.share is not None:
            wanted = self.share * self.found_bytes(name, chosen)
            if limit is not None and wanted > limit:
                raise CorpusError(
                    f"domains.{name}: repetition: matched takes {megabytes(wanted)} of its text, "
                    f"and max_train_bytes keeps {megabytes(limit)}; raise max_train_bytes"
                )
            limit = wanted * SHARE_MARGIN
        kept = selection.first_bytes(chosen, limit)
        if limit is not None and len(kept) == 1 and kept.num_bytes > 2 * limit:
            self.say(
                f"{name}: one document of {megabytes(kept.num_bytes)} is more than the "
                f"{megabytes(limit)} that are kept, and stays whole"
            )
        return kept
