"""Trials that the sampler did not choose: enqueued, retried, fixed in part, other samplers'."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from optuna_mde import MDESampler, report_losses, suggest_mixture
from optuna_mde.asks.proposal import Proposal
from tests.optuna_mde.toy import DOMAINS, Toy, phases, quietly, rates_of, study_of

pytestmark = quietly


def test_enqueued_mixtures_full_and_partial(tmp_path: Path, fast: None) -> None:
    study = study_of()
    study.enqueue_trial({"mix/web": 0.25, "mix/code": 0.25, "mix/books": 0.5})
    study.enqueue_trial({"mix/code": 0.125})
    study.optimize(Toy(tmp_path), n_trials=3)
    full, partial, expert = (rates_of(t) for t in study.trials)
    assert full == (0.25, 0.25, 0.5)
    assert partial[1] == 0.125
    assert abs(sum(partial) - 1.0) < 1e-12
    assert expert == (1, 0, 0)


def test_a_retry_keeps_its_mixture_and_clears_what_it_inherited(
    tmp_path: Path, fast: None
) -> None:
    study = study_of()
    study.optimize(Toy(tmp_path), n_trials=5)
    broken = study.ask()
    mixture = suggest_mixture(broken, DOMAINS)
    value = report_losses(broken, {"web": 9.0}, tokens=7)
    study.tell(broken, state=TrialState.FAIL)
    optuna.storages.RetryHeartbeatStaleTrialCallback()(study, study.trials[5])
    retried = study.ask()
    assert retried.user_attrs["losses"] == {"web": 9.0}
    assert suggest_mixture(retried, DOMAINS) == mixture
    assert retried.user_attrs["losses"] is None
    report_losses(retried, {"code": 1.0})
    study.tell(retried, value)  # type: ignore[arg-type]
    assert study.trials[6].user_attrs["losses"] == {"code": 1.0}
    assert study.trials[6].user_attrs["tokens"] is None


PAIRS: Any = [(1, 2), (3, 4)]  # choices that JSON turns into lists


def test_a_retry_leaves_what_json_cannot_keep_and_what_ranges_exclude(fast: None) -> None:
    def objective(trial: optuna.Trial, high: float = 1.0) -> float:
        trial.suggest_float("y", 0.0, 1.0)
        return (
            trial.suggest_float("x", high - 1.0, high) * trial.suggest_categorical("c", PAIRS)[0]
        )

    study = study_of(n_startup_trials=1)
    study.optimize(objective, n_trials=2)
    broken = study.ask()
    broken.suggest_float("y", 0.0, 1.0)  # publishes x and c, and dies
    study.tell(broken, state=TrialState.FAIL)
    optuna.storages.RetryHeartbeatStaleTrialCallback()(study, study.trials[2])
    study.optimize(lambda trial: objective(trial, high=9.0), n_trials=1)
    assert study.trials[3].params["y"] == broken.params["y"]
    assert study.trials[3].params["x"] >= 8.0
    assert study.trials[3].params["c"] in PAIRS


def test_a_retry_that_had_not_suggested_anything_keeps_its_proposal(fast: None) -> None:
    study = study_of(n_startup_trials=0)
    for _ in range(2):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        trial.suggest_float("y", 0, 1)
        study.tell(trial, 1.0)
    broken = study.ask()
    broken.suggest_float("x", 0, 1)  # publishes x and y, and dies
    study.tell(broken, state=TrialState.FAIL)
    optuna.storages.RetryHeartbeatStaleTrialCallback()(study, study.trials[2])
    retried = study.ask()
    assert retried.suggest_float("x", 0, 1) == broken.params["x"]
    assert retried.suggest_float("y", 0, 1) == 0.5


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_partial_fixed_sampler(tmp_path: Path) -> None:
    fixed = {"mix/code": 0.3, "lr": 0.5}

    def objective(trial: optuna.Trial) -> Any:
        value = Toy(tmp_path)(trial)
        trial.suggest_float("lr", 0.0, 1.0)
        return value

    sampler = optuna.samplers.PartialFixedSampler(fixed, MDESampler(seed=0, n_startup_trials=3))
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=5)
    for trial in study.trials:
        assert trial.params["mix/code"] == 0.3
        assert trial.params["lr"] == 0.5
        assert abs(sum(rates_of(trial)) - 1.0) < 1e-12
        assert "mixture" not in trial.user_attrs
    assert phases(study)[-1] == "model"


def test_hyperband_shows_a_restricted_study(tmp_path: Path) -> None:
    study = optuna.create_study(
        sampler=MDESampler(seed=0),
        pruner=optuna.pruners.HyperbandPruner(min_resource=1, max_resource=4, reduction_factor=2),
    )
    study.optimize(Toy(tmp_path), n_trials=6)
    assert phases(study) == ["expert"] * 3 + ["uniform"] + ["model"] * 2


OTHERS: dict[str, Callable[[], optuna.samplers.BaseSampler]] = {
    "random": lambda: optuna.samplers.RandomSampler(seed=0),
    "tpe": lambda: optuna.samplers.TPESampler(seed=0, n_startup_trials=2),
    "gp": lambda: optuna.samplers.GPSampler(seed=0, n_startup_trials=2),
    "qmc": lambda: optuna.samplers.QMCSampler(seed=0),
}


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("name", OTHERS)
def test_samplers_take_over_from_each_other(name: str, tmp_path: Path) -> None:
    def objective(trial: optuna.Trial) -> Any:
        value = Toy(tmp_path)(trial)
        trial.suggest_int("layers", 1, 8)
        return value

    study = optuna.create_study(sampler=OTHERS[name]())
    study.optimize(objective, n_trials=3)
    study.sampler = MDESampler(seed=0, n_startup_trials=4)
    study.optimize(objective, n_trials=5)
    study.sampler = OTHERS[name]()
    study.optimize(objective, n_trials=2)
    study.sampler = MDESampler(seed=0)
    study.optimize(objective, n_trials=1)
    assert all(t.state == TrialState.COMPLETE for t in study.trials)
    assert phases(study)[:4] == ["", "", "", "expert"]
    assert phases(study)[-1] == "model"
    for trial in study.trials:
        trained = trial.user_attrs.get("mixture", {d: trial.params[f"mix/{d}"] for d in DOMAINS})
        assert abs(sum(trained.values()) - 1.0) < 1e-9
    copied = study_of(1)
    copied.add_trials(study.trials)
    copied.optimize(objective, n_trials=1)


def test_what_was_foreseen_is_dropped_once_another_trial_holds_it(fast: None) -> None:
    """As the retry of an expert does whose worker was killed meanwhile."""
    sampler = MDESampler(seed=0, n_startup_trials=1)
    study = optuna.create_study(sampler=sampler)
    for rates in ((0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (1 / 3, 1 / 3, 1 / 3)):
        study.add_trial(_trial(rates, TrialState.COMPLETE))
    suggest_mixture(study.ask(), DOMAINS)
    corner, inner = np.array([0.0, 0.0, 1.0]), np.array([0.5, 0.5, 0.0])
    study.add_trial(_trial(corner, TrialState.RUNNING))
    foreseen = sampler._memory(study).foreseen
    foreseen |= {5: Proposal(corner, "model"), 6: Proposal(inner, "model")}
    assert suggest_mixture(study.ask(), DOMAINS)["books"] < 1.0
    assert list(suggest_mixture(study.ask(), DOMAINS).values()) == inner.tolist()
    assert phases(study)[-2:] == ["model", "model"]


def _trial(rates: Any, state: TrialState) -> FrozenTrial:
    params = {f"mix/{d}": float(rate) for d, rate in zip(DOMAINS, rates, strict=True)}
    return optuna.create_trial(
        state=state,
        params=params,
        distributions=dict.fromkeys(params, FloatDistribution(0.0, 1.0)),
        value=1.0 if state == TrialState.COMPLETE else None,
    )
