"""Sets that a finished corpus gains: in its tokens, its training text untouched.

The new sets are built as a corpus of sets alone beside the folder, then moved into it; the corpus
file, written anew last, makes them known. A corpus that was killed on the way is as before.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna_mde_trainers.corpus import blocks
from optuna_mde_trainers.corpus.building import build, source_fingerprint
from optuna_mde_trainers.corpus.config import CorpusConfig
from optuna_mde_trainers.corpus.documents import CorpusError
from optuna_mde_trainers.corpus.tokenizer import TokenizerConfig

if TYPE_CHECKING:
    from optuna_mde_trainers.corpus.blocks import Corpus
    from optuna_mde_trainers.corpus.progress import Say

BLOCKS = 16_384  # of training text that are compared at a time: some megabytes


def known_part(config: CorpusConfig, corpus: Corpus) -> CorpusConfig:
    """A definition without the sets that a corpus has not been asked for yet."""
    asked = {*corpus.sets, *corpus.dropped}
    kept = {
        field: {name: source for name, source in getattr(config, field).items() if name in asked}
        for field in ("validation", "tasks")
    }
    return config.model_copy(update=kept)


def new_part(config: CorpusConfig, corpus: Corpus) -> CorpusConfig | None:
    """The other sets, as a corpus of sets alone in the tokens of a corpus; None without any."""
    asked = {*corpus.sets, *corpus.dropped}
    validation = {n: s for n, s in config.validation.items() if n not in asked}
    tasks = {n: s for n, s in config.tasks.items() if n not in asked}
    if not validation and not tasks:
        return None
    tokenizer = config.tokenizer
    if not any(source.holds_ids for source in validation.values()):
        tokenizer = TokenizerConfig(
            type="pretrained",
            path=str(corpus.folder / blocks.TOKENIZER_FILE),
            end_of_text=config.tokenizer.end_of_text,
        )
    return CorpusConfig(
        domains={},
        validation=validation,
        tasks=tasks,
        tokenizer=tokenizer,
        block_size=corpus.block_size,
        validation_tokens=config.validation_tokens,
    )


def extend(
    corpus: Corpus,
    sets: CorpusConfig,
    described: dict[str, str],
    held: dict[str, str],
    say: Say,
    processes: int | None,
) -> Corpus:
    """Adds sets to a corpus folder.

    Args:
        corpus: the corpus; its lock is held.
        sets: `new_part` of a definition.
        described: the sets' definition by dotted field, to be kept with the corpus.
        held: what their sources hold.
        say: called with short lines of progress.
        processes: that parse and encode text.

    Raises:
        CorpusError: a source cannot be read, or holds too little text.
    """
    partial = corpus.folder.with_name(f".{corpus.folder.name}.sets")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        beside = training_text(corpus)
        build(sets, partial, described, held, say, processes=processes, share=None, beside=beside)
        found = blocks.Corpus.load(partial)
        _check_tokenizer(corpus, found, sets)
        _move_sets(found, corpus)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    made_from, holds = corpus.made_from | described, corpus.held | held
    extended = replace(
        corpus,
        sets=corpus.sets | found.sets,
        dropped=corpus.dropped | found.dropped,
        made_from=made_from,
        held=holds,
        source=source_fingerprint(made_from, holds),
    )
    blocks.write_corpus(extended)
    return extended


def _check_tokenizer(corpus: Corpus, found: Corpus, sets: CorpusConfig) -> None:
    if found.tokenizer_fingerprint != corpus.tokenizer_fingerprint:
        raise CorpusError(
            f"tokenizer: {sets.tokenizer.path!r} is not the one that {corpus.folder} was built "
            "with, so that its models cannot read these sets"
        )


def _move_sets(found: Corpus, corpus: Corpus) -> None:
    for name, info in found.sets.items():
        split = blocks.TASKS if info.kind == "prompts" else blocks.VALIDATION
        place = blocks.set_folder(corpus.folder, split, name)
        shutil.rmtree(place, ignore_errors=True)  # of an extension that was killed
        place.parent.mkdir(exist_ok=True)
        os.replace(blocks.set_folder(found.folder, split, name), place)


def training_text(corpus: Corpus) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Training text of all domains, part by part, as `near.HeldOut.see` takes it.

    Yields:
        Tokens `[T]`, where documents begin in them and how many tokens each has there, `[n]`.
    """
    from datasets import load_from_disk

    if corpus.end_of_text is None:  # release 0.1.0: documents cannot be told apart
        return
    for domain in corpus.domains:
        place = blocks.set_folder(corpus.folder, blocks.TRAIN, domain)
        rows: Any = load_from_disk(str(place)).with_format("numpy")
        for first in range(0, len(rows), BLOCKS):
            part = np.stack(rows[first : first + BLOCKS]["input_ids"])
            ids = part[:, :-1].ravel()  # neighbouring blocks share a token
            ends = np.append(np.flatnonzero(ids == corpus.end_of_text), len(ids))
            starts = np.append(0, ends[:-1] + 1)
            lengths = ends - starts
            yield ids, starts[lengths > 0], lengths[lengths > 0]
