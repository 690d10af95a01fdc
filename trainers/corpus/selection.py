"""Which documents a domain or a validation set takes: arrays of keys and sizes, no text.

    key    64 bits of a hash of a document's text; equal for copies of it
    name   64 bits that decide split and order: the key, or a hash of where the text was found
    size   UTF-8 bytes; 0: a blank document, which is no document

Two of a billion different documents share a key with probability .03, and one is then left out.
Everything follows from texts and names by hashing, so that another process or machine makes the
same choice from the same texts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from optuna_mde_trainers.corpus.documents import digest

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Chosen:
    """Some documents of one pass over files, in an order of their own; arrays `[n]`."""

    rows: Array
    """Place of each in the pass, int64."""
    keys: Array
    names: Array
    sizes: Array
    """int64."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_bytes(self) -> int:
        return int(self.sizes.sum())

    def take(self, places: Array) -> Chosen:
        """The documents at some places (indices or a mask) of this choice, in that order."""
        return replace(
            self,
            rows=self.rows[places],
            keys=self.keys[places],
            names=self.names[places],
            sizes=self.sizes[places],
        )


def without_copies(chosen: Chosen, seen: Array) -> tuple[Chosen, Array]:
    """The first of each text that is not among the sorted keys `seen`; and those, with it."""
    chosen = chosen.take(chosen.sizes > 0)
    _, first = np.unique(chosen.keys, return_index=True)
    first.sort()
    chosen = chosen.take(first)
    if len(seen):
        at = np.minimum(np.searchsorted(seen, chosen.keys), len(seen) - 1)
        chosen = chosen.take(seen[at] != chosen.keys)
    return chosen, np.union1d(seen, chosen.keys)


def split(chosen: Chosen, held_out: float) -> tuple[Chosen, Chosen]:
    """Training and held-out documents; a share `held_out` of all names is held out."""
    out = mixed(chosen.names, "held out") < np.uint64(int(held_out * 2**64))
    return chosen.take(~out), chosen.take(out)


def shuffled(chosen: Chosen, seed: int) -> Chosen:
    """The same documents in the order of a hash of seed and name."""
    return chosen.take(np.argsort(mixed(chosen.names, f"order {seed}"), kind="stable"))


def first_bytes(chosen: Chosen, limit: float | None) -> Chosen:
    """The first documents that together hold `limit` bytes; the last one stays whole."""
    if limit is None:
        return chosen
    before = np.cumsum(chosen.sizes) - chosen.sizes
    return chosen.take(before < limit)


def mixed(values: Array, salt: str) -> Array:
    """Hash of 64-bit numbers and a salt (the finaliser of SplitMix64)."""
    x = values.astype(np.uint64) + np.uint64(int(digest(salt, size=8), 16))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))
