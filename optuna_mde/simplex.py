"""The bounded simplex: projection, designs, samples. Pure arrays, no trial and no name.

Notation: K parts of a mixture, rates x `[..., K]`, x >= 0 and sum x = 1; bounds `lower`, `upper`
`[K]`; a `Region` has d columns, some of them mixture blocks, the others scaled to [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

TOLERANCE = 1e-9  # a point within this of the simplex, its bounds and constraints lies in them
MARGIN = 1e-12  # constraints are met with this to spare, so that rounding never breaks one
LARGEST = 1e9  # a fixed part of more than this counts as this
DUST = 1e-14  # a projected part this near to a bound is there but for rounding
REACH = 2.0  # points farther outside than this are brought nearer before they are projected
THIN = 1e-7  # a region whose inscribed ball is smaller has no interior to sample from


class MixtureError(ValueError):
    """Domains, bounds, constraints or rates from which no mixture can be made."""


def check_bounds(domains: Sequence[str], lower: Sequence[float], upper: Sequence[float]) -> None:
    """Refuse bounds that no mixture of `domains` can meet.

    Raises:
        MixtureError: with the arithmetic spelled out, e.g. caps that add up to less than 1.
    """
    for domain, low, high in zip(domains, lower, upper, strict=True):
        if not 0.0 <= low <= high <= 1.0:  # false for NaN, too
            raise MixtureError(
                f"bounds of {domain!r} are ({low}, {high}); a rate needs 0 <= low <= high <= 1"
            )
    for name, bounds, sign, meets in (
        ("lower", lower, ">", sum(lower) <= 1 + TOLERANCE),
        ("upper", upper, "<", sum(upper) >= 1 - TOLERANCE),
    ):
        if not meets:
            terms = " + ".join(f"{b:g} ({d})" for d, b in zip(domains, bounds, strict=True))
            mend = "lower some of them" if name == "lower" else "raise some of them"
            raise MixtureError(
                f"{name} bounds add up to {terms} = {sum(bounds):g} {sign} 1, so that no mixture "
                f"meets them; {mend}"
            )


def settle(x: Array, lower: Array, upper: Array) -> Array:
    """Put the rounding residue 1 - sum(x) on the part that is farthest from its bounds.

    Parts at a bound, zeros above all, stay there exactly; where no other part has room for it,
    a residue that is mere rounding is left.
    """
    x = x.copy()
    rounding = np.abs(1.0 - x.sum(axis=-1, keepdims=True)) <= MARGIN
    for _ in range(2):  # the first addition may itself be rounded
        residue = 1.0 - x.sum(axis=-1, keepdims=True)
        inside = np.minimum(x - lower, upper - x)
        room = np.where(residue > 0, upper - x, x - lower)
        free = inside.max(axis=-1, keepdims=True) >= np.abs(residue)
        residue = np.where(free | ~rounding, residue, 0.0)
        part = np.where(free, inside, room).argmax(axis=-1)[..., None]
        np.put_along_axis(x, part, np.take_along_axis(x, part, -1) + residue, axis=-1)
    return x


def project(points: npt.ArrayLike, lower: npt.ArrayLike, upper: npt.ArrayLike) -> Array:
    """Project points `[..., K]` onto {lower <= x <= upper, sum x = 1}, in the Euclidean sense.

    A point that lies there stays as it is. Of others, the projection is clip(p - tau, lower,
    upper); the sum is piecewise linear and decreasing in tau, with 2K kinks, so tau is found
    exactly by sorting them. The bounds must be feasible.
    """
    points = np.asarray(points, dtype=float)
    lower = np.broadcast_to(np.asarray(lower, dtype=float), points.shape[-1:])
    upper = np.broadcast_to(np.asarray(upper, dtype=float), points.shape[-1:])
    given = points.reshape(-1, points.shape[-1])
    there = np.abs(given.sum(axis=1, keepdims=True) - 1.0) <= DUST
    there &= ((given >= lower) & (given <= upper)).all(axis=1, keepdims=True)
    flat = given - given.max(axis=1, keepdims=True)  # the shift leaves tau free of cancellation
    kinks = np.concatenate([flat - upper, flat - lower], axis=1)
    turns = np.concatenate([-np.ones_like(flat), np.ones_like(flat)], axis=1)
    order = np.argsort(kinks, axis=1, kind="stable")
    kinks = np.take_along_axis(kinks, order, axis=1)
    slopes = np.cumsum(np.take_along_axis(turns, order, axis=1), axis=1)
    drops = -slopes[:, :-1] * np.diff(kinks, axis=1)
    sums = upper.sum() - np.concatenate(
        [np.zeros((len(flat), 1)), np.cumsum(drops, axis=1)], axis=1
    )
    segment = np.clip((sums > 1.0).sum(axis=1) - 1, 0, None)[:, None]
    slope = np.take_along_axis(slopes, segment, axis=1)
    excess = np.take_along_axis(sums, segment, axis=1) - 1.0
    tau = np.take_along_axis(kinks, segment, axis=1) + np.where(
        slope < 0, excess / np.where(slope < 0, -slope, 1.0), 0.0
    )
    x = np.clip(flat - tau, lower, upper)
    x = np.where(x - lower <= DUST, lower, np.where(upper - x <= DUST, upper, x))
    return np.where(there, given, settle(x, lower, upper)).reshape(points.shape)


def corner(k: int, j: int) -> Array:
    """The j-th corner of the simplex of k parts: exact zeros, exact one."""
    point = np.zeros(k)
    point[j] = 1.0
    return point


def uniform(lower: npt.ArrayLike, upper: npt.ArrayLike) -> Array:
    """The allowed mixture nearest to equal parts."""
    lower = np.asarray(lower, dtype=float)
    return project(np.full(lower.shape, 1.0 / lower.shape[-1]), lower, upper)


def fix_parts(lower: Array, upper: Array, fixed: Mapping[int, float]) -> tuple[Array, Array]:
    """Bounds `[K]` under which the parts `fixed` (index -> rate) keep their values.

    A fixed value wins over its own bounds; bounds of the other parts are given up where the
    fixed values leave them no room; fixed values that cannot be part of a mixture are scaled.
    """
    lower, upper = lower.copy(), upper.copy()
    if not fixed:
        return lower, upper
    index = np.array(list(fixed), dtype=int)
    values = np.nan_to_num(np.array(list(fixed.values()), dtype=float), nan=0.0)
    values = np.clip(values, 0.0, LARGEST)
    free = np.ones(len(lower), dtype=bool)
    free[index] = False
    total = values.sum()
    if total > 1.0 or not free.any():
        values = values / total if total > 0 else np.full(len(values), 1.0 / len(values))
        total = 1.0
    lower[index] = upper[index] = values
    if total + lower[free].sum() > 1.0:
        lower[free] = 0.0
    if total + upper[free].sum() < 1.0:
        upper[free] = 1.0
    return lower, upper


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
                X[i, block] = _project_polytope(given[i], lower, upper, A, b)
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
                x[block], _ = _inner_ball(
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
    center, radius = _inner_ball(lower, upper, A, b)
    if radius < THIN or not outside.any():
        return X  # no interior: `snap` projects
    slack = A @ center - b
    fall = (center - X[outside]) @ A.T
    reach = np.where(fall > 0, slack / np.where(fall > 0, fall, 1.0), np.inf).min(axis=1)
    share = np.minimum(reach, 1.0) * depth[outside] ** (1.0 / max(1, X.shape[1] - 1))
    X = X.copy()
    X[outside] = settle(center + share[:, None] * (X[outside] - center), lower, upper)
    return X


def _inner_ball(lower: Array, upper: Array, A: Array, b: Array) -> tuple[Array, float]:
    """Centre `[K]` and radius of the largest ball in a bounded simplex with A x >= b."""
    from scipy.optimize import linprog

    k, free = len(lower), upper > lower
    eye = np.eye(k)[free]
    norms = np.linalg.norm(A, axis=1, keepdims=True)
    rows = np.vstack(
        [
            np.hstack([-A, norms]),
            np.hstack([-eye, np.ones((len(eye), 1))]),
            np.hstack([eye, np.ones((len(eye), 1))]),
        ]
    )
    rhs = np.concatenate([-b, -lower[free], upper[free]])
    bounds = [*zip(lower, upper, strict=True), (0.0, 1.0)]
    solved = linprog(
        np.append(np.zeros(k), -1.0),
        A_ub=rows,
        b_ub=rhs,
        A_eq=np.append(np.ones(k), 0.0)[None],
        b_eq=[1.0],
        bounds=bounds,
    )
    if solved.status != 0:
        raise MixtureError(
            "the linear constraints and the bounds exclude every mixture; relax one of them"
        )
    return np.asarray(solved.x[:-1]), float(solved.x[-1])


def _project_polytope(p: Array, lower: Array, upper: Array, A: Array, b: Array) -> Array:
    """Nearest point `[K]` to p on the bounded simplex with A x >= b.

    Least-distance programming by non-negative least squares (Lawson and Hanson, Solving Least
    Squares Problems, ch. 23): finite, so exact up to rounding.
    """
    free = np.flatnonzero(upper > lower)
    p = np.clip(p, lower - REACH, upper + REACH)
    x = np.clip(p, lower, upper)
    if len(free) < 2:
        return settle(x, lower, upper)
    fixed = np.setdiff1d(np.arange(len(p)), free)
    total = 1.0 - lower[fixed].sum()
    origin = np.full(len(free), total / len(free))
    basis = np.linalg.svd(np.ones((1, len(free))))[2][1:].T  # directions that keep the sum
    G = np.vstack([np.eye(len(free)), -np.eye(len(free)), A[:, free]])
    target = basis.T @ (p[free] - origin)
    rest = b - A[:, fixed] @ lower[fixed]
    for margin in (MARGIN, 0.0):  # a constraint that acts as an equation has nothing to spare
        h = np.concatenate([lower[free], -upper[free], rest + margin])
        gap = h - G @ (origin + basis @ target)
        residual = _nnls_residual(np.vstack([(G @ basis).T, gap]))
        # -residual[-1] is 1 / (1 + squared distance), and 0 where no point meets all of them
        if -residual[-1] > 0.1 / (1.0 + (1.0 + REACH) ** 2 * len(p)):
            x[free] = origin + basis @ (target - residual[:-1] / residual[-1])
            return settle(np.clip(x, lower, upper), lower, upper)
    raise MixtureError(
        "the linear constraints and the bounds exclude every mixture; relax one of them"
    )


def _nnls_residual(E: Array) -> Array:
    """E u - f at the non-negative least-squares solution for f = (0, ..., 0, 1)."""
    from scipy.optimize import nnls

    f = np.zeros(len(E))
    f[-1] = 1.0
    u, _ = nnls(E, f)
    return np.asarray(E @ u - f)
