"""Where proposals may lie: blocks of mixtures beside other columns; designs and samples of it.

Notation: a `Region` has d columns, some of them mixture blocks of K parts `[..., K]` that sum to 1
(`projection`), the others scaled to [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from optuna_mde.simplex.projection import (
    TOLERANCE,
    Array,
    inner_ball,
    project,
    project_polytope,
    settle,
    uniform,
)

THIN = 1e-7  # a region whose inscribed ball is smaller has no interior to sample from


@dataclass(frozen=True, eq=False)
class Region:
    """Where proposals may lie, in the columns of a `Space`.

    Every mixture block sums to 1; `A x >= b` are linear constraints, each within one block.
    """

    lower: Array
    """Lower bounds `[d]`."""
    upper: Array
    """Upper bounds `[d]`; a column with equal bounds is fixed."""
    blocks: tuple[slice, ...] = ()
    """Columns of each mixture."""
    grids: dict[int, Array] = field(default_factory=dict)
    """Column -> its allowed values in [0, 1], ascending (integers and steps)."""
    one_hots: tuple[slice, ...] = ()
    """Columns of each categorical parameter."""
    A: Array = field(default_factory=lambda: np.zeros((0, 0)))
    """Coefficients `[c, d]` of the linear constraints."""
    b: Array = field(default_factory=lambda: np.zeros(0))
    """Right-hand sides `[c]`."""

    def __post_init__(self) -> None:
        if len(self.b) == 0:
            object.__setattr__(self, "A", np.zeros((0, len(self.lower))))

    @property
    def dim(self) -> int:
        """Number of columns d."""
        return len(self.lower)

    def contains(self, x: npt.ArrayLike, tol: float = TOLERANCE) -> bool:
        """Whether the point `[d]` meets bounds, sums, grids, one-hots and constraints."""
        x = np.asarray(x, dtype=float)
        if not np.isfinite(x).all():
            return False
        inside = bool(np.all(x >= self.lower - tol) and np.all(x <= self.upper + tol))
        sums = all(abs(x[block].sum() - 1.0) <= tol for block in self.blocks)
        on_grid = all(np.abs(grid - x[j]).min() <= tol for j, grid in self.grids.items())
        hot = all(
            abs(x[s].max() - 1.0) <= tol and abs(x[s].sum() - 1.0) <= tol for s in self.one_hots
        )
        linear = bool(np.all(self.A @ x >= self.b - tol))
        return inside and sums and on_grid and hot and linear

    def snap(self, points: npt.ArrayLike) -> Array:
        """The nearest points `[m, d]` of the region: blocks projected, the others rounded."""
        X: Array = np.array(points, dtype=float, ndmin=2)
        X = np.clip(np.nan_to_num(X, nan=0.0), -1e6, 1e6)
        for block in self.blocks:
            lower, upper = self.lower[block], self.upper[block]
            given = X[:, block].copy()
            X[:, block] = project(given, lower, upper)
            rows = self._rows(block)
            A, b = self.A[rows, block], self.b[rows]
            # a point whose projection keeps the constraints needs no quadratic programme
            for i in np.flatnonzero((b > X[:, block] @ A.T).any(axis=1)):
                X[i, block] = project_polytope(given[i], lower, upper, A, b)
        others = self._others
        X[:, others] = np.clip(X[:, others], self.lower[others], self.upper[others])
        for j, grid in self.grids.items():
            low, high = self.lower[j] - TOLERANCE, self.upper[j] + TOLERANCE
            allowed = grid[(grid >= low) & (grid <= high)]
            if len(allowed):
                X[:, j] = allowed[np.abs(X[:, j, None] - allowed).argmin(axis=1)]
        for s in self.one_hots:
            X[:, s] = np.eye(s.stop - s.start)[X[:, s].argmax(axis=1)]
        return X

    @cached_property
    def center(self) -> Array:
        """A point `[d]` well inside the region: middle of the box, centre of every block.

        Raises:
            MixtureError: when the constraints contradict the bounds.
        """
        x = (self.lower + self.upper) / 2
        for block in self.blocks:
            rows = self._rows(block)
            if len(rows):
                x[block], _ = inner_ball(
                    self.lower[block], self.upper[block], self.A[rows, block], self.b[rows]
                )
            else:
                x[block] = uniform(self.lower[block], self.upper[block])
        return self.snap(x)[0]

    @cached_property
    def _others(self) -> npt.NDArray[np.bool_]:
        mask = np.ones(self.dim, dtype=bool)
        for block in self.blocks:
            mask[block] = False
        return mask

    def _rows(self, block: slice) -> npt.NDArray[np.intp]:
        """Linear constraints that touch this block."""
        return np.flatnonzero((self.A[:, block] != 0).any(axis=1))


def sample(region: Region, n: int, rng: np.random.Generator, concentration: float = 1.0) -> Array:
    """Draw points `[n, d]`: Dirichlet(concentration) on blocks, uniform elsewhere.

    Under bounds a block's free mass is drawn and what exceeds a cap is projected; a point that
    breaks a linear constraint is drawn towards the region's centre until it keeps it.
    """
    U = rng.random((n, region.dim))
    weights = {
        block.start: rng.standard_gamma(concentration, (n, block.stop - block.start))
        for block in region.blocks
    }
    return _place(region, U, weights, rng.random(n))


def design(region: Region, seed: int, index: int) -> Array:
    """The index-th point `[d]` of a scrambled Sobol design; the same for the same arguments.

    On a block, -log u of its columns, normalised, is a low-discrepancy Dirichlet(1).
    """
    from scipy.stats import qmc

    sobol = qmc.Sobol(region.dim + 1, scramble=True, rng=np.random.default_rng(seed))
    if index > 0:
        sobol.fast_forward(index)
    U = np.clip(sobol.random(1), 1e-12, 1 - 1e-12)
    weights = {block.start: -np.log(U[:, block]) for block in region.blocks}
    return _place(region, U[:, :-1], weights, U[:, -1])[0]


def _place(region: Region, U: Array, weights: Mapping[int, Array], depth: Array) -> Array:
    """Points `[n, d]` from unit draws U `[n, d]`, positive block weights and depths `[n]`."""
    X = region.lower + U * (region.upper - region.lower)
    for block in region.blocks:
        lower, upper = region.lower[block], region.upper[block]
        w = weights[block.start]
        total = w.sum(axis=1, keepdims=True)
        shares = np.where(total > 0, w / np.where(total > 0, total, 1.0), 1.0 / w.shape[1])
        X[:, block] = project(lower + (1.0 - lower.sum()) * shares, lower, upper)
        X[:, block] = _pull_inside(region, block, X[:, block], depth)
    for j, grid in region.grids.items():
        if len(grid) > 1 and region.lower[j] < region.upper[j]:
            # half a cell beyond both ends, so that the end values are as likely as the others
            first, last = (grid[1] - grid[0]) / 2, (grid[-1] - grid[-2]) / 2
            X[:, j] = grid[0] - first + U[:, j] * (grid[-1] - grid[0] + first + last)
    for s in region.one_hots:
        hot = np.floor(U[:, s.start] * (s.stop - s.start)).astype(int)
        X[:, s] = np.eye(s.stop - s.start)[hot]
    return region.snap(X)


def _pull_inside(region: Region, block: slice, X: Array, depth: Array) -> Array:
    """Move points `[n, K]` that break a linear constraint towards the centre, to inside."""
    rows = region._rows(block)
    if len(rows) == 0:
        return X
    A, b = region.A[rows, block], region.b[rows]
    outside = (b > X @ A.T).any(axis=1)
    lower, upper = region.lower[block], region.upper[block]
    center, radius = inner_ball(lower, upper, A, b)
    if radius < THIN or not outside.any():
        return X  # no interior: `snap` projects
    slack = A @ center - b
    fall = (center - X[outside]) @ A.T
    reach = np.where(fall > 0, slack / np.where(fall > 0, fall, 1.0), np.inf).min(axis=1)
    share = np.minimum(reach, 1.0) * depth[outside] ** (1.0 / max(1, X.shape[1] - 1))
    X = X.copy()
    X[outside] = settle(center + share[:, None] * (X[outside] - center), lower, upper)
    return X
