"""Non-dominated mixtures of several goals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optuna_mde.answers.fitted import Fitted
from optuna_mde.answers.optimum import SEED, minimise
from optuna_mde.answers.rows import Row, row_of
from optuna_mde.simplex.projection import Array, apart

_FRONT = 24  # weightings of several goals that are each minimised
SHOWN = 7  # mixtures of a front that a reader compares
_APART = 0.01  # L1 distance below which two mixtures of a front are the same one


def front(fitted: Fitted, best: Array) -> tuple[Row, ...]:
    """Non-dominated mixtures by predicted goals: the minima of many weightings."""
    import torch
    from botorch.utils.multi_objective.pareto import is_non_dominated

    # Goals on one scale, else the widest one decides every weighting.
    mean, _ = fitted.goals(fitted.region.snap(fitted.observations.X))
    scaled = _weightings(len(fitted.weights)) / np.maximum(mean.std(axis=0), 1e-9)
    points = [best]
    for weights in scaled / scaled.sum(axis=1, keepdims=True):
        points.append(minimise(fitted, torch.from_numpy(weights[None] @ fitted.weights)))
    X = np.stack(points)
    mean, _ = fitted.goals(X)
    kept = np.flatnonzero(is_non_dominated(-torch.from_numpy(mean), deduplicate=True).numpy())
    shown = apart(X[kept[np.argsort(mean[kept, 0], kind="stable")]], _APART)
    return tuple(row_of(fitted, f"front {i + 1}", x) for i, x in enumerate(shown))


def spread(rows: Sequence[Row], most: int = SHOWN) -> tuple[Row, ...]:
    """At most so many rows of a front, as far apart in the goals as can be, in their order.

    The ends of the first goal come first, then whatever is farthest from all that are taken, each
    goal in units of its range.
    """
    if len(rows) <= most:
        return tuple(rows)
    goals = np.array([[goal.mean for goal in row.goals] for row in rows])
    goals = goals / np.maximum(np.ptp(goals, axis=0), 1e-12)
    taken = [int(goals[:, 0].argmin()), int(goals[:, 0].argmax())]
    while len(taken) < most:
        away = np.linalg.norm(goals[:, None] - goals[taken], axis=2).min(axis=1)
        taken.append(int(away.argmax()))
    return tuple(rows[i] for i in sorted(set(taken)))


def marked(rows: Sequence[Row], recommended: Row) -> list[tuple[Row, bool]]:
    """The rows that `spread` takes and the recommended one, by the first goal; and which it is."""
    shown = spread(rows)
    same = next((row for row in shown if row.mixture == recommended.mixture), recommended)
    every = shown if same is not recommended else (*shown, recommended)
    return [(row, row is same) for row in sorted(every, key=lambda row: row.goals[0].mean)]


def _weightings(n_goals: int) -> Array:
    """Weightings `[m, G]` that cover all compromises evenly, each goal alone among them.

    Drawn at random, as many left out 2 to 9 % of the hypervolume of known fronts (three
    recordings, two emulators each); even ones of two goals leave out at most 1 %.
    """
    import torch
    from botorch.utils.sampling import sample_simplex

    if n_goals == 2:
        shares = np.linspace(1.0, 0.0, _FRONT)
        return np.stack([shares, 1.0 - shares], axis=1)
    inner = max(_FRONT - n_goals, n_goals)
    spread = sample_simplex(n_goals, inner, qmc=True, seed=SEED, dtype=torch.float64)
    return np.concatenate([np.eye(n_goals), spread.numpy()])
