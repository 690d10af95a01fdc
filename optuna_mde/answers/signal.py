"""Whether the runs of a study tell mixtures apart."""

from __future__ import annotations

import numpy as np

from optuna_mde.answers.fitted import Fitted
from optuna_mde.answers.held_out import FEWEST, leave_one_out
from optuna_mde.simplex.projection import Array

_FLAT = 2.0  # range of expected goals, in noise sd, below which a study is flat
_SURE = 0.99  # of noise alone, so many studies must be said to have no signal
_NO_SKILL = 0.7  # share of the runs' variance that leave-one-out must leave unexplained at most


def has_signal(fitted: Fitted, noise: float) -> bool:
    """Whether the told runs, experts among them, tell mixtures apart beyond the noise of one run.

    Without MDE losses a process can draw a landscape through noise: it must also predict runs that
    it has not seen better than their average does.

    Args:
        fitted: the surrogate.
        noise: sd of a run of what is minimised, `Fitted.overall`.
    """
    mean, _ = fitted.goals(fitted.observations.X, fitted.overall)
    if mean.max() - mean.min() <= _FLAT * noise:
        return False
    (held,) = leave_one_out(fitted, fitted.overall, experts=True)
    if _is_noise(held.observed, noise):
        return False
    if fitted.has_mde:
        return True
    if len(held.observed) < FEWEST:  # of more runs, it is a set that few were scored on
        return len(held.observed) == int(fitted.observations.full.sum())
    error = np.mean((held.observed - held.mean) ** 2)
    return bool(error < _NO_SKILL * np.var(held.observed, ddof=1))


def _is_noise(observed: Array, noise: float) -> bool:
    """Whether runs `[n]` differ by no more than as many runs of one mixture would.

    An expert's loss is its MDE loss, noise included: the range of what is expected at the corners
    is never below that of as many runs.
    """
    from scipy.special import chdtri

    if len(observed) < FEWEST:
        return False
    degrees = len(observed) - 1
    return bool(degrees * np.var(observed, ddof=1) <= noise**2 * chdtri(degrees, 1.0 - _SURE))
