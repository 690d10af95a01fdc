"""Ascending an acquisition from many starts at once, inside a region.

Spectral projected gradients [Birgin2000]_: a step along the gradient, its length from the change
of the gradient over the last step, is projected onto the region; a line search between the two
points keeps the value from falling below its last few. All starts move together: at these sizes
an evaluation costs the same for one point as for a dozen.

Blocks and single columns have a length of their own, which serves parameters that a loss is much
more, or less, sensitive to than to the mixture. Projection is onto each of them apart, so that
zeros, caps and linear constraints are met exactly at every step.

.. [Birgin2000] Birgin, Martínez and Raydan, Nonmonotone spectral projected gradient methods on
   convex sets, SIAM J. Optimization 10(4), 2000.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from botorch.acquisition.acquisition import AcquisitionFunction

from optuna_mde.simplex.projection import Array
from optuna_mde.simplex.region import Region

ROUNDS = 60  # evaluations of all starts at most

_Rows = npt.NDArray[np.intp]

_FIRST_MOVE = 0.1  # of the fastest column of a group, before anything is known of the curvature
_MOVE = 1.0  # of a column at most: farther points are not worth projecting
_MEMORY = 5  # values that a step may fall back behind
_ARMIJO = 1e-4  # share of the predicted gain that a step must bring
_FIXED = 1e-12  # a column with narrower bounds does not move

# A climb ends when the next step promises less than this, to first order, or when it would take
# several such steps to reach the best of the others.
_GAIN = 1e-5
_BEHIND = 5.0
_TOGETHER = 10  # rounds before any climb is given up for another
_SHORTEST = 1e-3  # share of a step at which a line search gives up


def ascend(acquisition: AcquisitionFunction, region: Region, starts: Array) -> tuple[Array, Array]:
    """Climb from every start; discrete parameters stay as they are.

    Args:
        acquisition: `b x 1 x d -> b`, larger is better, differentiable.
        region: where to stay.
        starts: `[s, d]` points of the region.

    Returns:
        The best point `[s, d]` of every climb, inside the region, and their values `[s]`.
    """
    moves = _Moves(region)
    values, gradients = _evaluate(acquisition, starts)
    if not moves.groups:
        return starts, values
    climbs = _Climbs(moves, starts, values, gradients)
    for round_ in range(ROUNDS):
        rows = climbs.live(compare=round_ >= _TOGETHER)
        if len(rows) == 0:
            break
        points = climbs.trials(rows)
        values, gradients = _evaluate(acquisition, points)
        good = climbs.gains(rows, values)
        climbs.shorten(rows[~good], values[~good])
        climbs.accept(rows[good], points[good], values[good], gradients[good])
    return climbs.best, climbs.best_value


class _Moves:
    """How points of a region may move.

    Attributes:
        groups: free columns of every block, then every other free column by itself.
        member: `[g, d]` 1 where a column belongs to a group.
    """

    def __init__(self, region: Region) -> None:
        self.region = region
        free = region.upper - region.lower >= _FIXED
        free[list(region.grids)] = False
        for hot in region.one_hots:
            free[hot] = False
        blocks = [b.start + np.flatnonzero(free[b]) for b in region.blocks]
        for block in region.blocks:
            free[block] = False
        others = [np.array([j]) for j in np.flatnonzero(free)]
        self._blocks = [b for b in blocks if len(b)]
        self.groups = [*self._blocks, *others]
        self.member = np.zeros((len(self.groups), region.dim))
        for row, columns in zip(self.member, self.groups, strict=True):
            row[columns] = 1.0

    def along(self, gradients: Array) -> Array:
        """Gradients `[s, d]` without what the sums of the blocks forbid."""
        tangent = gradients * self.member.sum(axis=0)
        for block in self._blocks:
            tangent[:, block] -= tangent[:, block].mean(axis=1, keepdims=True)
        return tangent

    def largest(self, gradients: Array) -> Array:
        """Largest size `[s, g]` of a gradient in every group."""
        sizes = [np.abs(gradients[:, columns]).max(axis=1) for columns in self.groups]
        return np.stack(sizes, axis=1).clip(min=1e-300)

    def towards(self, x: Array, gradients: Array, lengths: Array) -> Array:
        """Feasible directions `[s, d]`: to the projections of steps of these lengths `[s, g]`."""
        lengths = np.minimum(lengths, _MOVE / self.largest(gradients))
        return self.region.snap(x + (lengths @ self.member) * gradients) - x


class _Climbs:
    """Where every climb stands, and where it tries next."""

    def __init__(self, moves: _Moves, x: Array, value: Array, gradient: Array) -> None:
        self._moves = moves
        self._x, self._value, self._gradient = x.copy(), value.copy(), moves.along(gradient)
        self.best, self.best_value = x.copy(), value.copy()
        self._recent = np.repeat(value[None], _MEMORY, axis=0)
        self._length = _FIRST_MOVE / moves.largest(self._gradient)
        self._share = np.ones(len(x))
        self._direction = moves.towards(self._x, self._gradient, self._length)
        self._promise = (self._direction * self._gradient).sum(axis=1)

    def live(self, *, compare: bool) -> _Rows:
        """Climbs that are worth going on with."""
        live = (self._promise > _GAIN) & (self._share > _SHORTEST)
        if compare:
            live &= self.best_value + _BEHIND * self._promise >= self.best_value.max()
        return np.flatnonzero(live)

    def trials(self, rows: _Rows) -> Array:
        """The points to try next."""
        return self._x[rows] + self._share[rows, None] * self._direction[rows]

    def gains(self, rows: _Rows, values: Array) -> npt.NDArray[np.bool_]:
        """Whether trials are good enough."""
        due = _ARMIJO * self._share[rows] * self._promise[rows]
        return np.asarray(values >= self._recent[:, rows].min(axis=0) + due)

    def shorten(self, rows: _Rows, values: Array) -> None:
        """Try less far, where a parabola through the failed trial has its top."""
        promised = self._share[rows] * self._promise[rows]
        missed = 2.0 * (self._value[rows] + promised - values)
        self._share[rows] *= np.clip(promised / np.where(missed > 0, missed, np.inf), 0.1, 0.5)

    def accept(self, rows: _Rows, x: Array, value: Array, gradient: Array) -> None:
        """Move to the trials, and choose the next directions from there."""
        moves, gradient = self._moves, self._moves.along(gradient)
        moved, turned = x - self._x[rows], self._gradient[rows] - gradient
        squared, curved = (moved**2) @ moves.member.T, (moved * turned) @ moves.member.T
        known = np.where(curved > 0, squared / np.where(curved > 0, curved, 1.0), np.inf)
        self._length[rows] = np.where(squared > 0, known, self._length[rows])
        self._x[rows], self._value[rows], self._gradient[rows] = x, value, gradient
        self._recent[:-1, rows], self._recent[-1, rows] = self._recent[1:, rows], value
        self._direction[rows] = moves.towards(x, gradient, self._length[rows])
        self._promise[rows] = (self._direction[rows] * gradient).sum(axis=1)
        self._share[rows] = 1.0
        better = rows[value > self.best_value[rows]]
        self.best[better], self.best_value[better] = self._x[better], self._value[better]


def _evaluate(acquisition: AcquisitionFunction, points: Array) -> tuple[Array, Array]:
    """Values `[s]` and gradients `[s, d]`; a point without finite ones is as bad as can be."""
    X = torch.from_numpy(points).requires_grad_(True)
    values = acquisition(X.unsqueeze(-2))
    (gradients,) = torch.autograd.grad(values.sum(), X)
    value, gradient = values.detach().numpy(), gradients.numpy()
    finite = np.isfinite(value) & np.isfinite(gradient).all(axis=1)
    return np.where(finite, value, -np.inf), np.where(finite[:, None], gradient, 0.0)
