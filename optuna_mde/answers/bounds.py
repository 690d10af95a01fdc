"""Which bounds hold a recommendation, and what another one would be worth.

A bound is relaxed as a user would: a cap is doubled, a floor halved. The mixture is looked for
again with it, and the gain is that of the posterior of the difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from optuna_mde.answers.differences import difference
from optuna_mde.answers.fitted import Fitted
from optuna_mde.answers.optimum import minimise
from optuna_mde.simplex.projection import Array

AT = 1e-6  # distance from a bound at which a rate lies on it
_STEP = 0.01  # rate by which every bound is tried, before the best are looked at whole
_JUDGED = 3  # bounds whose worth is told: each costs as much as a recommendation's search


@dataclass(frozen=True)
class Bound:
    """A floor or a cap on which a recommended rate lies."""

    domain: str
    """As it is named in `Recommendation.mixture`."""
    side: str
    """``floor`` or ``cap``."""
    at: float
    """The bound in force."""
    to: float
    """The bound that was tried instead."""
    gain: float | None = None
    """What the objective is expected to gain by it; None where that was not asked: the step that
    way is worth less than that over other bounds, or goals have units of their own."""
    sd: float | None = None
    """Sd of that gain."""


def holding(fitted: Fitted, best: Array) -> tuple[Bound, ...]:
    """Bounds that hold a recommended input `[d]`, those that are worth most first."""
    found = list(_on_bounds(fitted, best))
    if not found or fitted.is_unlike:
        return tuple(bound for bound, _ in found)
    at = [_step(fitted, best, bound, column) for bound, column in found]
    goals, _ = fitted.goals(np.array(at), fitted.overall)
    order = np.argsort(goals[:, 0], kind="stable")
    judged = [_judged(fitted, best, *found[i]) for i in order[:_JUDGED]]
    judged.sort(key=lambda bound: -(bound.gain or 0.0))
    return (*judged, *(found[i][0] for i in order[_JUDGED:]))


def _on_bounds(fitted: Fitted, best: Array) -> Iterator[tuple[Bound, int]]:
    region = fitted.region
    for group in fitted.space.groups:
        first = fitted.space.block(group).start
        for k, name in enumerate(group.names):
            low, high = region.lower[first + k], region.upper[first + k]
            shown = name.removeprefix(fitted.space.groups[0].prefix)
            if low >= high:
                continue
            if low > 0.0 and best[first + k] <= low + AT:
                yield Bound(shown, "floor", float(low), float(low) / 2.0), first + k
            elif high < 1.0 and best[first + k] >= high - AT:
                yield Bound(shown, "cap", float(high), min(2.0 * float(high), 1.0)), first + k


def _step(fitted: Fitted, best: Array, bound: Bound, column: int) -> Array:
    """The recommended input `[d]`, a little beyond one bound."""
    region = _relaxed(fitted, bound, column).region
    beyond = best.copy()
    beyond[column] += _STEP if bound.side == "cap" else -_STEP
    point: Array = region.snap(beyond)[0]
    return point


def _judged(fitted: Fitted, best: Array, bound: Bound, column: int) -> Bound:
    import torch

    relaxed = _relaxed(fitted, bound, column)
    other = minimise(relaxed, torch.from_numpy(fitted.overall))
    mean, sd = difference(fitted, other, best, fitted.overall)
    return replace(bound, gain=max(float(mean[0]), 0.0), sd=float(sd[0]))


def _relaxed(fitted: Fitted, bound: Bound, column: int) -> Fitted:
    lower, upper = fitted.region.lower.copy(), fitted.region.upper.copy()
    (lower if bound.side == "floor" else upper)[column] = bound.to
    relaxed = replace(fitted, region=replace(fitted.region, lower=lower, upper=upper))
    relaxed.__dict__["unseen"] = fitted.unseen  # runs predict each other whatever is allowed
    return relaxed
