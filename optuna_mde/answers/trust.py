"""How far a surrogate can be trusted: leave-one-out prediction of runs that are no experts.

Over all runs it would flatter: an expert's loss is its MDE value by construction. In a world where
MDE is useless inside the simplex, the rank correlation over all runs read .80, the true one .30.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from optuna_mde.answers.fitted import Fitted
from optuna_mde.answers.held_out import FEWEST, HeldOut, leave_one_out
from optuna_mde.answers.intervals import Z90
from optuna_mde.gp import calibration
from optuna_mde.simplex.projection import Array

VERDICTS = ("good", "fair", "poor")
UNJUDGED = "cannot be judged, as these runs differ by little more than their noise"

# Chance of so few runs inside their 90 % intervals, were those right, below which they are not, or
# may not be: 3 of 5 have .08, 6 of 8 .19, 15 of 19 .11, 16 of 20 .13.
_WRONG, _DOUBTFUL = 0.1, 0.2

# Least rank correlations, and largest errors in units of the noise or of that share of the gain,
# see `_verdict`.
_GOOD_RANK, _FAIR_RANK = 0.8, 0.5
_GOOD_ERROR, _FAIR_ERROR = 2.0, 4.0
_OF_THE_GAIN = 0.125


@dataclass(frozen=True)
class GoalTrust:
    """Leave-one-out quality of one goal."""

    name: str
    verdict: str
    """``good``, ``fair``, ``poor``, or that it cannot be judged."""
    rmse: float
    """Root mean square error, in the goal's unit: nats per token for losses."""
    spearman: float | None
    """Rank correlation of predicted and observed values; None where all are alike."""
    inside: int
    """Runs inside their 90 % interval, noise included."""
    n_runs: int
    """Runs that were judged."""
    noise_sd: float
    """Sd of a single run."""

    def __str__(self) -> str:
        rank = "undefined" if self.spearman is None else f"{self.spearman:.2f}"
        return (
            f"rank correlation {rank}, error {self.rmse:.4f} (noise of one run "
            f"{self.noise_sd:.4f}), {self.inside} of {self.n_runs} inside their 90 % interval"
        )


@dataclass(frozen=True)
class Trust:
    """Leave-one-out quality of the predicted goals. Figures are those of the goal that is judged
    worst, where there are several."""

    n_runs: int
    """Finished runs that are no experts."""
    rmse: float | None
    """Root mean square error, nats per token; None below four runs."""
    spearman: float | None
    """Rank correlation of predicted and observed objective."""
    coverage: float | None
    """Share of the runs inside their 90 % interval, noise included, before that is widened."""
    statement: str
    """The same in words, and where it was judged."""
    goals: tuple[GoalTrust, ...] = ()
    """Every goal, by name; empty below four runs."""

    def __str__(self) -> str:
        return self.statement


def judge(fitted: Fitted, *, signal: bool = True) -> Trust:
    """Judge the surrogate of a study by each of its goals.

    Args:
        fitted: the surrogate.
        signal: whether the runs tell mixtures apart beyond their noise. Where they do not, small
            errors show nothing: nobody could rank these runs, nor be far from them.
    """
    factor = calibration.of_answers(fitted.surrogate.features)
    held = leave_one_out(fitted, fitted.weights, factor=factor)
    n = max(len(one.mean) for one in held)
    failed = f"the model could not be fitted ({fitted.failure})" if fitted.failure else ""
    noise, gains = fitted.noise(), _at_stake(fitted)
    goals = tuple(
        _judged(name, one, float(noise[g]), float(gains[g]), failed=bool(failed))
        for g, (name, one) in enumerate(zip(fitted.names, held, strict=True))
        if len(one.mean) >= FEWEST
    )
    if not goals:
        runs = f"{n} run{'s' * (n != 1)} beside the experts"
        known = f"{'poor' if failed else 'not known yet'}: {runs}, {FEWEST} are needed"
        return Trust(n, None, None, None, "; ".join(filter(None, [known, failed])))
    worst = max(goals, key=lambda goal: VERDICTS.index(goal.verdict))
    if not signal:
        goals = tuple(map(_unjudged, goals))
        worst = _unjudged(worst)
    said = [f"leave-one-out over {n} runs, {worst}"]
    if len(held) > 1:
        said = [f"leave-one-out over {n} runs"]
        said += [f"{goal.name} {goal.verdict}, {goal}" for goal in goals]
        untold = set(fitted.names) - {goal.name for goal in goals}
        said += [f"{name} not known yet" for name in fitted.names if name in untold]
    said += [failed, _where(fitted)]
    return Trust(
        n_runs=n,
        rmse=worst.rmse,
        spearman=worst.spearman,
        coverage=worst.inside / worst.n_runs,
        statement=f"{worst.verdict}: {'; '.join(filter(None, said))}",
        goals=goals,
    )


