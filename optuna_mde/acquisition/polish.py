"""Maximising an acquisition over a region: many candidates, the best ones polished.

Climbing from anywhere may end in a poor hill; candidates alone stay short of the optimum from 20
domains on. So: score candidates of every kind, climb from the best few that lie apart (`ascent`),
and keep whichever is better.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from botorch.acquisition.acquisition import AcquisitionFunction
from torch import Tensor

from optuna_mde.acquisition.ascent import ascend
from optuna_mde.simplex.projection import Array
from optuna_mde.simplex.region import Region, sample

CANDIDATES, CANDIDATES_BESIDE = 256, 2048  # with mixtures alone; with other parameters
STARTS = 12
_CHUNK = 128  # candidates scored at once: what they need then stays in the cache
_ANCHORS = 64  # anchors that are candidates themselves

# A share below this is set to zero when the (logarithmic) acquisition does not mind.
USEFUL_SHARE = 2e-3
_INDIFFERENT = 1e-2
_ROUNDING = 1e-6  # a share below this is what an optimiser leaves of a zero


def maximise(
    acquisition: AcquisitionFunction,
    region: Region,
    anchors: Array,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """Good points of the region, best first.

    Args:
        acquisition: `b x 1 x d -> b`, larger is better.
        region: where to look.
        anchors: `[m, d]` points to look around, the most promising first.
        rng: source of candidates.

    Returns:
        Points `[s, d]`, all inside the region, and their values `[s]`.
    """
    mixtures_only = sum(b.stop - b.start for b in region.blocks) == region.dim
    n = CANDIDATES if mixtures_only else CANDIDATES_BESIDE
    pool = candidates(region, anchors, n, rng)
    values = evaluate(acquisition, pool)
    order = np.argsort(-values, kind="stable")
    ends = _climbed(acquisition, region, pool[_distinct(pool, order, STARTS)])
    best = _tidied(acquisition, region, np.concatenate([pool[order[:1]], ends]))
    # The rest of the pool serves when the best points lie too near to others.
    points = np.concatenate([best, pool[order]])
    scores = np.concatenate([evaluate(acquisition, best), values[order]])
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
    pool = np.concatenate([points, faces, corners, anchors[:_ANCHORS]])
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


def _climbed(acquisition: AcquisitionFunction, region: Region, starts: Array) -> Array:
    """Local maxima `[s, d]` from the starts; none where the acquisition has no gradient."""
    try:
        ends, _ = ascend(acquisition, region, starts)
    except Exception:
        # The starts are good candidates by themselves.
        return starts[:0]
    return ends


def _tidied(acquisition: AcquisitionFunction, region: Region, points: Array) -> Array:
    """The points with useless shares at zero, where the acquisition does not mind."""
    exact = _without(region, points, _ROUNDING)
    tidy = _without(region, points, USEFUL_SHARE)
    before, after = np.split(evaluate(acquisition, np.concatenate([exact, tidy])), 2)
    return np.where((after >= before - _INDIFFERENT)[:, None], tidy, exact)


def _without(region: Region, points: Array, share: float) -> Array:
    """Points `[m, d]` with shares below ``share`` at zero, as far as the region allows."""
    tidy = points.copy()
    for block in region.blocks:
        x = points[:, block]
        small = (x < share) & (region.lower[block] == 0.0)
        rest = np.where(small, 0.0, x)
        total = rest.sum(axis=1, keepdims=True)
        touched = (small & (x > 0.0)).any(axis=1, keepdims=True) & (total > 0)
        tidy[:, block] = np.where(touched, rest / np.where(total > 0, total, 1.0), x)
    snapped: Array = region.snap(tidy)
    return snapped


def tensor(points: Array) -> Tensor:
    """Points as a float64 tensor."""
    return torch.from_numpy(np.ascontiguousarray(points, dtype=np.float64))
