"""The comparison with fresh seeds: its intervals, its words and what is kept."""

from __future__ import annotations

import numpy as np
import pytest
from optuna_mde_studies.runner.confirm import (
    Confirmation,
    Difference,
    distinct,
    fresh_run,
    fresh_seeds,
    paired_differences,
    verdict,
)
from scipy import stats

from optuna_mde.objective import Objective


def simulated(
    rng: np.random.Generator, means: list[float], n_seeds: int, noise: float
) -> dict[str, list[float]]:
    """Losses with an effect of the mixture, one of the seed, and noise."""
    seeds = rng.normal(0, 0.3, n_seeds)
    return {
        f"mixture {i}": list(mean + seeds + rng.normal(0, noise, n_seeds))
        for i, mean in enumerate(means)
    }


def test_two_mixtures_are_the_paired_t_test():
    values = simulated(np.random.default_rng(0), [3.0, 3.2], 5, 0.1)
    one, other = values.values()
    (difference,) = paired_differences(values)
    expected = stats.ttest_rel(one, other).confidence_interval(0.95)
    assert difference.other == "mixture 1"
    assert difference.mean == pytest.approx(np.mean(one) - np.mean(other))
    assert (difference.low, difference.high) == pytest.approx((expected.low, expected.high))


def test_the_variance_is_pooled_over_all_pairs():
    values = simulated(np.random.default_rng(1), [3.0, 3.2, 3.1, 3.5], 3, 0.1)
    names = list(values)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    variance = np.mean([np.var(np.subtract(values[a], values[b]), ddof=1) for a, b in pairs])
    half = stats.t.ppf(0.975, (4 - 1) * (3 - 1)) * np.sqrt(variance / 3)
    for difference, name in zip(paired_differences(values), names[1:], strict=True):
        mean = np.mean(values[names[0]]) - np.mean(values[name])
        assert difference.mean == pytest.approx(mean)
        assert (difference.low, difference.high) == pytest.approx((mean - half, mean + half))


def test_another_seed_lies_in_its_interval_as_often_as_it_says():
    rng = np.random.default_rng(3)
    inside = []
    for _ in range(2000):
        *known, fresh = zip(*simulated(rng, [3.0, 3.1, 3.4], 4, 0.1).values(), strict=True)
        values = {str(i): list(column) for i, column in enumerate(zip(*known, strict=True))}
        found = fresh_run(values)
        assert found.mean == pytest.approx(np.mean(values["0"]))
        inside.append(found.low <= fresh[0] <= found.high)
    assert 0.88 <= np.mean(inside) <= 0.94


def test_intervals_cover_as_often_as_they_say():
    rng = np.random.default_rng(2)
    means = [3.0, 3.1, 3.0, 3.4]
    covered = [
        d.low <= means[0] - mean <= d.high
        for _ in range(1000)
        for d, mean in zip(
            paired_differences(simulated(rng, means, 3, 0.05)), means[1:], strict=True
        )
    ]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


BETTER = Difference("natural", -0.3, -0.4, -0.2)
LEVEL = Difference("best expert: docs", -0.01, -0.1, 0.08)
WORSE = Difference("uniform", 0.2, 0.1, 0.3)


@pytest.mark.parametrize(
    ("differences", "said"),
    [
        ([BETTER], "is better than natural, beyond noise."),
        ([BETTER, LEVEL], "natural, beyond noise; against best expert: docs it is level within"),
        ([LEVEL], "Nothing is better than the noise: with 3 seeds no difference"),
        ([BETTER, WORSE], "is worse than uniform: do not use it."),
        ([], "only one"),
    ],
)
def test_the_verdict_says_what_the_intervals_say(differences, said):
    assert said in verdict(differences, 3)


def test_a_mixture_is_trained_once_under_its_first_name():
    kept = distinct(
        {
            "recommended": {"code": 0.5, "books": 0.5},
            "natural": {"code": 0.7, "books": 0.3},
            "uniform": {"books": 0.5, "code": 0.5},
            "best expert": {"code": 1.0},
        }
    )
    assert list(kept) == ["recommended", "natural", "best expert"]


def test_more_seeds_begin_with_the_same_ones():
    assert fresh_seeds(0, 5)[:3] == fresh_seeds(0, 3)
    assert len(set(fresh_seeds(0, 5))) == 5


def test_what_is_kept_is_read_again_and_weighed(tmp_path):
    assert Confirmation.read(tmp_path / "confirm.json") is None
    confirmation = Confirmation(
        told=8,
        seeds=[1, 2],
        mixtures={"recommended": {"a": 0.5, "b": 0.5}, "natural": {"a": 0.1, "b": 0.9}},
        losses={
            "recommended": [{"a": 1.0, "b": 2.0}, {"a": 1.5, "b": 2.5}],
            "natural": [{"a": 2.0, "b": 2.0}, {"a": 2.0, "b": 3.0}],
        },
    )
    confirmation.write(tmp_path / "confirm.json")
    assert Confirmation.read(tmp_path / "confirm.json") == confirmation
    values = confirmation.values(Objective.parse({"a": 3, "b": 1}))
    (by_name,) = values.values()
    assert by_name == {"recommended": [1.25, 1.75], "natural": [2.0, 2.25]}
