from __future__ import annotations

import numpy as np
import optuna
import pytest
from optuna.terminator import Terminator, TerminatorCallback

from optuna_mde import (
    ExpectedGainEvaluator,
    MDESampler,
    NoiseEvaluator,
    report_losses,
    suggest_mixture,
)

DOMAINS = ["web", "code", "books", "maths", "talk"]


def runs_until_stopped(steepness: float, most: int) -> int:
    """Runs of a bowl with this steepness, under a noise of .01, until the callback stops it."""
    rng = np.random.default_rng(0)
    optimum = np.array([0.4, 0.05, 0.3, 0.15, 0.1])

    def objective(trial: optuna.Trial) -> float | tuple[float, ...]:
        rates = np.array(list(suggest_mixture(trial, DOMAINS).values()))
        loss = steepness * ((rates - optimum) ** 2).sum() + rng.normal(scale=0.01)
        return report_losses(trial, {"all": float(loss)})

    study = optuna.create_study(sampler=MDESampler(seed=0))
    gain = ExpectedGainEvaluator(study)
    stop = TerminatorCallback(Terminator(gain, NoiseEvaluator(gain), min_n_trials=7))
    study.optimize(objective, n_trials=most, callbacks=[stop])
    assert study.best_value < steepness * 0.3 + 0.05
    return len(study.trials)


@pytest.mark.filterwarnings("ignore")
def test_a_flat_study_is_stopped_and_a_steep_one_goes_on() -> None:
    assert runs_until_stopped(0.0, most=24) < 20  # 8 to 18 with most seeds
    assert runs_until_stopped(20.0, most=11) == 11
