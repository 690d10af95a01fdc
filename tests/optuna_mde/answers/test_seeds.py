"""What a recommendation says of the training seed, and what repeated runs teach of another one."""

from __future__ import annotations

import numpy as np
import optuna
import pytest

from optuna_mde import recommend
from tests.optuna_mde.recorded import add_run

SEED_SD, NOISE = 0.05, 0.01


def study_of(repeats: int, seed: int = 0) -> tuple[optuna.Study, np.random.Generator]:
    """Nine runs with one training seed, and repeats of the first two with other ones."""
    rng = np.random.default_rng(seed)
    study = optuna.create_study()
    shared = SEED_SD * rng.normal()
    for a in np.linspace(0.1, 0.9, 9):
        add_run(study, {"a": a, "b": 1.0 - a}, (loss(a) + shared + NOISE * rng.normal(),))
    for i in range(repeats):
        a = (0.1, 0.5)[i % 2]
        add_run(study, {"a": a, "b": 1.0 - a}, (loss(a) + fresh(rng),))
    return study, rng


def loss(a: float) -> float:
    return 3.0 + (a - 0.4) ** 2


def fresh(rng: np.random.Generator) -> float:
    return float(SEED_SD * rng.normal() + NOISE * rng.normal())


def test_it_is_said_that_intervals_are_for_one_seed() -> None:
    study, _ = study_of(0)
    answer = recommend(study)
    assert answer.fresh_seed is None
    assert "Intervals are for the training seed that these runs share" in str(answer)


def test_two_repeats_are_needed_and_same_seeds_are_none() -> None:
    study, _ = study_of(1)
    assert recommend(study).fresh_seed is None
    for trial in study.trials[1:4]:  # the same seed again: the same loss to the last digit
        study.add_trial(trial)
    assert recommend(study).fresh_seed is None
    assert recommend(study_of(2)[0]).fresh_seed is not None


def test_repeats_say_how_much_runs_of_a_mixture_differ() -> None:
    study, _ = study_of(4)
    answer = recommend(study)
    values = [t.value for t in study.trials]
    groups = [np.array([values[0], *values[9::2]]), np.array([values[4], *values[10::2]])]
    pooled = sum(((g - g.mean()) ** 2).sum() for g in groups) / 4
    assert answer.fresh_seed.repeats == 4
    assert answer.fresh_seed.sd == pytest.approx(pooled**0.5)
    wide, own = answer.fresh_seed.interval, answer.objective
    assert wide.mean == own.mean
    assert wide.high - wide.low > own.high - own.low
    said = f"a run of the recommended mixture lies in {wide.low:.4f} … {wide.high:.4f} (90 %, by 4"
    assert said in str(answer)


def test_a_run_with_a_fresh_seed_lies_in_its_interval() -> None:
    inside = {"fresh": [], "one seed": []}
    for seed in range(16):
        study, rng = study_of(4, seed)
        answer = recommend(study)
        truth = [loss(answer.mixture["a"]) + fresh(rng) for _ in range(8)]
        for name, found in (("fresh", answer.fresh_seed.interval), ("one seed", answer.objective)):
            inside[name] += [found.low <= value <= found.high for value in truth]
    assert np.mean(inside["fresh"]) >= 0.85
    assert np.mean(inside["one seed"]) < 0.75
