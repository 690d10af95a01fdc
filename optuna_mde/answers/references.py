"""The mixtures that everybody asks for: natural, uniform, the best expert, the best run.

Natural and uniform are the mixtures that the start-up runs under these names: where bounds forbid
one, the nearest that they allow.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from optuna_mde.answers.fitted import Fitted
from optuna_mde.answers.rows import (
    SAME,
    Row,
    broken,
    full_runs,
    is_allowed,
    observed,
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
        rows.append(_baseline(fitted, best, "natural"))
    if groups:
        rows.append(_baseline(fitted, best, "uniform"))
    experts = [
        (_overall(fitted, row, t), t.number, row)
        for t in told_runs(fitted)
        if (row := _expert_row(fitted, t)) is not None
    ]
    return rows + [row for *_, row in sorted(experts, key=lambda found: found[:2])[:1]]


def _overall(fitted: Fitted, row: Row, trial: Record) -> float:
    """What a recommendation minimises, of an expert's row."""
    if not fitted.is_unlike:
        return fitted.shown_sign * row.objective.mean
    mean, _ = fitted.goals(fitted.told(trial)[0][None], fitted.overall)
    return float(mean[0, 0])


def best_seen(fitted: Fitted) -> Row | None:
    """The allowed full run with the lowest observed objective, of those that keep the limits if
    any do."""
    trial = best_run(fitted)
    return None if trial is None else run_row(fitted, "best seen", trial)


def best_run(fitted: Fitted) -> Record | None:
    """The trial of `best_seen`."""
    runs = [
        (bool(broken(fitted, fitted.told(t)[0], [t])), value, t.number, t)
        for t in full_runs(fitted)
        if (value := observed(fitted, t, fitted.overall[0])) is not None
        and is_allowed(fitted, fitted.told(t)[0])
    ]
    return min(runs, key=lambda run: run[:3])[3] if runs else None


def with_rates(fitted: Fitted, best: Array, kind: str) -> Array:
    """The allowed input `[d]` that is nearest to natural or uniform rates, all else as at best."""
    x: Array = fitted.region.snap(_ideal(fitted, best, kind))[0]
    return x


def _baseline(fitted: Fitted, best: Array, kind: str) -> Row:
    x = with_rates(fitted, best, kind)
    moved = bool(np.abs(x - _ideal(fitted, best, kind)).sum() > SAME)
    return replace(row_of(fitted, kind, x), moved=moved)


def _ideal(fitted: Fitted, best: Array, kind: str) -> Array:
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
