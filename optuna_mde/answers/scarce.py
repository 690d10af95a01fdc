"""Whether one expert's file is much worse than what its domain does for mixtures.

An expert of a scarce domain that trains a full run reads its text many times, knows it by heart,
and has become worse at all else: MDE then expects too much of a loss of every mixture with that
domain. The surrogate learns most of that from runs, so that its own errors do not show it; those
of MDE do. Notation: ``r`` `[n]` a run's objective minus that of MDE, ``λ`` `[n, K]` its rates,

    r = Σ_k b_k λ_k + c (1 - Σ_k λ_k²) + rest:

b of a file that is worse than its domain stands apart from the others, and below them.

In planted worlds, 50 studies each, it stood apart at 14 runs in all where a file had been worsened
by .6 nats and in 35 where it was sure of the wrong tokens; where MDE was right, whatever its
level, slope and noise, in 3 of 1400 studies of 10 to 25 runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optuna_mde.answers.fitted import Fitted
from optuna_mde.simplex.projection import Array

_SPARE_RUNS = 4  # beside as many as there are domains
_LEAST = 0.1  # nats per token at a rate of 1, below which nobody need act
_SURE, _SURE_IF_SCARCE = 5.0, 3.0  # standard errors
_APART = 2.0  # times the largest deviation of the other domains
_EXPLAINED = 0.6  # of the variance of r: else MDE is wrong in other ways
_SCARCE = 0.5  # of an even share: a natural rate below it is a scarce domain's


@dataclass(frozen=True)
class Spoilt:
    """An expert whose file is worse than its domain."""

    domain: str
    gap: float
    """Nats per token that mixtures do better than MDE expects, at a rate of 1."""
    budget: float
    """Share of a full run that it was trained."""
    number: int
    """Its trial; -1 for a file that was passed in."""


def spoilt_expert(fitted: Fitted) -> Spoilt | None:
    """The expert that stands apart, if one does; of a domain known to be plentiful, never."""
    observations = fitted.observations
    found = _errors(fitted)
    if found is None:
        return None
    rates, errors = found
    n, K = rates.shape
    if n < K + _SPARE_RUNS:
        return None
    mixed = 1.0 - (rates**2).sum(axis=1)
    A = np.column_stack([rates, mixed - mixed.mean()])
    b = np.linalg.lstsq(A, errors, rcond=None)[0]
    rest = errors - A @ b
    variance = float((rest**2).sum()) / (n - K - 1)
    if float((rest**2).mean()) > (1.0 - _EXPLAINED) * float(errors.var()):
        return None
    k = int(b[:K].argmin())
    others = np.delete(b[:K], k)
    middle = float(np.median(others))
    gap = middle - float(b[k])
    error = float(np.sqrt(variance * np.linalg.pinv(A.T @ A)[k, k]))
    natural = fitted.space.groups[0].natural
    scarce = natural is not None and natural[k] < _SCARCE / K
    apart = gap > _APART * float(np.abs(others - middle).max())
    expert = observations.fullest.get(observations.domains[k])
    if expert is None or gap < _LEAST or (natural is not None and not scarce):
        return None
    if gap < error * (_SURE_IF_SCARCE if scarce else _SURE) or not (apart or scarce):
        return None
    return Spoilt(expert.domain, gap, expert.budget, expert.number)


def _errors(fitted: Fitted) -> tuple[Array, Array] | None:
    """Rates `[n, K]` of the runs beside the experts, and their objective minus that of MDE."""
    import torch

    observations = fitted.observations
    if fitted.experts is None or observations.block is None:
        return None
    coreset = fitted.experts.coreset
    shared = [s for s in coreset.sets if s in observations.outputs]
    told = [observations.outputs.index(s) for s in shared]
    w = fitted.overall[0, told]
    if w.sum() <= 0.0:
        return None
    runs = observations.mixed
    rates, Y = observations.X[runs][:, observations.block], observations.Y[runs][:, told]
    ingredients = np.ascontiguousarray(observations.ingredients(runs))
    with torch.no_grad():
        mde = coreset.losses(torch.from_numpy(ingredients)).numpy()
    errors = (Y - mde[:, [coreset.sets.index(s) for s in shared]]) @ (w / w.sum())
    kept = np.isfinite(errors)
    return rates[kept], errors[kept]
