"""Choices among documents, as arrays of keys, names and sizes."""

from __future__ import annotations

import numpy as np
import pytest
from optuna_mde_trainers.corpus.documents import digest
from optuna_mde_trainers.corpus.selection import (
    Chosen,
    first_bytes,
    mixed,
    shuffled,
    split,
    without_copies,
)

NOTHING = np.zeros(0, np.uint64)


def chosen(number: int, size: int = 10) -> Chosen:
    names = mixed(np.arange(number), "names")
    return Chosen(np.arange(number), names, names, np.full(number, size))


def of_keys(keys: list[int], sizes: list[int]) -> Chosen:
    values = np.array(keys, np.uint64)
    return Chosen(np.arange(len(keys)), values, values, np.array(sizes))


def test_of_copies_the_first_stays_over_all_sources() -> None:
    first, seen = without_copies(of_keys([7, 5, 7, 9], [3, 3, 3, 0]), NOTHING)
    assert first.rows.tolist() == [0, 1]  # 7 again is a copy, the last is blank
    second, seen = without_copies(of_keys([6, 5, 9, 9], [2, 2, 4, 4]), seen)
    assert second.rows.tolist() == [0, 2]
    assert second.num_bytes == 6
    assert seen.tolist() == [5, 6, 7, 9]


def test_a_split_holds_out_its_share_and_keeps_it_when_documents_come() -> None:
    train, held = split(chosen(5_000), 0.1)
    assert sorted([*train.rows, *held.rows]) == list(range(5_000))
    assert len(held) == pytest.approx(500, abs=3 * (5_000 * 0.1 * 0.9) ** 0.5)
    assert set(held.names) <= set(split(chosen(6_000), 0.1)[1].names)
    assert set(held.names) <= set(split(chosen(5_000), 0.2)[1].names)


def test_documents_are_split_by_their_names_wherever_they_stand() -> None:
    backwards = chosen(100).take(np.arange(99, -1, -1))
    assert set(split(backwards, 0.2)[1].rows) == set(split(chosen(100), 0.2)[1].rows)


def test_the_order_is_one_of_the_seed() -> None:
    one, again, other = (shuffled(chosen(100), seed).rows.tolist() for seed in (0, 0, 1))
    assert one == again
    assert one != other
    assert sorted(one) == sorted(other) == list(range(100))


def test_order_and_split_are_independent() -> None:
    train, held = split(chosen(20_000), 0.5)
    place = {row: i for i, row in enumerate(shuffled(chosen(20_000), 0).rows.tolist())}
    mean = np.mean([place[row] for row in held.rows.tolist()])
    assert mean == pytest.approx(10_000, abs=4 * 20_000 / (12 * 10_000) ** 0.5)
    assert len(train) + len(held) == 20_000


@pytest.mark.parametrize(("limit", "number"), [(None, 7), (1, 1), (20, 2), (21, 3), (1000, 7)])
def test_the_first_documents_that_hold_some_bytes(limit: int | None, number: int) -> None:
    assert first_bytes(chosen(7), limit).rows.tolist() == list(range(number))


def test_hashes_are_those_of_splitmix64_on_every_machine() -> None:
    values = np.array([0, 1, 2**63, 2**64 - 1], np.uint64)

    def by_hand(value: int) -> int:
        x = (value + int(digest("order 0", size=8), 16)) % 2**64
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    assert mixed(values, "order 0").tolist() == [by_hand(int(value)) for value in values]
