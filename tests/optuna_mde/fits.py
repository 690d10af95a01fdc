"""What a surrogate of the small world is fitted to, and tables of observations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from optuna_mde.gp.features import Features
from optuna_mde.gp.fitting import fit
from optuna_mde.gp.surrogate import Runs, Surrogate
from optuna_mde.mde.coreset import Coreset
from optuna_mde.objective import Objective
from optuna_mde.observations import Observations, Output

ROWS = ("X", "Y", "numbers", "corner", "budget", "schedule", "tokens", "parameters")


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


def fitted_to_rates(X: np.ndarray, Y: np.ndarray) -> Surrogate:
    """Losses `[n, M]` of mixtures `[n, K]`, without experts."""
    runs = Runs(torch.from_numpy(X), torch.from_numpy(Y), torch.zeros(len(X), dtype=torch.bool))
    names = [f"set {i}" for i in range(Y.shape[1])]
    return fit(Features(X.shape[1], [slice(0, X.shape[1])], names), runs)


def observed(
    X: np.ndarray, Y: np.ndarray, sets: Sequence[str], domains: Sequence[str], **fields: Any
) -> Observations:
    """Full runs of mixtures `[n, K]`, none of which counts as an expert."""
    n, K = X.shape
    plain = Observations(
        columns=tuple(f"mix/{domain}" for domain in domains),
        X=X,
        Y=Y,
        targets=tuple(map(Output, sets)),
        numbers=np.arange(n),
        corner=np.zeros(n, dtype=bool),
        budget=np.ones(n),
        schedule=np.ones(n),
        tokens=np.full(n, np.nan),
        parameters=np.full(n, np.nan),
        pending=np.zeros((0, K)),
        stalled=np.zeros((0, K)),
        experts=(),
        block=slice(0, K),
        domains=tuple(domains),
        objective=Objective(),
    )
    return replace(plain, **fields)


def rows(observations: Observations, index: Any) -> Observations:
    """The observations with these rows alone."""
    return replace(observations, **{name: getattr(observations, name)[index] for name in ROWS})
