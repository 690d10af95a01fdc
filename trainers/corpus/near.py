"""Near-duplicates of training documents among the documents of validation sets.

    shingle      5 neighbouring tokens, as a 64-bit hash
    similarity   Jaccard: shingles that two documents share / shingles that one or both have
    copy         similarity of .75 or more: 5-grams and bound of FineWeb (arXiv 2406.17557)

The held-out documents are few, so their shingles are kept in one sorted table, and training
documents, as they are packed, are looked up in it. A document of which less than .75 of the
shingles are in the table at all can be no copy of any in it; for the others similarity is counted
exactly. MinHash (datasketch) would estimate the same number, at the price of hashing every
training shingle 128 times; the test compares with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LENGTH = 5  # tokens of a shingle
SIMILARITY = 0.75
MAX_TOKENS = 50_000  # of a document that are looked at: its beginning
MANY = 400  # shingles from which one in eight is looked up: 50 tell shares of .75 and .5 apart
# Odd numbers of 64 random bits (SplitMix64 from 0): a sum of products is a universal hash.
MULTIPLIERS = np.array(
    [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F5,
        0x06C45D188009454F,
        0xF88BB8A8724C81ED,
        0x1B39896A51A8749B,
    ],
    np.uint64,
)


def shingles(ids: np.ndarray) -> np.ndarray:
    """Hashes of all stretches of `LENGTH` tokens: `[T]` -> `[max(1, T - LENGTH + 1)]` uint64.

    A shorter document is one shingle.
    """
    wide = ids.astype(np.uint64) + np.uint64(1)
    if len(wide) < LENGTH:
        wide = np.concatenate([wide, np.zeros(LENGTH - len(wide), np.uint64)])
    count = len(wide) - LENGTH + 1
    state = wide[:count] * MULTIPLIERS[0]
    for offset in range(1, LENGTH):
        state += wide[offset : offset + count] * MULTIPLIERS[offset]
    return state


def _is_sampled(hashes: np.ndarray) -> np.ndarray:
    """One in eight, by the bits that depend on all bits of the tokens."""
    return hashes >> np.uint64(61) == 0


def _distinct(values: np.ndarray) -> np.ndarray:
    """`np.unique`, by sorting: some ten times faster than its hashes for a document's shingles."""
    ordered = np.sort(values)
    first = np.ones(len(ordered), bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return ordered[first]


class HeldOut:
    """Held-out documents that training documents are compared with.

    Args:
        documents: token ids of each.
    """

    def __init__(self, documents: Sequence[np.ndarray]) -> None:
        sets = [_distinct(shingles(ids[:MAX_TOKENS])) for ids in documents]
        self.copies = np.zeros(len(sets), bool)
        """Documents that are near-duplicates of a training document seen so far."""
        self._sizes = np.array([len(found) for found in sets], np.int64)
        hashes = np.concatenate([np.zeros(0, np.uint64), *sets])
        owners = np.repeat(np.arange(len(sets)), self._sizes)
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._owners = hashes[order], owners[order]
        self._sampled = _distinct(self._hashes[_is_sampled(self._hashes)])
        self._distinct = _distinct(self._hashes)

    def see(self, ids: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> None:
        """Compares training documents.

        Args:
            ids: `[T]` tokens of all of them.
            starts: `[n]` where each begins.
            lengths: `[n]` tokens of each.
        """
        if not len(self._hashes):
            return
        for place in self._suspects(ids, starts, lengths):
            self._compare(ids[starts[place] :][: min(int(lengths[place]), MAX_TOKENS)])

    def _suspects(self, ids: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Documents enough of whose shingles are in the table, to be looked at exactly."""
        found = shingles(ids)
        counts = np.clip(np.minimum(lengths, MAX_TOKENS) - LENGTH + 1, 1, None)
        short = lengths < LENGTH  # their one shingle is padded: not in `found`
        many = counts > MANY
        sampled = _sampled(found, starts, counts, many & ~short)
        whole = _owned(found, starts, counts, ~many & ~short)
        suspects = [np.flatnonzero(short)]
        for (hashes, owners), table, bound in (
            (sampled, self._sampled, SIMILARITY - 0.25),
            (whole, self._distinct, SIMILARITY * 0.8),  # repeated shingles weigh here
        ):
            if len(hashes) and len(table):
                at = np.minimum(np.searchsorted(table, hashes), len(table) - 1)
                hits = np.bincount(owners, table[at] == hashes, len(lengths))
                seen = np.bincount(owners, minlength=len(lengths))
                suspects.append(np.flatnonzero((hits >= bound * seen) & (seen > 0)))
        return np.unique(np.concatenate(suspects))

    def _compare(self, ids: np.ndarray) -> None:
        mine = _distinct(shingles(ids))
        low = np.searchsorted(self._hashes, mine, side="left")
        high = np.searchsorted(self._hashes, mine, side="right")
        shared = [self._owners[a:b] for a, b in zip(low, high, strict=True) if b > a]
        if not shared:
            return
        both = np.bincount(np.concatenate(shared), minlength=len(self._sizes))
        either = len(mine) + self._sizes - both
        self.copies |= both >= SIMILARITY * either


def _sampled(
    found: np.ndarray, starts: np.ndarray, counts: np.ndarray, documents: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One shingle in eight of some documents, by its hash, and whose each is."""
    which = np.flatnonzero(documents)
    places = np.flatnonzero(_is_sampled(found))
    at = np.searchsorted(starts[which], places, side="right") - 1
    inside = at >= 0
    inside[inside] = places[inside] < (starts + counts)[which[at[inside]]]
    return found[places[inside]], which[at[inside]]


def _owned(
    found: np.ndarray, starts: np.ndarray, counts: np.ndarray, documents: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """All shingles of some documents, and whose each is."""
    which = np.flatnonzero(documents)
    sizes = counts[which]
    owners = np.repeat(which, sizes)
    ends = np.cumsum(sizes)
    places = np.arange(len(owners)) + np.repeat(starts[which] - (ends - sizes), sizes)
    return found[places], owners
