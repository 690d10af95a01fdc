from __future__ import annotations

import doctest
import itertools
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from optuna_mde_trainers.training import schedule as schedule_room
from optuna_mde_trainers.training.schedule import (
    Schedule,
    apportion,
    interleave,
    permutation_key,
    permute,
)

BLOCKS = {"code": 50, "prose": 7, "web": 1000}


def _mixtures(k: int, seed: int, concentration: float) -> list[float]:
    return np.random.default_rng(seed).dirichlet([concentration] * k).tolist()


@pytest.mark.parametrize("k", [2, 3, 7, 30, 100])
@pytest.mark.parametrize("concentration", [0.05, 1.0, 50.0])
def test_counts_are_within_one_of_the_rates(k: int, concentration: float) -> None:
    rates = _mixtures(k, k, concentration)
    counts = apportion(rates, 2048)
    assert sum(counts) == 2048
    whole = sum(map(Fraction, rates))
    assert all(
        abs(count - Fraction(rate) * 2048 / whole) < 1
        for count, rate in zip(counts, rates, strict=True)
    )


def test_a_rate_of_zero_gets_no_count() -> None:
    assert apportion([0.0, 1 / 3, 1 / 3, 1 / 3, 0.0], 10) == [0, 4, 3, 3, 0]
    assert apportion([0.0, 1.0], 5) == [0, 5]


@pytest.mark.parametrize("k", [1, 2, 3, 6, 30, 100])
@pytest.mark.parametrize("concentration", [0.05, 1.0, 50.0])
def test_every_prefix_keeps_to_tijdemans_bound(k: int, concentration: float) -> None:
    counts = apportion(_mixtures(k, 7 * k, concentration), 2000)
    active = sum(count > 0 for count in counts)
    bound = 1 - Fraction(1, 2 * active - 2) if active > 1 else 0
    drawn = [0] * k
    for time, j in enumerate(interleave(counts), start=1):
        drawn[j] += 1
        for i in range(k):
            assert abs(drawn[i] - Fraction(counts[i] * time, 2000)) <= bound
    assert drawn == counts


def test_interleaving_of_nothing() -> None:
    assert list(interleave([])) == []
    assert list(interleave([0, 0])) == []


@pytest.mark.parametrize("size", [*range(1, 40), 1000, 4097])
def test_permute_is_a_permutation(size: int) -> None:
    for epoch in range(3):
        key = permutation_key(0, "code", epoch)
        assert sorted(permute(i, size, key) for i in range(size)) == list(range(size))


def test_permutations_look_random() -> None:
    """Every place is as likely for every block, and neighbours are not kept together."""
    size, n = 12, 6000
    orders = np.array(
        [[permute(i, size, permutation_key(s, "x", 0)) for i in range(size)] for s in range(n)]
    )
    expected = n / size
    for place in range(size):
        seen = np.bincount(orders[:, place], minlength=size)
        assert ((seen - expected) ** 2 / expected).sum() < 40  # chi², 11 degrees: p = 4e-5
    expected = n / (size - 1)
    for place in range(1, size):
        distances = np.bincount((orders[:, place] - orders[:, 0]) % size, minlength=size)[1:]
        assert ((distances - expected) ** 2 / expected).sum() < 38  # 10 degrees