def _judged(name: str, held: HeldOut, noise: float, gain: float, *, failed: bool) -> GoalTrust:
    error, n = held.observed - held.mean, len(held.mean)
    rmse = float(np.sqrt(np.mean(error**2)))
    spearman = rank_correlation(held.mean, held.observed)
    inside = int((np.abs(error) <= Z90 * held.sd).sum())
    verdict = (
        "poor" if failed else _verdict(spearman, rmse, max(noise, _OF_THE_GAIN * gain), inside, n)
    )
    return GoalTrust(name, verdict, rmse, spearman, inside, n, noise)


def _unjudged(goal: GoalTrust) -> GoalTrust:
    """Of runs that differ by little more than their noise, and were not ranked well all the
    same: that the errors are as small says nothing of the model."""
    ranked = goal.spearman is not None and goal.spearman >= _GOOD_RANK
    return goal if ranked or goal.verdict == "poor" else replace(goal, verdict=UNJUDGED)


def _verdict(spearman: float | None, rmse: float, unit: float, inside: int, n: int) -> str:
    """In a word. A search that stays near its optimum makes runs that differ by little more than
    their noise, which nobody could rank: then the error counts, in units of the noise or of an
    eighth of what the recommendation is to gain, whichever is larger. Where too many runs lie
    outside their intervals nothing is good, however well they are ranked."""
    from scipy.special import bdtr

    rank = -1.0 if spearman is None else spearman
    chance = float(bdtr(inside, n, 0.9))
    if chance < _WRONG:
        return "poor"
    if chance >= _DOUBTFUL and (rank >= _GOOD_RANK or rmse <= _GOOD_ERROR * unit):
        return "good"
    return "fair" if rank >= _FAIR_RANK or rmse <= _FAIR_ERROR * unit else "poor"


def _where(fitted: Fitted) -> str:
    """Where the judged runs lie: a search makes most of them near its optimum."""
    observations = fitted.observations
    if observations.block is None:
        return ""
    runs = observations.X[observations.mixed]
    goals, _ = fitted.goals(runs, fitted.overall)
    rates = runs[:, observations.block]
    away = np.abs(rates - rates[goals[:, 0].argmin()]).sum(axis=1) / 2.0
    return (
        f"judged where these runs are, of which half differ from the best of them by at most "
        f"{100 * float(np.median(away)):.0f} % of the mixture: predictions elsewhere may be off"
    )


def _at_stake(fitted: Fitted) -> Array:
    """What the best told run is expected to gain `[G]` on the best of natural, uniform and
    experts."""
    groups = fitted.space.groups
    if not groups:
        return np.zeros(len(fitted.weights))
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
    gains: Array = np.maximum(mean[1:].min(axis=0) - mean[0], 0.0)
    return gains


def rank_correlation(a: Array, b: Array) -> float | None:
    ranks = np.stack([_ranks(a), _ranks(b)])
    if np.any(ranks.std(axis=1) == 0):
        return None
    return float(np.asarray(np.corrcoef(ranks))[0, 1])


def _ranks(values: Array) -> Array:
    """Ranks `[n]`, of equal values their mean; `scipy.stats` takes as long to load as the rest."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Array = counts.cumsum() - (counts - 1) / 2.0
    return ranks[place]
