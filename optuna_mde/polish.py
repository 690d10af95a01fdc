"""Maximising an acquisition over a region: many candidates, the best ones polished.

SLSQP alone has been seen to end far below the best of a few thousand simplex points, without a
warning; candidates alone stay short of the optimum from 20 domains on. So: score candidates of
every kind, polish the best few, and keep whichever is better.
"""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import torch
from botorch.acquisition.acquisition import AcquisitionFunction
from torch import Tensor

from optuna_mde.simplex import Array, Region, sample

CANDIDATES = 2048
STARTS = 4
_CHUNK = 512  # candidates scored at once

# A share below this is set to zero when the (logarithmic) acquisition does not mind.
USEFUL_SHARE = 2e-3
_INDIFFERENT = 1e-2
_ROUNDING = 1e-6  # a share below this is what an optimiser leaves of a zero


def maximise(
    acquisition: AcquisitionFunction,
    region: Region,
    anchors: Array,
    rng: np.random.Generator,
    n_candidates: int = CANDIDATES,
) -> tuple[Array, Array]:
    """Good points of the region, best first.

    Args:
        acquisition: `b x 1 x d -> b`, larger is better.
        region: where to look.
        anchors: `[m, d]` points to look around, the most promising first.
        rng: source of candidates.
        n_candidates: how many candidates are scored.

    Returns:
        Points `[s, d]`, all inside the region, and their values `[s]`.
    """
    pool = candidates(region, anchors, n_candidates, rng)
    values = evaluate(acquisition, pool)
    order = np.argsort(-values, kind="stable")
    starts = _distinct(pool, order, STARTS)
    polished = [_polish(acquisition, region, pool[i]) for i in starts]
    tidied = [_tidy(acquisition, region, x) for x in [pool[order[0]], *polished]]
    # The rest of the pool serves when the best points lie too near to others.
    points = np.concatenate([np.stack(tidied), pool[order]])
    scores = np.concatenate([evaluate(acquisition, np.stack(tidied)), values[order]])
    ranking = np.argsort(-scores, kind="stable")
    return points[ranking], scores[ranking]


