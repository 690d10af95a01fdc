"""How far a surrogate can be trusted: leave-one-out prediction of runs that are no experts.

Over all runs it would flatter: an expert's loss is its MDE value by construction. In a world where
MDE is useless inside the simplex, the rank correlation over all runs read .80, the true one .30.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optuna_mde.answers.fitted import Fitted
from optuna_mde.answers.held_out import FEWEST, leave_one_out
from optuna_mde.answers.intervals import Z90
from optuna_mde.simplex.projection import Array

_ENOUGH, _LEAST_INSIDE = 8, 0.7  # of so many runs; seldom fewer where intervals are right


@dataclass(frozen=True)
class Trust:
    """Leave-one-out quality of the predicted objective."""

    n_runs: int
    """Finished runs that are no experts."""
    rmse: float | None
    """Root mean square error, nats per token; None below four runs."""
    spearman: float | None
    """Rank correlation of predicted and observed objective."""
    coverage: float | None
    """Share of the runs inside their 90 % interval, noise included."""
    statement: str
    """The same in words."""

    def __str__(self) -> str:
        return self.statement


def judge(fitted: Fitted) -> Trust:
    """Judge the surrogate of a study by its first goal."""
    mean, sd, observed = leave_one_out(fitted)
    n = len(observed)
    if n < FEWEST:
        runs = f"{n} run{'s' * (n != 1)} beside the experts"
        return Trust(n, None, None, None, f"not known yet: {runs}, {FEWEST} are needed")
    error = observed - mean
    rmse = float(np.sqrt(np.mean(error**2)))
    spearman = _rank_correlation(mean, observed)
    inside = int((np.abs(error) <= Z90 * sd).sum())
    noise = float(fitted.noise()[0])
    outside = n >= _ENOUGH and inside < _LEAST_INSIDE * n
    verdict = _verdict(spearman, rmse, max(noise, _at_stake(fitted) / 8.0), outside)
    rank = "undefined" if spearman is None else f"{spearman:.2f}"
    statement = (
        f"{verdict}: leave-one-out over {n} runs, rank correlation {rank}, "
        f"error {rmse:.4f} (noise of one run {noise:.4f}), "
        f"{inside} of {n} inside their 90 % interval"
    )
    return Trust(n, rmse, spearman, inside / n, statement)


def _at_stake(fitted: Fitted) -> float:
    """What the best told run is expected to gain on the best of natural, uniform and experts."""
    groups = fitted.space.groups
    if not groups:
        return 0.0
    base = fitted.best_told()
    points = []
    for group in groups[:1]:
        block = fitted.space.block(group)
        known = () if group.natural is None else (np.array(group.natural),)
        for rates in (*known, np.full(group.size, 1.0 / group.size), *np.eye(group.size)):
            point = base.copy()
            point[block] = rates
            points.append(point)
    mean, _ = fitted.goals(np.array([base, *points]))
    return max(float(mean[1:, 0].min() - mean[0, 0]), 0.0)


def _verdict(spearman: float | None, rmse: float, unit: float, outside: bool) -> str:
    """In a word. A search that stays near its optimum makes runs that differ by little more than
    their noise, which nobody could rank: then the error counts, in units of the noise or of an
    eighth of what the recommendation is to gain, whichever is larger. Where too many runs lie
    outside their intervals, nothing is good."""
    rank = -1.0 if spearman is None else spearman
    if not outside and (rank >= 0.8 or rmse <= 2.0 * unit):
        return "good"
    return "fair" if rank >= 0.5 or rmse <= 4.0 * unit else "poor"


def _rank_correlation(a: Array, b: Array) -> float | None:
    from scipy.stats import rankdata

    ranks = np.stack([rankdata(a), rankdata(b)])
    if np.any(ranks.std(axis=1) == 0):
        return None
    return float(np.corrcoef(ranks)[0, 1])
