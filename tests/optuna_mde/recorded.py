"""Studies of the small world, from runs that are made up rather than searched for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import FloatDistribution

from optuna_mde import save_logprobs
from optuna_mde.objective import Objective


def study_of_runs(
    world, folder: Path | None, rates: np.ndarray, losses: np.ndarray, **attrs: Any
) -> optuna.Study:
    """A study of the world's experts, if there is a folder for their files, and of these runs.

    Args:
        world: domains, sets, experts.
        folder: for log-probabilities.
        rates: `[n, K]` of the runs beside the experts.
        losses: `[n, M]` of them, nats per token.
        attrs: further user attributes of every trial; ``goals`` an objective as users write it.
    """
    study = optuna.create_study(directions=["minimize"] * attrs.pop("n_goals", 1))
    goals = Objective.parse(attrs.pop("goals", None))
    attrs["objective"] = goals.to_json()
    n_experts = len(world.domains) if folder is not None else 0
    corners = np.eye(len(world.domains))[:n_experts]
    X = np.concatenate([corners, rates])
    Y = np.concatenate([world.true_losses(corners) if n_experts else losses[:0], losses])
    for i, (x, y) in enumerate(zip(X, Y, strict=True)):
        told = dict(zip(world.sets, y.tolist(), strict=True))
        url = {}
        if i < n_experts:
            domain = world.domains[i]
            url = {"logprobs": save_logprobs(folder / domain, world.logprobs[domain])}
        add_run(
            study, dict(zip(world.domains, x, strict=True)), goals.values(told), losses=told,
            **url, **attrs,
        )  # fmt: skip
    return study


def add_run(
    study: optuna.Study, mixture: Mapping[str, float], values: tuple[float, ...], **attrs: Any
) -> None:
    """A finished run of a mixture."""
    params = {f"mix/{domain}": float(rate) for domain, rate in mixture.items()}
    study.add_trial(
        optuna.create_trial(
            params=params,
            distributions=dict.fromkeys(params, FloatDistribution(0.0, 1.0)),
            values=list(values),
            user_attrs=attrs,
        )
    )


def inner(n: int, K: int = 4, seed: int = 0, concentration: float = 1.0) -> np.ndarray:
    """Mixtures at random, `[n, K]`."""
    return np.random.default_rng(seed).dirichlet(np.full(K, concentration), n)
