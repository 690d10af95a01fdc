"""What to train: the mixture with the best expected loss, and what to make of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from optuna_mde.objective import CONSTRAINT, ObjectiveLike
from optuna_mde.prediction import Fitted, fit_study
from optuna_mde.simplex import Array
from optuna_mde.trust import FEWEST, Z90, Trust, leave_one_out, trust

if TYPE_CHECKING:
    import optuna
    import torch

    from optuna_mde.acquisition import ClosedFormAcquisition
    from optuna_mde.records import Record

_SEED = 0  # candidates of a recommendation: the same study gets the same one
_FRONT = 24  # weightings of several goals that are each minimised
_SAME = 1e-6  # L1 distance below which a run is a run of the mixture
_FLAT = 2.0  # range of expected goals, in noise sd, below which a study is flat
_NO_SKILL = 0.7  # share of the runs' variance that leave-one-out must leave unexplained at most


@dataclass(frozen=True)
class Interval:
    """A 90 % interval of a noise-free loss, nats per token."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


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


@dataclass(frozen=True)
class Recommendation:
    """The answer of a study. ``print`` it for a table."""

    mixture: dict[str, float]
    """Recommended rates, {domain: rate}."""
    params: dict[str, Any]
    """Recommended values of the other parameters."""
    objective: Interval
    """Predicted objective of the recommended mixture."""
    losses: dict[str, Interval]
    """Predicted losses of the recommended mixture, by validation set."""
    rows: tuple[Row, ...]
    """Recommended, natural, uniform, best expert, best seen: those that exist, in this order."""
    best_seen: Row | None
    """The best run so far."""
    trust: Trust
    """How well the surrogate predicts runs that it has not seen."""
    expected_gain: float
    """Expected improvement of one more run over the recommended mixture, nats per token."""
    noise_sd: float
    """Sd of a single run's objective around its noise-free value."""
    signal: bool
    """Whether mixtures differ by more than the noise of a run."""
    notes: tuple[str, ...]
    """What the reader should know beside the figures."""
    pareto: tuple[Row, ...] = ()
    """For several goals: predicted non-dominated mixtures."""

    def __str__(self) -> str:
        from optuna_mde.tables import recommendation_text

        return recommendation_text(self)


