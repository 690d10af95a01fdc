"""Other domains in a corpus that runs were trained on.

Its tokenizer stays, and so do its validation sets, token by token, so that losses of older runs
and of new ones are of the same text: a domain that is gone leaves its set behind, and a new one
brings none. Documents are held out by a hash of their names, so that a part of a domain that was
split holds out what the whole did.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from optuna_mde_trainers.corpus import blocks
from optuna_mde_trainers.corpus.blocks import TASKS, VALIDATION, Corpus, SetInfo
from optuna_mde_trainers.corpus.building import build
from optuna_mde_trainers.corpus.config import CorpusConfig
from optuna_mde_trainers.corpus.corpora import (
    CorpusChangedError,
    changes,
    check_unchanged,
    describe,
    inventory,
)
from optuna_mde_trainers.corpus.documents import CorpusError
from optuna_mde_trainers.corpus.tokenizer import TokenizerConfig

ORDER, OF_SETS = "order of domains", ("validation.", "tasks.")  # keys of `corpora.describe`


def revise(
    config: CorpusConfig,
    folder: Path,
    *,
    progress: Callable[[str], None] = lambda _: None,
    processes: int | None = None,
    share: float | None = None,
) -> Corpus:
    """Gives the finished corpus in a folder the domains of a definition; arguments as `prepare`.

    The old corpus stands until the new one is whole. What was killed in between goes on.

    Raises:
        CorpusChangedError: something else than the list of domains differs.
        CorpusError: a source cannot be read, holds too little text, or takes documents away from
            a domain that stays.
    """
    from filelock import FileLock

    before = folder.with_name(f".{folder.name}.before")
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if before.exists() and not folder.exists():
            os.replace(before, folder)
        old = Corpus.load(folder)
        if not changes(old, config, share=share):
            return old
        _check_domains_alone(folder, old, config, share)
        text = _without_sets(config)
        of_sets = {key: said for key, said in old.made_from.items() if key.startswith(OF_SETS)}
        made_from, held = describe(text, share=share) | of_sets, old.held | inventory(text)
        partial = folder.with_name(f".{folder.name}.partial")
        for rest in (partial, before):
            shutil.rmtree(rest, ignore_errors=True)
        partial.mkdir()
        build(
            _with_tokenizer(text, folder), partial, made_from, held, progress,
            processes=processes, share=share, own_sets=False,
        )  # fmt: skip
        new = Corpus.load(partial)
        _check_kept(old, new)
        _keep_sets(old, new)
        check_unchanged(text, held)
        os.replace(folder, before)
        os.replace(partial, folder)
        shutil.rmtree(before)
    return Corpus.load(folder)


def _without_sets(config: CorpusConfig) -> CorpusConfig:
    return config.model_copy(update={"validation": {}, "tasks": {}})


def _with_tokenizer(text: CorpusConfig, folder: Path) -> CorpusConfig:
    """What is built anew, by the tokenizer that there is."""
    kept = text.tokenizer
    if kept.type == "bpe":
        path = str(folder / blocks.TOKENIZER_FILE)
        kept = TokenizerConfig(type="pretrained", path=path, end_of_text=kept.end_of_text)
    return text.model_copy(update={"tokenizer": kept})


def _check_domains_alone(
    folder: Path, old: Corpus, config: CorpusConfig, share: float | None
) -> None:
    """Refuse what is no change of the list of domains."""
    known = {*old.domains, *old.dropped}
    moved = [f"domains.{name}." for name in known ^ {*config.domains}]

    def is_moved(key: str) -> bool:
        return key == ORDER or any(f"{key}.".startswith(name) for name in moved)

    common = {name: source for name, source in config.domains.items() if name in known}
    stays = {key: value for key, value in old.made_from.items() if not is_moved(key)}
    was = replace(old, made_from={ORDER: ", ".join(common), **stays})
    found = changes(was, config.model_copy(update={"domains": common}), share=share)
    if found:
        raise CorpusChangedError(folder, found)


def _check_kept(old: Corpus, new: Corpus) -> None:
    """Refuse another text of a domain that stays, as where copies of it went to another one."""
    if new.tokenizer_fingerprint != old.tokenizer_fingerprint:
        raise CorpusError(f"{old.folder}: its tokenizer is another one today; put the file back")
    for name in old.domains.keys() & new.domains.keys():
        if old.domains[name].fingerprint != new.domains[name].fingerprint:
            raise CorpusError(
                f"domains.{name}: beside the new domains its text is not what runs were trained "
                f"on: a document that two domains hold is the first one's. Put domains that are "
                f"new behind those that stay"
            )


def _keep_sets(old: Corpus, new: Corpus) -> None:
    """Gives a new folder the validation sets of the old one, and finishes it."""
    for kind in (VALIDATION, TASKS):
        shutil.rmtree(new.folder / kind, ignore_errors=True)
        if (old.folder / kind).exists():
            shutil.copytree(old.folder / kind, new.folder / kind)
    sets = {name: _kept(info, new) for name, info in old.sets.items()}
    dropped = {**{n: why for n, why in old.dropped.items() if n not in new.domains}, **new.dropped}
    former = [*old.revised_from, old.fingerprint]
    blocks.write_corpus(replace(new, sets=sets, dropped=dropped, revised_from=former))


def _kept(info: SetInfo, new: Corpus) -> SetInfo:
    return info if info.domain in new.domains else replace(info, domain=None)
