"""What a surrogate of the small world is fitted to."""

from __future__ import annotations

import numpy as np
import torch

from optuna_mde.coreset import Coreset
from optuna_mde.features import Features
from optuna_mde.surrogate import Runs


def runs_of(world, n: int, seed: int = 0) -> Runs:
    """The experts and n mixtures."""
    K = len(world.domains)
    inner = np.random.default_rng(seed).dirichlet(np.ones(K), n)
    X = np.concatenate([np.eye(K), inner])
    return Runs(
        torch.from_numpy(X),
        torch.from_numpy(world.observed(X, seed)),
        torch.arange(len(X)) < K,
    )


def features_of(world, experts: bool = True) -> Features:
    block = slice(0, len(world.domains))
    coreset = Coreset(world.table) if experts else None
    return Features(len(world.domains), [block], world.sets, block, coreset)
