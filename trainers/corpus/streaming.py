"""When a streamed source has been read far enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from optuna_mde_trainers.corpus import selection
from optuna_mde_trainers.corpus.reading.rows import tag
from optuna_mde_trainers.corpus.selection import Chosen
from optuna_mde_trainers.corpus.validation import POOL_BYTES

if TYPE_CHECKING:
    from optuna_mde_trainers.corpus.config import CorpusConfig
    from optuna_mde_trainers.corpus.sources import DomainSource


class Enough:
    """Counts the text of every domain and set that one streamed pass serves.

    Args:
        config: how much training text and how many validation tokens are wanted.
        members: the sources, and whether each is a domain's.
    """

    def __init__(self, config: CorpusConfig, members: list[tuple[DomainSource, bool]]) -> None:
        self._config, self._members = config, members
        self._seen: set[int] = set()
        self._train = np.zeros(len(members), np.int64)
        self._held = np.zeros(len(members), np.int64)

    def __call__(
        self, rows: Chosen, tags: dict[str, np.ndarray], values: dict[str, list[str]]
    ) -> bool:
        """Whether all have enough, with the rows of one more chunk."""
        config = self._config
        fresh = np.array([int(key) not in self._seen for key in rows.keys], bool)
        self._seen.update(rows.keys.tolist())
        for i, (source, is_domain) in enumerate(self._members):
            chosen = rows.take(fresh & _through(source, len(rows), tags, values))
            if is_domain and source.validation_split is None:
                train, held = selection.split(chosen, config.held_out)
                self._train[i] += train.num_bytes
                self._held[i] += held.num_bytes
            elif is_domain:
                self._train[i] += chosen.num_bytes
                self._held[i] += 2**40
            else:
                self._train[i] = 2**40
                self._held[i] += chosen.num_bytes
        limit = config.max_train_bytes
        needed = POOL_BYTES * config.validation_tokens
        return limit is not None and bool(
            (self._train >= limit).all() and (self._held >= needed).all()
        )


def _through(
    source: DomainSource, count: int, tags: dict[str, np.ndarray], values: dict[str, list[str]]
) -> np.ndarray:
    mask = np.ones(count, bool)
    for column, wanted in (source.filter or {}).items():
        accepted = {tag(value) for value in (wanted if isinstance(wanted, list) else [wanted])}
        codes = [i for i, value in enumerate(values[column]) if value in accepted]
        mask &= np.isin(tags[column], codes)
    return mask
