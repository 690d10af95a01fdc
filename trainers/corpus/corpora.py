"""A corpus: training domains and validation sets, from their sources to blocks on disk.

`prepare` reads the sources, removes copies over all of them, holds documents out, trains or
loads the tokenizer, and writes the folder that `optuna_mde_trainers.corpus.blocks.Corpus` reads.
What holds in a finished folder is content: a file that was touched or moved is the same.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from optuna_mde_trainers.corpus import blocks, identity
from optuna_mde_trainers.corpus.blocks import Corpus
from optuna_mde_trainers.corpus.building import build, source_fingerprint
from optuna_mde_trainers.corpus.config import CorpusConfig
from optuna_mde_trainers.corpus.documents import CorpusError
from optuna_mde_trainers.corpus.extending import extend, known_part, new_part
from optuna_mde_trainers.corpus.sources import DomainSource
from optuna_mde_trainers.corpus.tokenizer import TokenizerConfig

__all__ = [
    "CorpusChangedError",
    "CorpusConfig",
    "CorpusError",
    "DomainSource",
    "TokenizerConfig",
    "add_sets",
    "describe",
    "fingerprint",
    "inventory",
    "prepare",
]


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


def describe(config: CorpusConfig, *, share: float | None = None) -> dict[str, str]:
    """The definition that a corpus would be built from, by dotted field."""
    described = {
        "order of domains": ", ".join(config.domains),
        **_flat("", config.model_dump(mode="json", exclude_defaults=True)),
    }
    if share is not None:
        described["share of the source"] = repr(share)
    return described


def inventory(config: CorpusConfig) -> dict[str, str]:
    """What the sources hold now: file or package -> size or version, and hash of the content.

    Raises:
        CorpusError: a local file is missing.
    """
    held: dict[str, str] = {}
    for place, source in _sources(config):
        held |= identity.inventory(place, source)
    return held


def fingerprint(config: CorpusConfig) -> str:
    """Hash of definition and sources: equal as long as `prepare` would build the same corpus."""
    return source_fingerprint(describe(config), inventory(config))


def prepare(
    config: CorpusConfig,
    folder: Path,
    *,
    progress: Callable[[str], None] = lambda _: None,
    processes: int | None = None,
    share: float | None = None,
) -> Corpus:
    """Builds a corpus in a folder, or reads it when it is finished.

    A folder has one builder at a time; others wait and read. A builder that was killed leaves
    nothing that is taken for a corpus, and its work in the cache, from which the next goes on. A
    finished folder is complete: it is read though its sources are gone, but not when they are
    there and hold something else. Validation sets and end tasks may be added to it, and those that
    are not asked for any more stay.

    Args:
        config: what to build.
        folder: where; its parents are created.
        progress: called with short lines such as `python: 437 files, 8.3 MB`.
        processes: that parse and encode text. None: as many as there are usable cores.
        share: of every domain's whole source that is kept: tokens of a proxy / tokens of the run
            that it stands for, so that both repeat a domain as often (arXiv 2606.07597). None: all
            of it, up to `max_train_bytes`.

    Raises:
        CorpusChangedError: the folder holds a corpus of another definition or other sources.
        CorpusError: a source cannot be read, or holds too little text.
    """
    from filelock import FileLock

    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if (folder / blocks.CORPUS_FILE).exists():
            corpus = Corpus.load(folder)
            found = changes(corpus, config, share=share)
            if found:
                raise CorpusChangedError(folder, found)
            return _extended(corpus, config, progress, processes)
        made_from = describe(config, share=share)
        if folder.exists() and any(folder.iterdir()):
            raise CorpusError(f"{folder} holds other files; take an empty or new folder")
        held = inventory(config)
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        build(config, partial, made_from, held, progress, processes=processes, share=share)
        check_unchanged(config, held)
        os.replace(partial, folder)
    return Corpus.load(folder)


def add_sets(
    config: CorpusConfig, folder: Path, *, progress: Callable[[str], None] = lambda _: None
) -> Corpus:
    """Adds sets to a finished corpus, whatever its training sources hold by now.

    Args:
        config: names the sets and their size; of its tokenizer only the end of text counts, unless
            a set holds token ids.
        folder: of the corpus.
        progress: called with short lines.

    Raises:
        CorpusChangedError: the corpus holds another set of one of the names.
        CorpusError: there is no corpus, or a source cannot be read or holds too little text.
    """
    from filelock import FileLock

    with FileLock(folder.with_name(f"{folder.name}.lock")):
        corpus = Corpus.load(folder)
        known = known_part(config, corpus).model_copy(update={"domains": {}})
        was = {k: v for k, v in corpus.made_from.items() if _is_of_set(k)}
        now = {k: v for k, v in describe(known).items() if _is_of_set(k)}
        changes = _changes(_without_other_sets(was, known), now)
        changes = changes or _changed_sources(corpus, known)
        if changes:
            raise CorpusChangedError(folder, changes)
        return _extended(corpus, config, progress, None)


def _extended(
    corpus: Corpus,
    config: CorpusConfig,
    progress: Callable[[str], None],
    processes: int | None,
) -> Corpus:
    """The corpus with the sets that the definition has beyond it."""
    sets = new_part(config, corpus)
    if sets is None:
        return corpus
    described = {key: value for key, value in describe(sets).items() if _is_of_set(key)}
    held = inventory(sets)
    return extend(corpus, sets, described, held, progress, processes)


def _without_other_sets(made_from: dict[str, str], config: CorpusConfig) -> dict[str, str]:
    """What a corpus was made from, without sets that the definition does not name."""
    named = [f"validation.{name}." for name in config.validation]
    named += [f"tasks.{name}." for name in config.tasks]
    return {
        key: value
        for key, value in made_from.items()
        if not _is_of_set(key) or key.startswith(tuple(named))
    }


def _is_of_set(key: str) -> bool:
    return key.startswith(("validation.", "tasks."))


def check_unchanged(config: CorpusConfig, held: Mapping[str, str]) -> None:
    """Refuse a corpus whose files changed while they were read.

    Raises:
        CorpusError: if one did.
    """
    if any(identity.content(file) != held.get(file) for file in _local_files(config)):
        raise CorpusError("files changed while they were read; prepare the corpus again")


def changes(corpus: Corpus, config: CorpusConfig, *, share: float | None = None) -> list[str]:
    """What a definition, and what its sources hold now, say otherwise than the corpus; sets that
    only one of them has are no difference."""
    known = known_part(config, corpus)
    was = _without_other_sets(corpus.made_from, known)
    return _changes(was, describe(known, share=share)) or _changed_sources(corpus, known)


def _local_files(config: CorpusConfig) -> Iterator[str]:
    for place, source in _sources(config):
        if source.environment is None:
            yield from identity.inventory(place, source)


def _changed_sources(corpus: Corpus, config: CorpusConfig) -> list[str]:
    """What a source holds now and did not hold then; what is gone is no change."""
    now: dict[str, str] = {}
    for place, source in _sources(config):
        try:
            now |= identity.inventory(place, source)
        except CorpusError:  # some of its files are gone
            continue
    now = {file: _as_kept(corpus.held.get(file, ""), content) for file, content in now.items()}
    return _changes({file: corpus.held.get(file, "absent") for file in now}, now)


def _as_kept(kept: str, content: str) -> str:
    """Corpora of 0.1.0 know the size of a file alone."""
    return kept if kept.endswith(" bytes") and content.startswith(f"{kept},") else content


def _sources(config: CorpusConfig) -> Iterator[tuple[str, DomainSource]]:
    for name, source in config.domains.items():
        yield f"domains.{name}", source
    for name, source in config.validation.items():
        yield f"validation.{name}", source
    for name, task in config.tasks.items():
        yield f"tasks.{name}", task.text_source


def _flat(prefix: str, value: Any) -> dict[str, str]:
    """Leaves of nested dicts and lists by their dotted path."""
    if isinstance(value, Mapping):
        flat: dict[str, str] = {}
        for key, child in value.items():
            flat |= _flat(f"{prefix}.{key}" if prefix else key, child)
        return flat
    return {prefix: json.dumps(value, ensure_ascii=False)}


def _changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Lines such as `scipy (docs): 1.17.1, 600 files, 12ab → 1.18.0, 607 files, 34cd`."""
    return [
        f"{key}: {old.get(key, 'absent')} → {new.get(key, 'absent')}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]
