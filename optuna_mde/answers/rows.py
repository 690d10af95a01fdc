"""The rows of a recommendation: a mixture, what is predicted of it and what was observed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optuna_mde.answers.fitted import Fitted
from optuna_mde.answers.held_out import widening
from optuna_mde.answers.intervals import Interval, interval, signed
from optuna_mde.gp import calibration
from optuna_mde.simplex.projection import Array
from optuna_mde.trials.records import Record

SAME = 1e-6  # L1 distance below which a run is a run of the mixture
_ALLOWED = 1e-6  # by which recorded rates may miss a bound: they are often rounded


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
    """The goal; the mean of several, or the first of several plain objective values, which have
    units of their own."""
    losses: dict[str, Interval]
    """By validation set (or objective value, where no losses were reported)."""
    observed: float | None
    """The same as ``objective``, observed; the mean if it was run more than once."""
    trial: int | None
    """First trial that ran it."""
    goals: tuple[Interval, ...] = ()
    """Every goal, where there are several."""
    observed_goals: tuple[float | None, ...] = ()
    """The same, observed."""
    breaks: tuple[str, ...] = ()
    """Limits that it breaks: by observed losses where it was run, else by expected ones."""
    forbidden: bool = False
    """Whether bounds or constraints in force forbid it."""
    moved: bool = False
    """Whether it is the nearest allowed mixture to what its name says."""


def row_of(fitted: Fitted, name: str, x: Array, trial: Record | None = None) -> Row:
    observations = fitted.observations
    M, G = len(observations.outputs), len(observations.goal_signs)
    W = np.concatenate([np.eye(M), fitted.weights, fitted.shown])
    signs = (*observations.signs, *observations.goal_signs, fitted.shown_sign)
    *figures, shown = _intervals(fitted, x, W, signs)
    outputs, goals = figures[:M], figures[M:]
    runs = [t for t in full_runs(fitted) if _distance(fitted, t, x) <= SAME]
    judged = [trial] if trial else runs
    first = trial or (runs[0] if runs else None)
    decoded = fitted.space.decode(x)
    primary = fitted.space.groups[0].prefix if fitted.space.groups else ""
    parts = {n for g in fitted.space.groups for n in g.names}
    return Row(
        name=name,
        mixture={n.removeprefix(primary): decoded[n] for n in decoded if n in parts},
        params={n: v for n, v in decoded.items() if n not in parts},
        objective=shown,
        losses={observations.outputs[i]: outputs[i] for i in fitted.losses},
        observed=_mean(fitted, judged, fitted.shown[0], fitted.shown_sign),
        trial=first.number if first else None,
        goals=tuple(goals) if G > 1 else (),
        observed_goals=tuple(
            _mean(fitted, judged, w, sign)
            for w, sign in zip(fitted.weights, observations.goal_signs, strict=True)
        )
        if G > 1
        else (),
        breaks=broken(fitted, x, judged),
        forbidden=not is_allowed(fitted, x),
    )


def run_row(fitted: Fitted, name: str, trial: Record) -> Row | None:
    """The row of what a trial ran; None where its space is another one."""
    x = point_of(fitted, trial)
    return None if x is None else row_of(fitted, name, x, trial)


def broken(fitted: Fitted, x: Array, runs: Sequence[Record]) -> tuple[str, ...]:
    """Limits that runs at an input `[d]` broke on average, or would be expected to break."""
    if not fitted.limits:
        return ()
    told = [fitted.told(t)[1] for t in runs]
    expected = fitted.outputs(x[None])[0][0]
    names = []
    for i, limit in fitted.limits:
        seen = [Y[i] for Y in told if not np.isnan(Y[i])]
        if (np.mean(seen) if seen else expected[i]) > limit:
            names.append(fitted.observations.targets[i].label)
    return tuple(names)


def is_allowed(fitted: Fitted, x: Array) -> bool:
    """Whether an input `[d]` keeps the bounds and constraints in force."""
    return fitted.region.contains(x, _ALLOWED)


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


def observed(fitted: Fitted, trial: Record, w: Array) -> float | None:
    """The run's outputs, minimised, weighted by `[M]`; None where one of them is missing."""
    _, Y = fitted.told(trial)
    value = float(Y[w != 0.0] @ w[w != 0.0])
    return value if np.isfinite(value) else None


def widths(fitted: Fitted, W: Array) -> Array:
    """Factors `[G]` of the sd of weighted sums, in rows and in predictions."""
    return widening(fitted, W, calibration.of_answers(fitted.surrogate.features))


def _mean(fitted: Fitted, runs: Sequence[Record], w: Array, sign: float) -> float | None:
    values = [value for t in runs if (value := observed(fitted, t, w)) is not None]
    return sign * float(np.mean(values)) if values else None


def _intervals(fitted: Fitted, x: Array, W: Array, signs: Sequence[float]) -> list[Interval]:
    """Intervals of weighted sums `[G, M]` of the losses at an input `[d]`."""
    mean, sd = fitted.goals(x[None], W)
    sd = sd * widths(fitted, W)
    return [signed(interval(m, s), sign) for m, s, sign in zip(mean[0], sd[0], signs, strict=True)]


def _distance(fitted: Fitted, trial: Record, x: Array) -> float:
    return float(np.abs(fitted.told(trial)[0] - x).sum())