def recommend(study: optuna.Study, objective: ObjectiveLike = None) -> Recommendation:
    """Recommend a mixture.

    The recommended mixture lies inside the bounds in force and has the lowest expected loss under
    the surrogate, wherever that is: it need not have been run. With limits on validation losses it
    keeps them with the highest regard.

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
    recommended = _row(fitted, "recommended", best)
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
    """The allowed point with the lowest expected goal, and what one more run may gain on it."""
    import torch

    from optuna_mde.acquisition import LogExpectedImprovement

    W = torch.from_numpy(fitted.weights.mean(axis=0, keepdims=True))
    best = _minimise(fitted, W)
    with torch.no_grad():
        improvement = LogExpectedImprovement(
            fitted.surrogate, W, _limits(fitted), torch.from_numpy(best[None])
        )
    _, values = _maximise(fitted, improvement, best[None])
    gain = float(np.exp(values[0])) if improvement.best is not None else 0.0
    return best, gain


def _minimise(fitted: Fitted, W: torch.Tensor) -> Array:
    import torch

    from optuna_mde.acquisition import ExpectedLoss

    inside = fitted.region.snap(fitted.history.X)
    with torch.no_grad():
        means, _ = fitted.surrogate.goals(torch.from_numpy(inside), W)
    anchors = inside[np.argsort(means[:, 0].numpy(), kind="stable")]
    points, _ = _maximise(fitted, ExpectedLoss(fitted.surrogate, W, _limits(fitted)), anchors)
    best: Array = points[0]
    return best


def _maximise(
    fitted: Fitted, acquisition: ClosedFormAcquisition, anchors: Array
) -> tuple[Array, Array]:
    from optuna_mde.polish import maximise

    return maximise(acquisition, fitted.region, anchors, np.random.default_rng(_SEED))


def _limits(fitted: Fitted) -> Any:
    from optuna_mde.acquisition import Limits

    outputs = fitted.history.outputs
    named = [(outputs.index(n), v) for n, v in fitted.history.objective.limits if n in outputs]
    return Limits(fitted.surrogate, named)


def _references(fitted: Fitted, best: Array) -> list[Row]:
    """Natural, uniform and best expert, with the other parameters as recommended."""
    rows = []
    groups = fitted.space.groups
    if groups and all(group.natural is not None for group in groups):
        rows.append(_row(fitted, "natural", _with(fitted, best, "natural")))
    if groups:
        rows.append(_row(fitted, "uniform", _with(fitted, best, "uniform")))
    experts = [t for t in _told(fitted) if groups and t.corner(groups[0]) is not None]
    if experts:
        points = [fitted.space.encode(t.params, _mixtures(fitted, t)) for t in experts]
        X = np.array([p for p in points if p is not None])
        mean, _ = fitted.goals(X)
        rows.append(_row(fitted, "best expert", X[int(mean.mean(axis=1).argmin())]))
    return rows


def _with(fitted: Fitted, best: Array, kind: str) -> Array:
    x = best.copy()
    for group in fitted.space.groups:
        rates = group.natural if kind == "natural" else None
        x[fitted.space.block(group)] = rates if rates is not None else 1.0 / group.size
    return x


def _best_seen(fitted: Fitted) -> Row | None:
    """The full run with the lowest observed objective."""
    runs = [(value, t) for t in _told(fitted) if (value := _observed(fitted, t)) is not None]
    if not runs:
        return None
    _, trial = min(runs, key=lambda pair: (pair[0], pair[1].number))
    x = fitted.space.encode(trial.params, _mixtures(fitted, trial))
    return None if x is None else _row(fitted, "best seen", x, trial)


def _told(fitted: Fitted) -> list[Record]:
    full = set(fitted.history.numbers[fitted.history.budget >= 1.0].tolist())
    return [t for t in fitted.trials if t.number in full]


def _mixtures(fitted: Fitted, trial: Record) -> dict[str, dict[str, float]]:
    found = {g.prefix: trial.mixture(g.prefix) for g in fitted.space.groups}
    return {prefix: mixture for prefix, mixture in found.items() if mixture is not None}


def _observed(fitted: Fitted, trial: Record) -> float | None:
    """The run's objective (minimised; the mean of several goals), by the objective in force."""
    row = int(np.flatnonzero(fitted.history.numbers == trial.number)[0])
    Y = fitted.history.Y[row]
    weights = fitted.weights.mean(axis=0)
    value = float(Y[weights > 0] @ weights[weights > 0])
    return value if np.isfinite(value) else None


def _row(fitted: Fitted, name: str, x: Array, trial: Record | None = None) -> Row:
    mean, sd = fitted.outputs(x[None])
    goal_mean, goal_sd = fitted.goals(x[None])
    sign = -1.0 if fitted.maximised and fitted.maximised[0] else 1.0
    goals = tuple(_interval(m, s) for m, s in zip(goal_mean[0], goal_sd[0], strict=True))
    runs = [t for t in _told(fitted) if _distance(fitted, t, x) <= _SAME]
    values = [v for t in ([trial] if trial else runs) if (v := _observed(fitted, t)) is not None]
    first = trial or (runs[0] if runs else None)
    decoded = fitted.space.decode(x)
    primary = fitted.space.groups[0].prefix if fitted.space.groups else ""
    parts = {n for g in fitted.space.groups for n in g.names}
    overall = goals[0] if len(goals) == 1 else _mean_interval(fitted, x)
    return Row(
        name=name,
        mixture={n.removeprefix(primary): decoded[n] for n in decoded if n in parts},
        params={n: v for n, v in decoded.items() if n not in parts},
        objective=_signed(overall, sign),
        losses={
            output: _signed(_interval(mean[0, i], sd[0, i]), sign)
            for i, output in enumerate(fitted.history.outputs)
            if not output.startswith(CONSTRAINT)
        },
        observed=sign * float(np.mean(values)) if values else None,
        trial=first.number if first else None,
        goals=tuple(_signed(g, sign) for g in goals) if len(goals) > 1 else (),
    )


