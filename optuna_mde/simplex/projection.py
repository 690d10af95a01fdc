"""Mixtures, bounds, and the nearest points under them. Pure arrays, no trial and no column.

Notation: K parts of a mixture, rates x `[..., K]`, x >= 0 and sum x = 1; bounds `lower`, `upper`
`[K]`; linear constraints `A x >= b`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


TOLERANCE = 1e-9  # a point within this of the simplex, its bounds and constraints lies in them
MARGIN = 1e-12  # constraints are met with this to spare, so that rounding never breaks one
DUST = 1e-14  # a projected part this near to a bound is there but for rounding
REACH = 2.0  # points farther outside than this are brought nearer before they are projected


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


def is_corner(rates: Array) -> npt.NDArray[np.bool_]:
    """Whether mixtures `[..., K]` are of one part alone."""
    alone: npt.NDArray[np.bool_] = rates.max(axis=-1) >= 1.0 - TOLERANCE
    return alone


def apart(points: Iterable[Array], distance: float) -> list[Array]:
    """Of points `[d]` those that lie farther (L1) than this from all that are kept before them."""
    kept: list[Array] = []
    for point in points:
        if all(np.abs(point - other).sum() > distance for other in kept):
            kept.append(point)
    return kept


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
    values = np.clip(values, 0.0, None)
    values /= max(1.0, values.max())  # token counts, of which no sum overflows any more
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


def binding(A: Array, b: Array, lower: Array, upper: Array) -> tuple[Array, Array]:
    """The constraints `A x >= b` that some mixture within the bounds breaks, scaled.

    One that is constant on the bounded simplex, or met all over it, would leave a solver without
    an interior. The largest number of a row is 1 afterwards, so that none overflows.
    """
    sizes = np.maximum(np.abs(A).max(axis=1, initial=0.0), np.abs(b))
    sizes = np.where(sizes > 0.0, sizes, 1.0)
    A, b = A / sizes[:, None], b / sizes
    # the least of a linear function: what is left after the lower bounds goes where it is cheap
    order = np.argsort(A, axis=1)
    room = (upper - lower)[order]
    spent = np.cumsum(room, axis=1) - room
    shares = np.clip(1.0 - lower.sum() - spent, 0.0, room)
    least = A @ lower + (np.take_along_axis(A, order, axis=1) * shares).sum(axis=1)
    kept = least < b - TOLERANCE
    return A[kept], b[kept]


def inner_ball(lower: Array, upper: Array, A: Array, b: Array) -> tuple[Array, float]:
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


def project_polytope(p: Array, lower: Array, upper: Array, A: Array, b: Array) -> Array:
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
