"""The mixture to recommend: the lowest expected loss in the region, doubt charged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from optuna_mde.answers.fitted import Fitted
from optuna_mde.answers.intervals import Z90
from optuna_mde.answers.rows import widths
from optuna_mde.simplex.projection import Array

if TYPE_CHECKING:
    import torch
    from botorch.acquisition.acquisition import AcquisitionFunction

    from optuna_mde.acquisition.goals import Limits
    from optuna_mde.gp.surrogate import Surrogate

SEED = 0  # candidates of a recommendation: the same study gets the same one
_FINALISTS = 8  # mixtures that are compared on every token


def best_point(fitted: Fitted) -> tuple[Array, float]:
    """The allowed point with the lowest goal, doubt charged, and what another run may gain."""
    import torch

    from optuna_mde.acquisition.one_goal import LogKnowledgeGradient

    W = torch.from_numpy(fitted.overall)
    best = minimise(fitted, W)
    with torch.no_grad():
        improvement = LogKnowledgeGradient(
            fitted.quick, W, _limits(fitted), torch.from_numpy(best[None]), noisy=False
        )
    _, values = _maximise(fitted, improvement, best[None])
    gain = float(np.exp(values[0])) if improvement.incumbent is not None else 0.0
    return best, gain


def minimise(fitted: Fitted, W: torch.Tensor) -> Array:
    """The allowed point `[d]` with the lowest goal, weighted by `[1, M]`, doubt charged.

    Where no point keeps the limits, the one whose expected losses exceed them least.
    """
    import torch

    from optuna_mde.acquisition.one_goal import CautiousLoss, LeastExcess

    inside = fitted.region.snap(fitted.observations.X)
    with torch.no_grad():
        means = fitted.quick.means(torch.from_numpy(inside))
        goals = (means @ W.mT)[:, 0]
    anchors = inside[np.argsort(goals.numpy(), kind="stable")]
    spread = float(goals.std(correction=0))
    limits = _limits(fitted)
    scale = torch.maximum(means.std(dim=0, correction=0), fitted.quick.noise_sd)
    reach = torch.from_numpy(Z90 * widths(fitted, np.eye(means.shape[1])))
    best = _finalist(fitted, anchors, lambda s: CautiousLoss(s, W, limits, spread, scale, reach))
    if excess(fitted, best).max(initial=0.0) > 0.0:
        anchors = np.concatenate([best[None], anchors])
        least = _finalist(fitted, anchors, lambda s: LeastExcess(s, W, limits, scale))
        best = next(
            (x for x in _way(fitted, best, least) if excess(fitted, x).max() == 0.0), least
        )
    return best


def excess(fitted: Fitted, x: Array) -> Array:
    """How far expected losses at an input `[d]` are above each limit, at least 0."""
    mean, _ = fitted.outputs(x[None])
    return np.array([max(mean[0, i] - limit, 0.0) for i, limit in fitted.limits])


def _way(fitted: Fitted, start: Array, end: Array) -> Iterator[Array]:
    """Allowed points on the way from one to another, ever farther apart."""
    for share in np.geomspace(1e-3, 1.0, 13):
        point: Array = fitted.region.snap((1.0 - share) * start + share * end)[0]
        yield point


def _finalist(
    fitted: Fitted, anchors: Array, build: Callable[[Surrogate], AcquisitionFunction]
) -> Array:
    """The best point of the region; the last word has every token."""
    from optuna_mde.acquisition.polish import evaluate

    points, _ = _maximise(fitted, build(fitted.quick), anchors)
    finalists = np.concatenate([points[:_FINALISTS], anchors[:_FINALISTS]])
    best: Array = finalists[int(evaluate(build(fitted.surrogate), finalists).argmax())]
    return best


def _maximise(
    fitted: Fitted, acquisition: AcquisitionFunction, anchors: Array
) -> tuple[Array, Array]:
    from optuna_mde.acquisition.polish import maximise

    return maximise(acquisition, fitted.region, anchors, np.random.default_rng(SEED))


def _limits(fitted: Fitted) -> Limits:
    from optuna_mde.acquisition.goals import Limits

    return Limits(fitted.limits)