def _mean_interval(fitted: Fitted, x: Array) -> Interval:
    import torch

    W = torch.from_numpy(fitted.weights.mean(axis=0, keepdims=True))
    with torch.no_grad():
        mean, sd = fitted.surrogate.goals(torch.from_numpy(x[None]), W)
    return _interval(float(mean), float(sd))


def _distance(fitted: Fitted, trial: Record, x: Array) -> float:
    row = int(np.flatnonzero(fitted.history.numbers == trial.number)[0])
    return float(np.abs(fitted.history.X[row] - x).sum())


def _interval(mean: float, sd: float) -> Interval:
    return Interval(float(mean), float(mean - Z90 * sd), float(mean + Z90 * sd))


def _signed(interval: Interval, sign: float) -> Interval:
    if sign > 0:
        return interval
    return Interval(-interval.mean, -interval.high, -interval.low)


def _has_signal(fitted: Fitted, noise: float) -> bool:
    """Whether the told runs, experts among them, tell mixtures apart beyond the noise of one run.

    Without MDE losses a process can draw a landscape through noise: it must also predict runs that
    it has not seen better than their average does.
    """
    mean, _ = fitted.goals(fitted.history.X)
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
        if gain <= Z90 * sd:
            notes.append(
                f"The gain over the {reference.name} mixture, {gain:.4f} ± {Z90 * sd:.4f}, "
                "is within its 90 % interval of nothing."
            )
    missing = [d for d in fitted.history.domains if d not in _expert_domains(fitted)]
    if missing and len(missing) < len(fitted.history.domains):
        notes.append(
            f"No expert log-probabilities for {', '.join(missing)}: "
            "its share is predicted from the rates alone."
        )
    return tuple(notes)


def _difference(fitted: Fitted, best: Array, other: Array) -> tuple[float, float]:
    """Mean and sd of the first goal at ``other`` minus that at ``best``."""
    import torch

    pair = torch.from_numpy(np.stack([best, other]))[None]
    with torch.no_grad():
        mean, covariance = fitted.surrogate.joint_goals(pair, torch.from_numpy(fitted.weights[:1]))
    C = covariance[0, 0]
    variance = float(C[0, 0] + C[1, 1] - 2.0 * C[0, 1])
    return float(mean[0, 1, 0] - mean[0, 0, 0]), max(variance, 0.0) ** 0.5


def _expert_domains(fitted: Fitted) -> set[str]:
    return {expert.domain for expert in fitted.history.experts}


def _front(fitted: Fitted, best: Array) -> tuple[Row, ...]:
    """Non-dominated mixtures by predicted goals: the minima of many weightings, and told runs."""
    import torch
    from botorch.utils.multi_objective.pareto import is_non_dominated

    G = len(fitted.weights)
    rng = np.random.default_rng(_SEED)
    weightings = np.concatenate([np.eye(G), rng.dirichlet(np.ones(G), _FRONT - G)])
    # Goals on one scale, else the widest one decides every weighting.
    mean, _ = fitted.goals(fitted.region.snap(fitted.history.X))
    scaled = weightings / np.maximum(mean.std(axis=0), 1e-9)
    points = [best]
    for weights in scaled / scaled.sum(axis=1, keepdims=True):
        points.append(_minimise(fitted, torch.from_numpy(weights[None] @ fitted.weights)))
    X = np.stack(points)
    mean, _ = fitted.goals(X)
    kept = X[is_non_dominated(-torch.from_numpy(mean), deduplicate=True).numpy()]
    order = np.argsort(fitted.goals(kept)[0][:, 0], kind="stable")
    return tuple(_row(fitted, f"front {i + 1}", kept[j]) for i, j in enumerate(order))
