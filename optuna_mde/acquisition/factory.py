"""The acquisition for the goals of a study."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from botorch.acquisition.acquisition import AcquisitionFunction
from torch import Tensor

from optuna_mde.acquisition.goals import Limits
from optuna_mde.acquisition.many_goals import ChebyshevImprovement, HypervolumeImprovement
from optuna_mde.acquisition.one_goal import LogKnowledgeGradient
from optuna_mde.gp.surrogate import Surrogate

HYPERVOLUME_GOALS = 4  # box decompositions beyond four goals take too long


def build(
    surrogate: Surrogate,
    W: Tensor,
    limits: Sequence[tuple[int, float]],
    incumbents: Tensor,
    seed: int,
) -> AcquisitionFunction:
    """The acquisition for these goals: KG for one, hypervolume up to four, else scalarised.

    Args:
        surrogate: fitted, and believing in the pending runs.
        W: `G x M` weights.
        limits: (index of the output, limit).
        incumbents: `[n, d]` told and pending points, inside the region.
        seed: of Monte Carlo samples and scalarisation.
    """
    kept = Limits(limits)
    with torch.no_grad():
        if len(W) == 1:
            return LogKnowledgeGradient(surrogate, W, kept, incumbents)
        if len(W) <= HYPERVOLUME_GOALS:
            return HypervolumeImprovement(surrogate, W, kept, incumbents, seed)
        generator = torch.Generator().manual_seed(seed)
        return ChebyshevImprovement(surrogate, W, kept, incumbents, generator)
