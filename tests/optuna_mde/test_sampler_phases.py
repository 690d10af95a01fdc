"""The order of a study's trials: experts, natural, uniform, design points, the model's."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from optuna_mde import (
    MDESampler,
    exclude_trials,
    report_losses,
    save_logprobs,
    suggest_mixture,
)
from optuna_mde.asks.proposal import Proposal, Proposer
from tests.optuna_mde.toy import DOMAINS, Toy, phases, quietly, rates_of, study_of

pytestmark = quietly


def test_experts_natural_the_model_and_uniform(tmp_path: Path) -> None:
    study = study_of()
    study.optimize(Toy(tmp_path, natural={"web": 6, "code": 3, "books": 1}), n_trials=9)
    assert phases(study) == ["expert"] * 3 + ["natural"] + ["model"] * 4 + ["uniform"]
    assert [rates_of(t) for t in study.trials[:3]] == [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert rates_of(study.trials[3]) == pytest.approx((0.6, 0.3, 0.1))
    for trial in study.trials[4:8]:
        assert abs(sum(rates_of(trial)) - 1.0) < 1e-12
        assert trial.user_attrs["predicted_sd"] > 0
        assert trial.user_attrs["predicted_mean"] == pytest.approx(trial.value, abs=0.5)
        assert all(rate == 0.0 or rate > 1e-6 for rate in rates_of(trial))
    assert len({rates_of(t) for t in study.trials}) == 9


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


def test_a_budget_that_is_forgotten_or_misspelt_is_warned_of(fast: None) -> None:
    def objective(trial: optuna.Trial) -> Any:
        mixture = suggest_mixture(trial, DOMAINS)
        with pytest.warns(UserWarning, match=r"trial 0 was to train 0\.5 .*=mixture\.budget"):
            return report_losses(trial, {"all": 1.0 - mixture["web"]})

    with pytest.warns(UserWarning, match="expert_budget names wbe.*domains are web, code, books"):
        study_of(expert_budget={"wbe": 0.5, "web": 0.5}).optimize(objective, n_trials=1)


def test_log_probabilities_under_other_names_than_the_losses_are_warned_of(
    tmp_path: Path,
) -> None:
    def objective(trial: optuna.Trial) -> Any:
        mixture = suggest_mixture(trial, DOMAINS)
        url = save_logprobs(
            tmp_path / f"{trial.number}.safetensors", {"val-web": np.full(4, -1.0)}
        )
        logprobs = url if mixture.is_expert else None
        return report_losses(trial, {"web": 1.0 - mixture["web"] ** 0.5}, logprobs=logprobs)

    with pytest.warns(UserWarning, match="log-probabilities are of val-web.*losses are of web"):
        study_of().optimize(objective, n_trials=5)


def test_an_expert_outside_the_bounds_is_no_surprise(tmp_path: Path, fast: None) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the mixture is run as it is")
        study = study_of()
        study.optimize(Toy(tmp_path, bounds={"web": (0.0, 0.6)}), n_trials=3)
    assert rates_of(study.trials[0]) == (1, 0, 0)


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

    monkeypatch.setattr("optuna_mde.asks.proposal.Proposer", Corner)
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


def test_a_proposer_that_breaks_costs_a_design_point(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Proposer):
        def propose(self, *args: Any, **options: Any) -> Any:
            raise RuntimeError("no such luck")

    monkeypatch.setattr("optuna_mde.asks.proposal.Proposer", Broken)
    study = study_of(n_startup_trials=1)
    study.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=3)
    assert phases(study) == ["", "design", "design"]
    assert "RuntimeError: no such luck" in caplog.text
