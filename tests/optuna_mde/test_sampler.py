"""MDESampler as an object: options, seeds, copies and pickles, and the global state around it."""

from __future__ import annotations

import copy
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution

from optuna_mde import MDESampler, suggest_mixture
from tests.optuna_mde.toy import DOMAINS, Toy, phases, quietly, study_of

pytestmark = quietly


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"expert_budget": 0.0}, r"\(0, 1\], got 0.0"),
        ({"expert_budget": {"web": 2}}, "'web'"),
        ({"expert_budget": "0.5"}, "expert_budget must be a number, got '0.5'"),
        ({"expert_budget": {"web": None}}, "expert_budget of 'web' must be a number"),
        ({"experts": {"web": 3}}, "experts must be {domain: URL}, got 3"),
        ({"n_startup_trials": -1}, "at least 0"),
        ({"n_startup_trials": 1.5}, "n_startup_trials must be a whole number"),
        ({"seed": "a"}, "seed must be a whole number"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"mixtures": {"mix/": ["web"]}}, "two domains"),
        ({"objective": {"web": -1}}, "at least 0"),
        ({"device": "tpu"}, "'tpu'"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MDESampler(**options)


def test_an_independent_sampler_of_ones_own(fast: None) -> None:
    class Half(optuna.samplers.RandomSampler):
        def sample_independent(self, *args: Any) -> Any:
            return 0.5

    study = study_of(independent_sampler=Half())
    study.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=1)
    assert study.trials[0].params == {"x": 0.5}


def test_one_sampler_on_two_studies(tmp_path: Path) -> None:
    sampler = MDESampler(seed=0)
    studies = [optuna.create_study(sampler=sampler) for _ in range(2)]
    for _ in range(5):
        studies[0].optimize(Toy(tmp_path), n_trials=1)
        studies[1].optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=1)
    assert phases(studies[0]) == ["expert"] * 3 + ["uniform", "model"]
    assert all(set(t.params) == {"x"} for t in studies[1].trials)


def test_copies_of_a_sampler_work(tmp_path: Path) -> None:
    study = study_of()
    study.optimize(Toy(tmp_path), n_trials=5)
    proposals = []
    for sampler in (
        study.sampler,
        pickle.loads(pickle.dumps(study.sampler)),
        copy.deepcopy(study.sampler),
    ):
        other = optuna.create_study(sampler=sampler)
        other.add_trials(study.trials)
        proposals.append(list(suggest_mixture(other.ask(), DOMAINS).values()))
    assert proposals[1] == pytest.approx(proposals[0], abs=1e-6)
    assert proposals[2] == pytest.approx(proposals[0], abs=1e-6)
    assert isinstance(pickle.loads(pickle.dumps(study)).sampler, MDESampler)


def test_design_points_come_from_seed_and_number(fast: None) -> None:
    def points(seed: int) -> list[float]:
        study = study_of(seed, n_startup_trials=100)
        study.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=6)
        return [t.params["x"] for t in study.trials]

    assert points(0) == points(0) != points(1)
    assert len(set(points(0))) == 6


def test_reseeding_changes_chance_but_not_the_design() -> None:
    def drawn(sampler: MDESampler, n_told: int) -> float:
        study = optuna.create_study(sampler=sampler)
        for _ in range(n_told):
            study.add_trial(
                optuna.create_trial(
                    params={"x": 0.5}, distributions={"x": FloatDistribution(0, 1)}, value=1.0
                )
            )
        return study.ask().suggest_float("x", 0, 1)

    samplers = [MDESampler(seed=0) for _ in range(2)]
    assert drawn(samplers[0], 0) == drawn(samplers[1], 0)
    samplers[1].reseed_rng()
    assert drawn(samplers[0], 0) != drawn(samplers[1], 0)
    assert drawn(samplers[0], 3) == drawn(samplers[1], 3)
    unseeded = MDESampler()
    assert drawn(unseeded, 0) != drawn(copy.deepcopy(unseeded), 0)


def test_global_state_is_left_alone(tmp_path: Path) -> None:
    import torch

    study = study_of()
    study.optimize(Toy(tmp_path), n_trials=5)
    np.random.seed(1)
    random.seed(1)
    torch.manual_seed(1)
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float32)
    before = (
        np.random.get_state()[1].tolist(),  # type: ignore[index, union-attr]
        random.getstate(),
        torch.get_rng_state().tolist(),
    )
    study.optimize(Toy(tmp_path), n_trials=2)
    after = (
        np.random.get_state()[1].tolist(),  # type: ignore[index, union-attr]
        random.getstate(),
        torch.get_rng_state().tolist(),
    )
    assert phases(study)[-1] == "model"
    assert before == after
    assert torch.get_num_threads() == 2
    assert torch.get_default_dtype() == torch.float32
    torch.set_num_threads(1)


FIRST_ASK = """
import sys, optuna
from optuna_mde import MDESampler, suggest_mixture
study = optuna.create_study(sampler=MDESampler(seed=0, n_startup_trials=3))
for _ in range(5):
    trial = study.ask()
    study.tell(trial, suggest_mixture(trial, ["a", "b"])["a"])
print(trial.user_attrs["phase"], "torch" in sys.modules, "sympy" in sys.modules)
"""


def test_a_first_ask_loads_no_computer_algebra() -> None:
    """Which torch does on the side: half of the time of a worker's first ask, and 35 MB."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST_ASK], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["model", "True", "False"]
