"""What is searched: bounded mixtures, several or growing ones, and parameters of every kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from optuna_mde import report_losses, save_logprobs, suggest_mixture
from tests.optuna_mde.toy import DOMAINS, Toy, phases, quietly, rates_of, study_of

pytestmark = quietly


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
