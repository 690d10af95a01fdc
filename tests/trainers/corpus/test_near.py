"""Near-duplicates, against brute force and against MinHash."""

from __future__ import annotations

import random

import numpy as np
import pytest
from datasketch import MinHash
from optuna_mde_trainers.corpus.near import LENGTH, SIMILARITY, HeldOut, shingles


def document(seed: int, length: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 5_000, length).astype(np.uint16)


def edited(ids: np.ndarray, edits: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    changed = ids.copy()
    changed[draw.choice(len(ids), edits, replace=False)] = draw.integers(5_000, 6_000, edits)
    return changed


def similarity(one: np.ndarray, other: np.ndarray) -> float:
    """Jaccard of the stretches themselves, not of their hashes."""
    sets = [
        {tuple(ids[i : i + LENGTH].tolist()) for i in range(max(1, len(ids) - LENGTH + 1))}
        for ids in (one, other)
    ]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def seen(held: list[np.ndarray], train: list[np.ndarray], at_once: int = 7) -> np.ndarray:
    found = HeldOut(held)
    for start in range(0, len(train), at_once):
        part = train[start : start + at_once]
        lengths = np.array([len(ids) for ids in part])
        ends = np.cumsum(lengths + 1)
        stream = np.concatenate([np.append(ids, np.uint16(65_535)) for ids in part])
        found.see(stream, ends - lengths - 1, lengths)
    return found.copies


@pytest.mark.parametrize("length", [1, 4, 5, 30, 350, 2_000])
def test_copies_are_those_of_brute_force(length: int) -> None:
    draw = random.Random(length)
    held = [document(seed, length) for seed in range(60)]
    train = [document(seed, draw.choice([3, 40, 300, 1_000])) for seed in range(100, 140)]
    for seed in range(0, 60, 2):
        edits = draw.randrange(0, 1 + length // 12)
        train.append(edited(held[seed], edits, seed))
    draw.shuffle(train)
    expected = [max(similarity(ids, other) for other in train) >= SIMILARITY for ids in held]
    assert any(expected)
    assert seen(held, train).tolist() == expected


def test_minhash_finds_the_same() -> None:
    held = [document(seed, 400) for seed in range(30)]
    train = [edited(held[seed], edits, seed) for seed, edits in zip(range(30), range(0, 60, 2))]  # noqa: B905

    def sketch(ids: np.ndarray) -> MinHash:
        made = MinHash(num_perm=256)
        made.update_batch([hash_.tobytes() for hash_ in np.unique(shingles(ids))])
        return made

    copies = seen(held, train)
    for ids, other, copy in zip(held, train, copies, strict=True):
        estimate = sketch(ids).jaccard(sketch(other))
        if abs(estimate - SIMILARITY) > 0.1:  # three standard errors of 256 permutations
            assert copy == (estimate > SIMILARITY)
    assert 0 < copies.sum() < 30


def test_a_part_of_a_long_document_is_no_copy() -> None:
    long = document(0, 3_000)
    assert seen([long[:300]], [long]).tolist() == [False]
    assert seen([long], [long[:300]]).tolist() == [False]


def test_nothing_held_out_is_nothing_to_compare() -> None:
    assert seen([], [document(0, 10)]).tolist() == []
    assert seen([document(0, 10)], [np.zeros(0, np.uint16)]).tolist() == [False]
