"""The rows of a recommendation: a mixture, what is predicted of it and what was observed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from optuna_mde.answers.fitted import Fitted
from optuna_mde.answers.intervals import Interval, interval, signed, weighed
from optuna_mde.gp import calibration
from optuna_mde.objective import CONSTRAINT
from optuna_mde.simplex.projection import Array
from optuna_mde.trials.records import Record

_SAME = 1e-6  # L1 distance below which a run is a run of the mixture


@dataclass(frozen=True)
class Row:
    """A mixture, its predicted losses and what was observed."""

    name: str
    """``recommended``, ``natural``, ``uniform``, ``best expert``, ``best seen``, ``front 1``…"""
    mixture: dict[str, float]
    """{domain: rate}; parts of a second mixture have their prefix."""
    params: dict[str, Any]
    """The other parameters."""
    objective: Interval
    """First goal, or the mean of several."""
    losses: dict[str, Interval]
    """By validation set (or objective value, where no losses were reported)."""
    observed: float | None
    """Objective observed, the mean if it was run more than once."""
    trial: int | None
    """First trial that ran it."""
    goals: tuple[Interval, ...] = ()
    """Every goal, where there are several."""


def row_of(fitted: Fitted, name: str, x: Array, trial: Record | None = None) -> Row:
    mean, sd = fitted.outputs(x[None])
    goal_mean, goal_sd = fitted.goals(x[None])
    sign, wider = fitted.sign, calibration.of_rows(fitted.surrogate.features)
    goals = tuple(interval(m, wider * s) for m, s in zip(goal_mean[0], goal_sd[0], strict=True))
    runs = [t for t in full_runs(fitted) if _distance(fitted, t, x) <= _SAME]
    observed = [observed_goal(fitted, t) for t in ([trial] if trial else runs)]
    values = [value for value in observed if value is not None]
    first = trial or (runs[0] if runs else None)
    decoded = fitted.space.decode(x)
    primary = fitted.space.groups[0].prefix if fitted.space.groups else ""
    parts = {n for g in fitted.space.groups for n in g.names}
    overall = goals[0] if len(goals) == 1 else _mean_interval(fitted, x)
    return Row(
        name=name,
        mixture={n.removeprefix(primary): decoded[n] for n in decoded if n in parts},
        params={n: v for n, v in decoded.items() if n not in parts},
        objective=signed(overall, sign),
        losses={
            output: signed(interval(mean[0, i], wider * sd[0, i]), sign)
            for i, output in enumerate(fitted.observations.outputs)
            if not output.startswith(CONSTRAINT)
        },
        observed=sign * float(np.mean(values)) if values else None,
        trial=first.number if first else None,
        goals=tuple(signed(g, sign) for g in goals) if len(goals) > 1 else (),
    )


def run_row(fitted: Fitted, name: str, trial: Record) -> Row | None:
    """The row of what a trial ran; None where its space is another one.

    The surrogate is not told the loss of an expert that has log-probabilities, which would spoil
    what it says of mixtures; here that run and its prediction are weighed by their precision.
    """
    x = point_of(fitted, trial)
    if x is None:
        return None
    row = row_of(fitted, name, x, trial)
    if not _is_untold(fitted, trial) or len(fitted.weights) > 1:
        return row
    outputs, noise = fitted.observations.outputs, fitted.surrogate.noise_sd.numpy()
    _, Y = fitted.told(trial)
    losses = {
        name: weighed(interval, fitted.sign * Y[i], noise[i])
        for i, name in enumerate(outputs)
        if (interval := row.losses.get(name)) is not None
    }
    observed = row.objective.mean if row.observed is None else row.observed
    objective = weighed(row.objective, observed, float(fitted.noise()[0]))
    return replace(row, losses=losses, objective=objective)


def _is_untold(fitted: Fitted, trial: Record) -> bool:
    """Whether the run is an expert that the surrogate knows by its log-probabilities alone."""
    groups = fitted.space.groups
    domain = trial.corner(groups[0]) if groups else None
    return domain is not None and domain in fitted.expert_domains


def told_runs(fitted: Fitted) -> list[Record]:
    """Finished runs, those of experts on a share of a full run among them."""
    told = set(fitted.observations.numbers.tolist())
    return [t for t in fitted.trials if t.number in told]


def full_runs(fitted: Fitted) -> list[Record]:
    """Finished runs that trained all of their steps."""
    return [t for t in told_runs(fitted) if t.budget >= 1.0]


def point_of(fitted: Fitted, trial: Record) -> Array | None:
    """Inputs `[d]` of what a trial ran; None where its space is another one."""
    found = {g.prefix: trial.mixture(g.prefix) for g in fitted.space.groups}
    mixtures = {prefix: mixture for prefix, mixture in found.items() if mixture is not None}
    return fitted.space.encode(trial.params, mixtures)


def observed_goal(fitted: Fitted, trial: Record) -> float | None:
    """The run's objective (minimised; the mean of several goals), by the objective in force."""
    _, Y = fitted.told(trial)
    weights = fitted.weights.mean(axis=0)
    value = float(Y[weights > 0] @ weights[weights > 0])
    return value if np.isfinite(value) else None


def _mean_interval(fitted: Fitted, x: Array) -> Interval:
    import torch

    W = torch.from_numpy(fitted.weights.mean(axis=0, keepdims=True))
    with torch.no_grad():
        mean, sd = fitted.surrogate.goals(torch.from_numpy(x[None]), W)
    return interval(float(mean), calibration.of_rows(fitted.surrogate.features) * float(sd))


def _distance(fitted: Fitted, trial: Record, x: Array) -> float:
    return float(np.abs(fitted.told(trial)[0] - x).sum())
