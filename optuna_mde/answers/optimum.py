"""The mixture to recommend: the lowest expected loss in the region, doubt charged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from optuna_mde.answers.fitted import Fitted
from optuna_mde.simplex.projection import Array

if TYPE_CHECKING:
    import torch
    from botorch.acquisition.acquisition import AcquisitionFunction

    from optuna_mde.acquisition.goals import Limits

SEED = 0  # candidates of a recommendation: the same study gets the same one
_FINALISTS = 8  # mixtures that are compared on every token


def best_point(fitted: Fitted) -> tuple[Array, float]:
    """The allowed point with the lowest goal, doubt charged, and what another run may gain."""
    import torch

    from optuna_mde.acquisition.one_goal import LogKnowledgeGradient

    W = torch.from_numpy(fitted.weights.mean(axis=0, keepdims=True))
    best = minimise(fitted, W)
    with torch.no_grad():
        improvement = LogKnowledgeGradient(
            fitted.quick, W, _limits(fitted), torch.from_numpy(best[None]), noisy=False
        )
    _, values = _maximise(fitted, improvement, best[None])
    gain = float(np.exp(values[0])) if improvement.incumbent is not None else 0.0
    return best, gain


def minimise(fitted: Fitted, W: torch.Tensor) -> Array:
    """The allowed point with the lowest weighted goals; the last word has every token."""
    import torch

    from optuna_mde.acquisition.one_goal import CautiousLoss
    from optuna_mde.acquisition.polish import evaluate

    inside = fitted.region.snap(fitted.observations.X)
    with torch.no_grad():
        means, _ = fitted.quick.goals(torch.from_numpy(inside), W)
    anchors = inside[np.argsort(means[:, 0].numpy(), kind="stable")]
    spread = float(means.std(correction=0))
    quick = CautiousLoss(fitted.quick, W, _limits(fitted), spread)
    points, _ = _maximise(fitted, quick, anchors)
    finalists = np.concatenate([points[:_FINALISTS], anchors[:_FINALISTS]])
    final = CautiousLoss(fitted.surrogate, W, _limits(fitted), spread)
    best: Array = finalists[int(evaluate(final, finalists).argmax())]
    return best


def _maximise(
    fitted: Fitted, acquisition: AcquisitionFunction, anchors: Array
) -> tuple[Array, Array]:
    from optuna_mde.acquisition.polish import maximise

    return maximise(acquisition, fitted.region, anchors, np.random.default_rng(SEED))


def _limits(fitted: Fitted) -> Limits:
    from optuna_mde.acquisition.goals import Limits

    observations = fitted.observations
    return Limits(observations.objective.limits_on(observations.outputs))
