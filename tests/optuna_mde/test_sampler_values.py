"""What objectives return: any value, losses with gaps, several goals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from optuna_mde import MDESampler, report_losses, suggest_mixture
from tests.optuna_mde.toy import DOMAINS, Toy, phases, quietly, study_of

pytestmark = quietly


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


def test_several_objectives(tmp_path: Path) -> None:
    groups = {"code": {"code": 1.0}, "prose": {"web": 1.0, "books": 1.0}}
    study = optuna.create_study(sampler=MDESampler(seed=0), directions=["minimize"] * 2)
    study.optimize(Toy(tmp_path, objective=groups), n_trials=6)
    assert all(len(t.values) == 2 for t in study.trials)
    assert phases(study) == ["expert"] * 3 + ["uniform"] + ["model"] * 2


def test_constraints_of_the_user_are_shown_to_the_dashboard() -> None:
    def objective(trial: optuna.Trial) -> float:
        trial.set_constraint("latency", -0.5)
        return trial.suggest_float("x", 0, 1)

    study = study_of()
    study.optimize(objective, n_trials=1)
    assert study.trials[0].user_attrs["constraints"] == {"latency": -0.5}
