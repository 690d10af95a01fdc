"""Prediction of every run from all the others."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from optuna_mde.answers.fitted import Fitted
from optuna_mde.simplex.projection import Array

FEWEST = 4  # runs, below which nothing is judged


def leave_one_out(fitted: Fitted, *, experts: bool = False) -> tuple[Array, Array, Array]:
    """Predicted mean and sd (noise included) and observed first goal `[r]`, each run unseen.

    Args:
        fitted: the surrogate.
        experts: whether runs of a single domain count as well.
    """
    import torch

    surrogate, W = fitted.surrogate, torch.from_numpy(fitted.weights[:1])
    means, sds = surrogate.leave_one_out()
    runs = surrogate.runs
    goals = (means @ W.mT)[:, 0].numpy()
    spread = surrogate.spread(sds, W)[:, 0].numpy()
    weighed = W[0] > 0
    observed = (runs.Y[:, weighed] @ W[0, weighed]).numpy()
    corner = _is_corner(fitted, runs.X.numpy())
    kept = np.isfinite(observed) & (experts | ~corner)
    return goals[kept], spread[kept], observed[kept]


def _is_corner(fitted: Fitted, X: Array) -> npt.NDArray[np.bool_]:
    if fitted.observations.block is None:
        return np.zeros(len(X), dtype=bool)
    rates = X[:, fitted.observations.block]
    corner: npt.NDArray[np.bool_] = rates.max(axis=1) >= 1.0 - 1e-9
    return corner
