"""What to train: the mixture with the best loss, doubt charged, and what to make of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from optuna_mde.answers.answer import Recommendation
from optuna_mde.answers.fitted import Fitted, fit_study, place
from optuna_mde.answers.intervals import Z90
from optuna_mde.answers.rows import (
    Row,
    full_runs,
    observed_goal,
    point_of,
    row_of,
    run_row,
    told_runs,
)
from optuna_mde.answers.trust import FEWEST, leave_one_out, trust
from optuna_mde.gp import calibration
from optuna_mde.gp.torch_state import gradients
from optuna_mde.objective import ObjectiveLike
from optuna_mde.simplex.projection import Array
from optuna_mde.trials.records import Record

if TYPE_CHECKING:
    import optuna
    import torch
    from botorch.acquisition.acquisition import AcquisitionFunction

    from optuna_mde.acquisition.goals import Limits

_SEED = 0  # candidates of a recommendation: the same study gets the same one
_FINALISTS = 8  # mixtures that are compared on every token
_FRONT = 24  # weightings of several goals that are each minimised
_APART = 0.01  # L1 distance below which two mixtures of a front are the same one
_FLAT = 2.0  # range of expected goals, in noise sd, below which a study is flat
_NO_SKILL = 0.7  # share of the runs' variance that leave-one-out must leave unexplained at most


@gradients()
def recommend(study: optuna.Study, objective: ObjectiveLike = None) -> Recommendation:
    """Recommend a mixture.

    The recommended mixture lies inside the bounds in force and has the lowest expected loss under
    the surrogate, wherever that is: it need not have been run. Where the runs leave the loss as
    good as unknown, half its sd is charged. With limits on validation losses it keeps them with
    the highest regard.

    Args:
        study: an Optuna study with at least one finished run.
        objective: another objective than that of the runs; needs no new run.

    Raises:
        ValueError: if no run has finished, or the objective names a set that no run reports.

    Example:
        >>> import optuna, optuna_mde
        >>> def objective(trial):
        ...     mixture = optuna_mde.suggest_mixture(trial, ["web", "code"])
        ...     return (mixture["code"] - 0.3) ** 2
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study(sampler=optuna_mde.MDESampler(seed=0))
        >>> study.optimize(objective, n_trials=12)
        >>> abs(optuna_mde.recommend(study).mixture["code"] - 0.3) < 0.05
        True
    """
    fitted = fit_study(study, objective)
    best, gain = _best_point(fitted)
    recommended = row_of(fitted, "recommended", best)
    rows = [recommended, *_references(fitted, best)]
    best_seen = _best_seen(fitted)
    if best_seen is not None:
        rows.append(best_seen)
    noise = float(fitted.noise().mean())
    signal = _has_signal(fitted, noise)
    verdict = trust(fitted)
    return Recommendation(
        mixture=recommended.mixture,
        params=recommended.params,
        objective=recommended.objective,
        losses=recommended.losses,
        rows=tuple(rows),
        best_seen=best_seen,
        trust=verdict,
        expected_gain=gain,
        noise_sd=noise,
        signal=signal,
        notes=_notes(fitted, best, rows, signal),
        pareto=_front(fitted, best) if len(fitted.weights) > 1 else (),
    )


def _best_point(fitted: Fitted) -> tuple[Array, float]:
    """The allowed point with the lowest goal, doubt charged, and what another run may gain."""
    import torch

    from optuna_mde.acquisition.one_goal import LogKnowledgeGradient

    W = torch.from_numpy(fitted.weights.mean(axis=0, keepdims=True))
    best = _minimise(fitted, W)
    with torch.no_grad():
        improvement = LogKnowledgeGradient(
            fitted.quick, W, _limits(fitted), torch.from_numpy(best[None]), noisy=False
        )
    _, values = _maximise(fitted, improvement, best[None])
    gain = float(np.exp(values[0])) if improvement.incumbent is not None else 0.0
    return best, gain


def _minimise(fitted: Fitted, W: torch.Tensor) -> Array:
    """The allowed point with the lowest weighted goals; the last word has every token."""
    import torch

    from optuna_mde.acquisition.one_goal import CautiousLoss
    from optuna_mde.acquisition.polish import evaluate

    inside = fitted.region.snap(fitted.observations.X)
    with torch.no_grad():
        means, _ = fitted.quick.goals(torch.from_numpy(inside), W)
    anchors = inside[np.argsort(means[:, 0].numpy(), kind="stable")]
    spread = float(means.std(correction=0))
    quick = CautiousLoss(fitted.quick, W, _limits(fitted), spread)
    points, _ = _maximise(fitted, quick, anchors)
    finalists = np.concatenate([points[:_FINALISTS], anchors[:_FINALISTS]])
    final = CautiousLoss(fitted.surrogate, W, _limits(fitted), spread)
    best: Array = finalists[int(evaluate(final, finalists).argmax())]
    return best


def _maximise(
    fitted: Fitted, acquisition: AcquisitionFunction, anchors: Array
) -> tuple[Array, Array]:
    from optuna_mde.acquisition.polish import maximise

    return maximise(acquisition, fitted.region, anchors, np.random.default_rng(_SEED))


def _limits(fitted: Fitted) -> Limits:
    from optuna_mde.acquisition.goals import Limits

    observations = fitted.observations
    return Limits(observations.objective.limits_on(observations.outputs))


def _references(fitted: Fitted, best: Array) -> list[Row]:
    """Natural, uniform and best expert, with the other parameters as recommended."""
    rows = []
    groups = fitted.space.groups
    if groups and all(group.natural is not None for group in groups):
        rows.append(row_of(fitted, "natural", _with(fitted, best, "natural")))
    if groups:
        rows.append(row_of(fitted, "uniform", _with(fitted, best, "uniform")))
    experts = [row for t in told_runs(fitted) if (row := _expert_row(fitted, t)) is not None]
    return rows + sorted(experts, key=lambda row: fitted.sign * row.objective.mean)[:1]


def _expert_row(fitted: Fitted, trial: Record) -> Row | None:
    """An expert as a full run; of one on a share of it, what a full one is predicted to give."""
    if not fitted.space.groups or trial.corner(fitted.space.groups[0]) is None:
        return None
    if trial.budget >= 1.0:
        return run_row(fitted, "best expert", trial)
    x = point_of(fitted, trial)
    return None if x is None else row_of(fitted, "best expert", x)


def _with(fitted: Fitted, best: Array, kind: str) -> Array:
    x = best.copy()
    for group in fitted.space.groups:
        rates = group.natural if kind == "natural" else None
        x[fitted.space.block(group)] = rates if rates is not None else 1.0 / group.size
    return x


def _best_seen(fitted: Fitted) -> Row | None:
    """The full run with the lowest observed objective."""
    values = [(observed_goal(fitted, t), t) for t in full_runs(fitted)]
    runs = [(value, t) for value, t in values if value is not None]
    if not runs:
        return None
    _, trial = min(runs, key=lambda pair: (pair[0], pair[1].number))
    return run_row(fitted, "best seen", trial)


def _has_signal(fitted: Fitted, noise: float) -> bool:
    """Whether the told runs, experts among them, tell mixtures apart beyond the noise of one run.

    Without MDE losses a process can draw a landscape through noise: it must also predict runs that
    it has not seen better than their average does.
    """
    mean, _ = fitted.goals(fitted.observations.X)
    spread = mean.mean(axis=1)
    if spread.max() - spread.min() <= _FLAT * noise:
        return False
    predicted, _, observed = leave_one_out(fitted, experts=True)
    if fitted.surrogate.features.coreset is not None or len(observed) < FEWEST:
        return True
    return bool(np.mean((observed - predicted) ** 2) < _NO_SKILL * np.var(observed, ddof=1))


def _notes(fitted: Fitted, best: Array, rows: list[Row], signal: bool) -> tuple[str, ...]:
    notes = []
    if not signal:
        notes.append(
            "The runs do not tell mixtures apart from the noise of a single run: there is no "
            "winner to name (yet)."
        )
    reference = next((r for r in rows if r.name in ("natural", "uniform")), None)
    if signal and reference is not None:
        gain, sd = _difference(fitted, best, _with(fitted, best, reference.name))
        half = Z90 * calibration.of_rows(fitted.surrogate.features) * sd
        if gain <= half:
            notes.append(
                f"The gain over the {reference.name} mixture, {gain:.4f} ± {half:.4f}, "
                "is within its 90 % interval of nothing."
            )
    outside = [row.name for row in rows if _is_outside(fitted, best, row)]
    if outside:
        notes.append(f"Outside the bounds or constraints in force: {', '.join(outside)}.")
    if any(row.name == "best expert" and row.trial is None for row in rows):
        notes.append(
            "The best expert was trained on a share of a run: its row is an estimate for a full "
            "one, and the interval is too narrow."
        )
    missing = [d for d in fitted.observations.domains if d not in fitted.expert_domains]
    if missing and len(missing) < len(fitted.observations.domains):
        notes.append(
            f"No expert log-probabilities for {', '.join(missing)}: "
            "its share is predicted from the rates alone."
        )
    return tuple(notes)


def _is_outside(fitted: Fitted, best: Array, row: Row) -> bool:
    groups = fitted.space.groups
    names = {name for group in groups for name in group.names}
    parts = {n if n in names else groups[0].prefix + n: rate for n, rate in row.mixture.items()}
    return not fitted.region.contains(place(fitted.space, best, {**row.params, **parts}))


def _difference(fitted: Fitted, best: Array, other: Array) -> tuple[float, float]:
    """Mean and sd of the first goal at ``other`` minus that at ``best``."""
    import torch

    pair = torch.from_numpy(np.stack([best, other]))[None]
    with torch.no_grad():
        mean, covariance = fitted.surrogate.joint_goals(pair, torch.from_numpy(fitted.weights[:1]))
    C = covariance[0, 0]
    variance = float(C[0, 0] + C[1, 1] - 2.0 * C[0, 1])
    return float(mean[0, 1, 0] - mean[0, 0, 0]), max(variance, 0.0) ** 0.5


def _front(fitted: Fitted, best: Array) -> tuple[Row, ...]:
    """Non-dominated mixtures by predicted goals: the minima of many weightings."""
    import torch
    from botorch.utils.multi_objective.pareto import is_non_dominated

    # Goals on one scale, else the widest one decides every weighting.
    mean, _ = fitted.goals(fitted.region.snap(fitted.observations.X))
    scaled = _weightings(len(fitted.weights)) / np.maximum(mean.std(axis=0), 1e-9)
    points = [best]
    for weights in scaled / scaled.sum(axis=1, keepdims=True):
        points.append(_minimise(fitted, torch.from_numpy(weights[None] @ fitted.weights)))
    X = np.stack(points)
    mean, _ = fitted.goals(X)
    kept = np.flatnonzero(is_non_dominated(-torch.from_numpy(mean), deduplicate=True).numpy())
    front: list[Array] = []
    for x in X[kept[np.argsort(mean[kept, 0], kind="stable")]]:
        if all(np.abs(x - other).sum() > _APART for other in front):
            front.append(x)
    return tuple(row_of(fitted, f"front {i + 1}", x) for i, x in enumerate(front))


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
    spread = sample_simplex(n_goals, inner, qmc=True, seed=_SEED, dtype=torch.float64)
    return np.concatenate([np.eye(n_goals), spread.numpy()])
