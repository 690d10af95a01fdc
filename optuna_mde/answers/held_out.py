"""Prediction of every run from all the others, and how much wider intervals must be by it.

Notation: ``W`` `[G, M]` weights of outputs; ``z`` (observed - predicted) / sd of a run that was
left out, its noise included.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optuna_mde.answers.fitted import Fitted
from optuna_mde.simplex.projection import Array, is_corner

FEWEST = 4  # runs, below which nothing is judged

# Runs' worth of belief that intervals are right as they are (`python -m benchmarks.worlds`).
_PRIOR_RUNS = 10.0
_FAR = 3.0  # robust sd of z beyond which a run is a broken one, and counts as lying there


@dataclass(frozen=True)
class HeldOut:
    """A weighted sum of outputs, for r runs that were left out one by one."""

    mean: Array
    """Predicted `[r]`."""
    sd: Array
    """Sd `[r]` of the prediction, the noise of a run included."""
    observed: Array
    """Observed `[r]`."""
    numbers: npt.NDArray[np.int64]
    """Trial numbers `[r]`."""


def leave_one_out(
    fitted: Fitted, W: Array, *, factor: float = 1.0, experts: bool = False
) -> list[HeldOut]:
    """Predictions of G weighted sums of the runs' outputs, each run unseen.

    Args:
        fitted: the surrogate.
        W: weights `[G, M]`.
        factor: of the sd of noise-free losses; noise is not widened.
        experts: whether runs of a single domain count as well.
    """
    import torch

    surrogate = fitted.surrogate
    means, sds = fitted.unseen
    seed = surrogate.noise_sd.square()
    sds = (seed + factor**2 * (sds.square() - seed).clamp_min(0.0)).sqrt()
    mean = means.numpy() @ W.T
    sd = surrogate.spread(sds, torch.from_numpy(W)).numpy()
    Y, X = surrogate.runs.Y.numpy(), surrogate.runs.X.numpy()
    there = np.isfinite(Y)
    observed = np.where(there, Y, 0.0) @ W.T
    counts = np.full(len(X), True)
    if fitted.observations.block is not None and not experts:
        counts = ~is_corner(X[:, fitted.observations.block])
    kept = counts[:, None] & ~((~there).astype(float) @ (W != 0.0).T > 0.0)  # [n, G]
    numbers = _numbers(fitted)
    return [
        HeldOut(mean[run, g], sd[run, g], observed[run, g], numbers[run])
        for g, run in enumerate(kept.T)
    ]


def _numbers(fitted: Fitted) -> npt.NDArray[np.int64]:
    """Trial numbers of the surrogate's runs, by number as they are: of many it keeps a part."""
    observations, runs = fitted.observations, fitted.surrogate.runs
    rows = np.flatnonzero(observations.full)
    rows = rows[np.argsort(observations.numbers[rows], kind="stable")]
    if len(rows) > len(runs.X):
        told = np.concatenate([observations.X, observations.Y], axis=1)
        kept = {row.tobytes() for row in np.concatenate([runs.X.numpy(), runs.Y.numpy()], axis=1)}
        rows = np.array([row for row in rows if told[row].tobytes() in kept][: len(runs.X)])
    numbers: npt.NDArray[np.int64] = observations.numbers[rows]
    return numbers


def widening(fitted: Fitted, W: Array, factor: float) -> Array:
    """Factors `[G]` of the sd of weighted sums, what leave-one-out shows included.

    ``factor · max(1, sqrt((ν + Σz²) / (ν + n)))``: the scaled inverse chi-square estimate of the
    variance that is left, with a prior at "intervals are right" that weighs ν runs. Broken runs
    must not widen what is said of the others: z count up to three times their robust sd.

    Args:
        fitted: the surrogate.
        W: weights `[G, M]`.
        factor: of the sd, as `gp.calibration` has it.
    """
    return factor * np.array([_excess(held) for held in leave_one_out(fitted, W, factor=factor)])


def _excess(held: HeldOut) -> float:
    if len(held.mean) == 0:
        return 1.0
    z = np.abs(held.observed - held.mean) / held.sd
    z = np.minimum(z, _FAR * max(1.0, float(np.median(z)) / 0.6745))
    return max(1.0, float(np.sqrt((_PRIOR_RUNS + (z**2).sum()) / (_PRIOR_RUNS + len(z)))))