def test_no_block_comes_twice_before_the_epoch_ends() -> None:
    schedule = Schedule({"prose": 1.0}, BLOCKS, steps=14, batch_size=4)
    visits = [block for step in range(14) for _, block in schedule.batch(step)]
    for epoch in range(8):
        assert sorted(visits[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert visits[:7] != visits[7:14]
    assert schedule.epochs == {"code": 0, "prose": 8, "web": 0}


def test_counts_of_a_run_are_those_of_its_batches() -> None:
    mixture = {"web": 0.61, "code": 0.27, "prose": 0.12}
    schedule = Schedule(mixture, BLOCKS, steps=33, batch_size=5)
    drawn = Counter(name for step in range(33) for name, _ in schedule.batch(step))
    assert dict(drawn) == schedule.counts
    assert {n: round(c / 165, 2) for n, c in schedule.counts.items()} == {
        "code": 0.27,
        "prose": 0.12,
        "web": 0.61,
    }


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_ranks_share_out_the_same_step(world_size: int) -> None:
    schedule = Schedule({"web": 0.5, "code": 0.5}, BLOCKS, steps=6, batch_size=24)
    for step in range(6):
        parts = [schedule.batch(step, rank=r, world_size=world_size) for r in range(world_size)]
        merged = list(itertools.chain.from_iterable(itertools.zip_longest(*parts)))
        assert merged == schedule.batch(step)


def test_a_step_depends_on_nothing_before_it() -> None:
    arguments = ({"web": 0.7, "prose": 0.3}, BLOCKS)
    straight = Schedule(*arguments, steps=20, batch_size=6, seed=3)
    everything = [straight.batch(step) for step in range(20)]
    fresh = Schedule(*arguments, steps=20, batch_size=6, seed=3)
    assert fresh.batch(13) == everything[13]
    assert fresh.batch(2) == everything[2]


def test_mixtures_share_the_order_of_a_domains_blocks() -> None:
    def visits(rate: float) -> list[int]:
        schedule = Schedule({"web": rate, "code": 1 - rate}, BLOCKS, steps=20, batch_size=8)
        pairs = itertools.chain.from_iterable(schedule.batch(step) for step in range(20))
        return [block for name, block in pairs if name == "code"]

    few, many = visits(0.8), visits(0.1)
    assert few == many[: len(few)]


def test_seeds_differ_and_names_do_not_depend_on_order() -> None:
    def first(mixture: dict[str, float], seed: int) -> list[tuple[str, int]]:
        return Schedule(mixture, BLOCKS, steps=4, batch_size=8, seed=seed).batch(1)

    assert first({"web": 0.5, "code": 0.5}, 0) == first({"code": 0.5, "web": 0.5}, 0)
    assert first({"web": 0.5, "code": 0.5}, 0) != first({"web": 0.5, "code": 0.5}, 1)


def test_fingerprint_changes_with_what_decides_the_order() -> None:
    def fingerprint(rate: float = 0.5, steps: int = 4, seed: int = 0, held: int = 50) -> str:
        return Schedule(
            {"web": rate, "code": 1 - rate},
            {**BLOCKS, "code": held},
            steps=steps,
            batch_size=8,
            seed=seed,
        ).fingerprint

    assert fingerprint() == fingerprint()
    changed = [fingerprint(rate=0.75), fingerprint(steps=5), fingerprint(seed=1)]
    assert len({fingerprint(), *changed, fingerprint(held=51)}) == 5


def test_domains_without_blocks_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"books, empty.*code, prose, web"):
        Schedule({"books": 0.5, "empty": 0.5}, {**BLOCKS, "empty": 0}, steps=1, batch_size=1)
    with pytest.raises(IndexError, match="step 2"):
        Schedule({"web": 1.0}, BLOCKS, steps=2, batch_size=1).batch(2)


def test_the_example_of_the_docstring_runs() -> None:
    results = doctest.testmod(schedule_room)
    assert results.attempted > 0
    assert results.failed == 0


def test_a_small_domain_repeats_evenly_and_says_how_often() -> None:
    """30 blocks, drawn 100 times: three times or four, and four only when all had their third."""
    schedule = Schedule(
        {"small": 0.1, "large": 0.9}, {"small": 30, "large": 5000}, steps=125, batch_size=8
    )
    assert schedule.counts == {"small": 100, "large": 900}
    assert schedule.epochs["small"] == pytest.approx(3.33, abs=0.005)
    drawn = [place for step in range(125) for place in schedule.batch(step)]
    times = Counter(block for name, block in drawn if name == "small")
    assert Counter(times.values()) == {3: 20, 4: 10}
    for step in range(1, 126):
        counts = schedule.counts_until(step)
        assert counts == Counter(name for name, _ in drawn[: 8 * step])
        assert abs(counts["small"] - 0.1 * 8 * step) < 1
    small = [block for name, block in drawn if name == "small"]
    for start in (0, 30, 60):
        assert sorted(small[start : start + 30]) == list(range(30))