def candidates(region: Region, anchors: Array, n: int, rng: np.random.Generator) -> Array:
    """Points of every kind `[about 1.5 n, d]`: spread, skewed, near the anchors, on faces."""
    pools = [sample(region, n // 4, rng), sample(region, n // 4, rng, concentration=0.3)]
    for anchor in anchors[:3]:
        for precision in (20.0, 100.0):
            pools.append(_around(region, anchor, precision, n // 12, rng))
    points = np.concatenate(pools)
    faces = points[: len(points) // 2].copy()
    for block in region.blocks:
        share = faces[:, block]
        share = np.where(share < 0.05, 0.0, share)
        faces[:, block] = share / share.sum(axis=1, keepdims=True).clip(min=1e-12)
    corners = _corners(region)
    pool = np.concatenate([points, faces, corners, anchors])
    for block in region.blocks:
        pool[:, block] = np.where(pool[:, block] < _ROUNDING, 0.0, pool[:, block])
    return region.snap(pool)


def evaluate(acquisition: AcquisitionFunction, points: Array) -> Array:
    """Values `[n]` of points `[n, d]`; NaN counts as worst."""
    with torch.no_grad():
        parts = [
            acquisition(torch.from_numpy(points[i : i + _CHUNK]).unsqueeze(-2))
            for i in range(0, len(points), _CHUNK)
        ]
    values: Array = torch.cat(parts).numpy()
    return np.where(np.isnan(values), -np.inf, values)


def _around(
    region: Region, anchor: Array, precision: float, n: int, rng: np.random.Generator
) -> Array:
    points = np.repeat(anchor[None], n, axis=0)
    mixture = np.zeros(region.dim, dtype=bool)
    for block in region.blocks:
        mixture[block] = True
        gamma = rng.standard_gamma(precision * anchor[block] + 0.05, (n, block.stop - block.start))
        points[:, block] = gamma / gamma.sum(axis=1, keepdims=True).clip(min=1e-300)
    steps = rng.normal(0.0, 1.0 / np.sqrt(precision), (n, region.dim))
    # Half of the other parameters stay as they are: a change of one thing at a time.
    moved = ~mixture & (rng.random((n, region.dim)) < 0.5)
    points = np.where(moved, points + steps, points)
    for hot in region.one_hots:
        jump = rng.random(n) < 0.2
        choice = rng.integers(0, hot.stop - hot.start, n)
        points[jump, hot] = np.eye(hot.stop - hot.start)[choice[jump]]
        points[~jump, hot] = anchor[hot]
    return points


def _corners(region: Region) -> Array:
    """Every block's corners, the other columns in the middle."""
    rows = []
    for block in region.blocks:
        for j in range(block.start, block.stop):
            x = region.center.copy()
            x[block] = 0.0
            x[j] = 1.0
            rows.append(x)
    return np.array(rows).reshape(-1, region.dim)


def _distinct(pool: Array, order: npt.NDArray[np.intp], count: int) -> list[int]:
    chosen: list[int] = []
    for i in order[: 64 * count]:
        if all(np.abs(pool[i] - pool[j]).sum() > 0.05 for j in chosen):
            chosen.append(int(i))
        if len(chosen) == count:
            break
    return chosen


def _polish(acquisition: AcquisitionFunction, region: Region, start: Array) -> Array:
    """A local maximum from ``start``, discrete parameters held; the start if that fails."""
    from botorch.generation.gen import gen_candidates_scipy

    held = {j: float(start[j]) for j in range(region.dim) if _is_held(region, j)}
    if len(held) == region.dim:
        return start
    equality = [
        (torch.arange(b.start, b.stop), torch.ones(b.stop - b.start, dtype=torch.float64), 1.0)
        for b in region.blocks
        if not all(j in held for j in range(b.start, b.stop))
    ]
    inequality = [
        (torch.from_numpy(np.flatnonzero(a)), torch.from_numpy(a[np.flatnonzero(a)]), float(b))
        for a, b in zip(region.A, region.b, strict=True)
        if not all(j in held for j in np.flatnonzero(a))
    ]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a poor end is no news: the better point is kept
            point, _ = gen_candidates_scipy(
                initial_conditions=torch.from_numpy(start)[None, None],
                acquisition_function=acquisition,
                lower_bounds=torch.from_numpy(region.lower),
                upper_bounds=torch.from_numpy(region.upper),
                equality_constraints=equality or None,
                inequality_constraints=inequality or None,
                fixed_features=held or None,
                options={"maxiter": 60},
            )
    except Exception:
        # The start is a good candidate by itself; the pool has others.
        return start
    end: Array = region.snap(point.detach().numpy().reshape(1, -1))[0]
    return end if np.isfinite(end).all() else start


def _is_held(region: Region, j: int) -> bool:
    discrete = j in region.grids or any(s.start <= j < s.stop for s in region.one_hots)
    return discrete or bool(region.upper[j] - region.lower[j] < 1e-12)


def _tidy(acquisition: AcquisitionFunction, region: Region, x: Array) -> Array:
    """The point with useless shares at zero, where the acquisition does not mind."""
    x = _without(region, x, _ROUNDING)
    tidy = _without(region, x, USEFUL_SHARE)
    if np.array_equal(tidy, x):
        return x
    before, after = evaluate(acquisition, np.stack([x, tidy]))
    return tidy if after >= before - _INDIFFERENT else x


def _without(region: Region, x: Array, share: float) -> Array:
    """The point with shares below ``share`` at zero, as far as the region allows."""
    tidy = x.copy()
    for block in region.blocks:
        small = (x[block] < share) & (x[block] > 0.0) & (region.lower[block] == 0.0)
        rest = np.where(small, 0.0, x[block])
        if small.any() and rest.sum() > 0:
            tidy[block] = rest / rest.sum()
    snapped: Array = region.snap(tidy)[0]
    return snapped


def tensor(points: Array) -> Tensor:
    """Points as a float64 tensor."""
    return torch.from_numpy(np.ascontiguousarray(points, dtype=np.float64))
