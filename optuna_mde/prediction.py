"""Predicted losses of any mixture, from the runs of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from optuna_mde.answers.fitted import Fitted, fit_study, place
from optuna_mde.answers.rows import widths
from optuna_mde.gp.torch_state import gradients
from optuna_mde.objective import ObjectiveLike
from optuna_mde.simplex.projection import Array

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Prediction:
    """Predicted losses of n mixtures on M validation sets, nats per token. Sets of which neither a
    full run nor MDE knows anything are left out."""

    sets: tuple[str, ...]
    """Names of the M sets."""
    mean: Array
    """Expected losses `[n, M]`."""
    sd: Array
    """Sd `[n, M]` of the noise-free losses, as wide as those of a recommendation's rows."""
    noise_sd: Array
    """Sd `[M]` of a single run around its noise-free loss."""
    objective_mean: Array
    """Expected objective `[n]`, or `[n, G]` for G > 1 goals."""
    objective_sd: Array
    """Sd of the noise-free objective; residuals of the sets are correlated in it."""
    objective_noise_sd: float | Array
    """Sd of a single run's objective, or one value for each of G > 1 goals."""
    mde_error: float = 0.0
    """Root mean square error, nats per token, of the MDE losses that these figures stand on, of
    the set with the largest: those of a few hundred weighted tokens where every token would take
    longer than seconds, else 0."""


def predict(
    study: optuna.Study,
    mixtures: Mapping[str, float] | Sequence[Mapping[str, float]],
    objective: ObjectiveLike = None,
) -> Prediction:
    """Predict the losses of mixtures that were never run.

    Args:
        study: an Optuna study with at least one finished run.
        mixtures: {domain: rate}, or a list of them. Keys may also be parameter names
            (``"stage2/web"``, ``"lr"``), which a study with several mixtures or with other
            parameters needs; what is not given has the value of the best run.
        objective: another objective than that of the runs.

    Raises:
        ValueError: if no run has finished, or no full one has a loss of a set that the objective
            weighs, a rate is no part of a mixture of the study, or rates
            do not sum to 1.
    """
    if isinstance(mixtures, Mapping):
        mixtures = [mixtures]
    return predict_by(fit_study(study, objective, mixtures=len(mixtures)), mixtures)


@gradients()
def predict_by(fitted: Fitted, mixtures: Sequence[Mapping[str, float]]) -> Prediction:
    """What `predict` says by a study that is fitted already."""
    X = _inputs(fitted, mixtures)
    mean, sd = fitted.outputs(X)
    goal_mean, goal_sd = _goals(fitted, X)
    goal_noise = fitted.noise()
    sd = sd * widths(fitted, np.eye(sd.shape[1]))
    observations, losses = fitted.observations, list(fitted.losses)
    mean = mean * observations.signs
    one = goal_mean.shape[1] == 1
    return Prediction(
        sets=tuple(observations.outputs[j] for j in losses),
        mean=mean[:, losses],
        sd=sd[:, losses],
        noise_sd=fitted.surrogate.noise_sd.numpy()[losses],
        objective_mean=goal_mean[:, 0] if one else goal_mean,
        objective_sd=goal_sd[:, 0] if one else goal_sd,
        objective_noise_sd=float(goal_noise[0]) if one else goal_noise,
        mde_error=fitted.mde_error,
    )


@gradients()
def predict_goals(fitted: Fitted, mixtures: Sequence[Mapping[str, float]]) -> tuple[Array, Array]:
    """Mean and sd `[n, G]` of the goals, as `predict` has them, without the sets' losses."""
    return _goals(fitted, _inputs(fitted, mixtures))


def _inputs(fitted: Fitted, mixtures: Sequence[Mapping[str, float]]) -> Array:
    base = fitted.best_told()
    X = np.array([place(fitted.space, base, m) for m in mixtures])
    return X.reshape(-1, fitted.space.dim)


def _goals(fitted: Fitted, X: Array) -> tuple[Array, Array]:
    mean, sd = fitted.goals(X)
    return mean * fitted.observations.goal_signs, sd * widths(fitted, fitted.weights)
