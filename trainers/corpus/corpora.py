"""A corpus: training domains and validation sets, from their sources to blocks on disk.

`prepare` reads the sources, removes copies over all of them, holds documents out, trains or
loads the tokenizer, and writes the folder that `optuna_mde_trainers.corpus.blocks.Corpus` reads.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from optuna_mde_trainers.corpus import blocks, sources
from optuna_mde_trainers.corpus.blocks import Corpus
from optuna_mde_trainers.corpus.building import build, source_fingerprint
from optuna_mde_trainers.corpus.config import CorpusConfig
from optuna_mde_trainers.corpus.documents import CorpusError
from optuna_mde_trainers.corpus.sources import DomainSource
from optuna_mde_trainers.corpus.tokenizer import TokenizerConfig

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
    return source_fingerprint(describe(config))


def prepare(
    config: CorpusConfig, folder: Path, *, progress: Callable[[str], None] = lambda _: None
) -> Corpus:
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
        build(config, partial, made_from, progress)
        os.replace(partial, folder)
    return Corpus.load(folder)


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


def _changes(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """Lines such as `scipy (docs): 1.17.1, 600 files, 12ab → 1.18.0, 607 files, 34cd`."""
    return [
        f"{key}: {old.get(key, 'absent')} → {new.get(key, 'absent')}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]
