"""The recommended mixture minus another one: the posterior of the difference.

A difference is known better than either loss: the two lean on the same runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from optuna_mde.answers.fitted import Fitted
from optuna_mde.answers.intervals import Interval, interval, signed
from optuna_mde.answers.rows import widths
from optuna_mde.simplex.projection import Array

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Against:
    """The recommended mixture minus another one, for the training seed that the runs share."""

    name: str
    """The row that it is compared with: ``natural`` or ``uniform``."""
    objective: Interval
    """Difference of what `Row.objective` holds; 90 %."""
    losses: dict[str, Interval]
    """Differences of the losses, by validation set (or objective value)."""
    goals: tuple[Interval, ...] = ()
    """Differences of every goal, where there are several."""


def against(fitted: Fitted, best: Array, name: str, other: Array) -> Against:
    """Differences between a recommended input `[d]` and another."""
    observations = fitted.observations
    M, G = len(observations.outputs), len(observations.goal_signs)
    W = np.concatenate([np.eye(M), fitted.weights, fitted.shown])
    mean, sd = difference(fitted, other, best, W)
    signs: Sequence[float] = (*observations.signs, *observations.goal_signs, fitted.shown_sign)
    figures = [signed(interval(m, s), sign) for m, s, sign in zip(mean, sd, signs, strict=True)]
    return Against(
        name,
        figures[-1],
        {observations.outputs[i]: figures[i] for i in fitted.losses},
        tuple(figures[M : M + G]) if G > 1 else (),
    )


def difference(fitted: Fitted, first: Array, second: Array, W: Array) -> tuple[Array, Array]:
    """Mean and sd `[G]` of weighted sums `[G, M]` at the second input `[d]` minus the first."""
    import torch

    pair = torch.from_numpy(np.stack([first, second]))[None]
    with torch.no_grad():
        mean, covariance = fitted.surrogate.joint_goals(pair, torch.from_numpy(W))
    C = covariance[0]
    variance = C[:, 0, 0] + C[:, 1, 1] - 2.0 * C[:, 0, 1]
    sd = variance.clamp_min(0.0).sqrt().numpy()
    return (mean[0, 1] - mean[0, 0]).numpy(), sd * widths(fitted, W)
