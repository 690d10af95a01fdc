"""The mixtures that everybody asks for: natural, uniform, the best expert, the best run."""

from __future__ import annotations

from optuna_mde.answers.fitted import Fitted
from optuna_mde.answers.rows import (
    Row,
    full_runs,
    observed_goal,
    point_of,
    row_of,
    run_row,
    told_runs,
)
from optuna_mde.simplex.projection import Array
from optuna_mde.trials.records import Record


def references(fitted: Fitted, best: Array) -> list[Row]:
    """Natural, uniform and best expert, with the other parameters as recommended."""
    rows = []
    groups = fitted.space.groups
    if groups and all(group.natural is not None for group in groups):
        rows.append(row_of(fitted, "natural", with_rates(fitted, best, "natural")))
    if groups:
        rows.append(row_of(fitted, "uniform", with_rates(fitted, best, "uniform")))
    experts = [row for t in told_runs(fitted) if (row := _expert_row(fitted, t)) is not None]
    return rows + sorted(experts, key=lambda row: fitted.sign * row.objective.mean)[:1]


def best_seen(fitted: Fitted) -> Row | None:
    """The full run with the lowest observed objective."""
    values = [(observed_goal(fitted, t), t) for t in full_runs(fitted)]
    runs = [(value, t) for value, t in values if value is not None]
    if not runs:
        return None
    _, trial = min(runs, key=lambda pair: (pair[0], pair[1].number))
    return run_row(fitted, "best seen", trial)


def with_rates(fitted: Fitted, best: Array, kind: str) -> Array:
    x = best.copy()
    for group in fitted.space.groups:
        rates = group.natural if kind == "natural" else None
        x[fitted.space.block(group)] = rates if rates is not None else 1.0 / group.size
    return x


def _expert_row(fitted: Fitted, trial: Record) -> Row | None:
    """An expert as a full run; of one on a share of it, what a full one is predicted to give."""
    if not fitted.space.groups or trial.corner(fitted.space.groups[0]) is None:
        return None
    if trial.budget >= 1.0:
        return run_row(fitted, "best expert", trial)
    x = point_of(fitted, trial)
    return None if x is None else row_of(fitted, "best expert", x)
