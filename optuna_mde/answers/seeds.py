"""What repeated runs say of a fresh training seed.

Notation: a run of mixture λ with seed s has the loss ``f(λ) + a_s + e_λs``. Runs of a search share
a seed, so that intervals of the surrogate, whose noise is ``e``, are of ``f + a_s`` for that one.
Runs that repeat a mixture have other seeds: they differ by ``a`` and ``e``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from optuna_mde.answers.fitted import Fitted
from optuna_mde.answers.intervals import Interval
from optuna_mde.answers.rows import SAME, Row, full_runs, observed
from optuna_mde.simplex.projection import Array

_LEAST_REPEATS = 2  # one difference alone has an interval six sd wide


@dataclass(frozen=True)
class FreshSeed:
    """A run of the recommended mixture with a seed that no run has used."""

    interval: Interval
    """90 % interval of its objective."""
    sd: float
    """Sd of the objective between runs of one mixture, the seed's share and the rest."""
    repeats: int
    """Runs of a mixture beside its first one, which this was learned from."""


def fresh_seed(fitted: Fitted, row: Row) -> FreshSeed | None:
    """What to expect of a row's mixture with a fresh seed; None before two repeats.

    The sd between repeats is ``S``, ``S² = var a + var e``; a run with a fresh seed differs from
    what the search saw by ``2 var a + var e``, with ``var e`` as the surrogate has it.
    """
    from scipy.special import stdtrit

    groups = list(_repeated(fitted))
    freedom = sum(len(values) - 1 for values in groups)
    if freedom < _LEAST_REPEATS:
        return None
    between = sum(float(((v - v.mean()) ** 2).sum()) for v in groups) / freedom
    noise = float(fitted.noise(fitted.shown)[0]) ** 2
    sd = max(noise, 2.0 * between - noise) ** 0.5
    doubt = (row.objective.high - row.objective.low) / 2.0
    half = float(np.hypot(doubt, float(stdtrit(freedom, 0.95)) * sd))
    mean = row.objective.mean
    return FreshSeed(Interval(mean, mean - half, mean + half), between**0.5, freedom)


def _repeated(fitted: Fitted) -> Iterator[Array]:
    """Observed goals of each mixture that was run more than once.

    Runs that agree to the last digit had the same seed, and say nothing of another one.
    """
    found: list[tuple[Array, list[float]]] = []
    for trial in full_runs(fitted):
        value, x = observed(fitted, trial, fitted.shown[0]), fitted.told(trial)[0]
        if value is None:
            continue
        known = next((v for other, v in found if np.abs(other - x).sum() <= SAME), None)
        if known is None:
            found.append((x, [value]))
        elif value not in known:
            known.append(value)
    for _, values in found:
        if len(values) > 1:
            yield np.array(values)
