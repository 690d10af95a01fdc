"""What holds a recommendation: bounds, linear constraints and limits, and what they cost.

Each is relaxed, and the mixture looked for again: a cap is doubled, a floor halved, a constraint
or a limit taken away. The gain is that of the posterior of the difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from optuna_mde.answers.differences import difference
from optuna_mde.answers.fitted import Fitted
from optuna_mde.answers.intervals import Z90
from optuna_mde.answers.optimum import minimise
from optuna_mde.answers.rows import widths
from optuna_mde.simplex.projection import Array

AT = 1e-6  # distance from a bound, or a constraint's side, at which a mixture lies on it
_NEAR = 0.05  # spreads of a loss over the runs, nearer than which to its limit that may hold it
_STEP = 0.01  # by which every bound and constraint is tried, before the best are looked at whole
_JUDGED = 3  # whose worth is told, and as many limits: each costs as much as a recommendation


@dataclass(frozen=True)
class Bound:
    """A floor, a cap, a linear constraint or a limit that holds a recommended mixture."""

    domain: str
    """As it is named in `Recommendation.mixture`; a constraint's inequality, a limit's set."""
    side: str
    """``floor``, ``cap``, ``constraint`` or ``limit``."""
    at: float
    """The bound or limit in force; a constraint's right-hand side."""
    to: float | None
    """The bound that was tried instead; None: the constraint or limit was taken away."""
    gain: float | None = None
    """What the objective is expected to gain by it; None where that was not asked: others are
    worth more by a step that way, or goals have units of their own."""
    sd: float | None = None
    """Sd of that gain."""


@dataclass(frozen=True)
class _Hold:
    """A bound or constraint that holds a mixture, and the study without it."""

    bound: Bound
    relaxed: Fitted
    step: Array
    """The recommended input `[d]`, a little beyond it."""


def holding(fitted: Fitted, best: Array) -> tuple[Bound, ...]:
    """What holds a recommended input `[d]`, those that are worth most first."""
    of_rates = [*_bounds(fitted, best), *_constraints(fitted, best)]
    if fitted.is_unlike:
        return tuple(hold.bound for hold in of_rates)
    order = _by_step(fitted, of_rates)
    judged = [_worth(fitted, best, hold.bound, _optimum(hold.relaxed)) for hold in order[:_JUDGED]]
    judged += _limits(fitted, best)
    judged.sort(key=lambda bound: -(bound.gain or 0.0))
    return (*judged, *(hold.bound for hold in order[_JUDGED:]))


def _by_step(fitted: Fitted, holds: Sequence[_Hold]) -> list[_Hold]:
    """Those first that are worth most by a step beyond them."""
    if not holds:
        return []
    goals, _ = fitted.goals(np.array([hold.step for hold in holds]), fitted.overall)
    return [holds[i] for i in np.argsort(goals[:, 0], kind="stable")]


def _bounds(fitted: Fitted, best: Array) -> Iterator[_Hold]:
    region = fitted.region
    for group in fitted.space.groups:
        first = fitted.space.block(group).start
        for k, name in enumerate(group.names):
            low, high = float(region.lower[first + k]), float(region.upper[first + k])
            shown = name.removeprefix(fitted.space.groups[0].prefix)
            if low >= high:
                continue
            if low > 0.0 and best[first + k] <= low + AT:
                yield _beyond(fitted, best, Bound(shown, "floor", low, low / 2.0), first + k)
            elif high < 1.0 and best[first + k] >= high - AT:
                cap = Bound(shown, "cap", high, min(2.0 * high, 1.0))
                yield _beyond(fitted, best, cap, first + k)


def _beyond(fitted: Fitted, best: Array, bound: Bound, column: int) -> _Hold:
    lower, upper = fitted.region.lower.copy(), fitted.region.upper.copy()
    (lower if bound.side == "floor" else upper)[column] = bound.to
    relaxed = replace(fitted, region=replace(fitted.region, lower=lower, upper=upper))
    way = np.zeros_like(best)
    way[column] = 1.0 if bound.side == "cap" else -1.0
    return _Hold(bound, _kept(fitted, relaxed), relaxed.region.snap(best + _STEP * way)[0])


def _constraints(fitted: Fitted, best: Array) -> Iterator[_Hold]:
    for g, group in enumerate(fitted.space.groups):
        block = fitted.space.block(group)
        for i, constraint in enumerate(group.constraints):
            across = np.zeros(len(best))
            for domain, coefficient in constraint.coefficients:
                across[block.start + group.domains.index(domain)] = coefficient
            size = float(np.linalg.norm(across))
            if size == 0.0 or across @ best > constraint.rhs + AT * size:
                continue
            without = (*group.constraints[:i], *group.constraints[i + 1 :])
            groups = list(fitted.space.groups)
            groups[g] = replace(group, constraints=without)
            space = replace(fitted.space, groups=tuple(groups))
            relaxed = replace(fitted, space=space, region=space.region())
            step = relaxed.region.snap(best - _STEP * across / size)[0]
            bound = Bound(str(constraint), "constraint", constraint.rhs, None)
            yield _Hold(bound, _kept(fitted, relaxed), step)


def _limits(fitted: Fitted, best: Array) -> Iterator[Bound]:
    """Limits without which another mixture would be recommended, that does not keep them."""
    observations = fitted.observations
    wanted = observations.objective
    spread = fitted.outputs(fitted.region.snap(observations.X))[0].std(axis=0)
    ends = _ends(fitted, best)
    near = [(i, limit) for i, limit in fitted.limits if ends[i] + _NEAR * spread[i] >= limit]
    for i, limit in near[:_JUDGED]:
        target = observations.targets[i]
        without = tuple(pair for pair in wanted.limits if pair[0] != target.name)
        objective = replace(wanted, limits=without)
        relaxed = replace(fitted, observations=replace(observations, objective=objective))
        other = _optimum(_kept(fitted, relaxed))
        if _ends(fitted, other)[i] > limit:
            yield _worth(fitted, best, Bound(target.label, "limit", limit, None), other)


def _ends(fitted: Fitted, x: Array) -> Array:
    """Upper ends `[M]` of the losses' intervals at an input `[d]`."""
    mean, sd = fitted.outputs(x[None])
    end: Array = (mean + Z90 * widths(fitted, np.eye(mean.shape[1])) * sd)[0]
    return end


def _optimum(relaxed: Fitted) -> Array:
    import torch

    return minimise(relaxed, torch.from_numpy(relaxed.overall))


def _worth(fitted: Fitted, best: Array, bound: Bound, other: Array) -> Bound:
    mean, sd = difference(fitted, other, best, fitted.overall)
    return replace(bound, gain=max(float(mean[0]), 0.0), sd=float(sd[0]))


def _kept(fitted: Fitted, relaxed: Fitted) -> Fitted:
    relaxed.__dict__["unseen"] = fitted.unseen  # runs predict each other whatever is allowed
    return relaxed
