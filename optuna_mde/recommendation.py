"""What to train: the mixture with the best loss, doubt charged, and what to make of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna_mde.answers.answer import Recommendation
from optuna_mde.answers.asked import Bounds
from optuna_mde.answers.bounds import holding
from optuna_mde.answers.differences import against
from optuna_mde.answers.fitted import Fitted, fit_study
from optuna_mde.answers.front import front
from optuna_mde.answers.notes import cautions, notes
from optuna_mde.answers.optimum import best_point
from optuna_mde.answers.references import best_seen, references, with_rates
from optuna_mde.answers.rows import row_of
from optuna_mde.answers.seeds import fresh_seed
from optuna_mde.answers.signal import has_signal
from optuna_mde.answers.trust import judge
from optuna_mde.gp.torch_state import gradients
from optuna_mde.objective import ObjectiveLike

if TYPE_CHECKING:
    from collections.abc import Mapping

    import optuna


def recommend(
    study: optuna.Study,
    objective: ObjectiveLike = None,
    *,
    limits: Mapping[str, float] | None = None,
    bounds: Bounds | None = None,
) -> Recommendation:
    """Recommend a mixture.

    The recommended mixture lies inside the bounds in force and has the lowest expected loss under
    the surrogate, wherever that is: it need not have been run. Where the runs leave the loss as
    good as unknown, half its sd is charged. With limits on validation losses it keeps them by the
    upper ends of their 90 % intervals where some mixture does, else by their expected values; if
    none does, it is the mixture that exceeds them least, and a note says so. Of several plain
    objective values, each is weighed in units of its spread over the runs.

    Args:
        study: an Optuna study with at least one finished run.
        objective: another objective than that of the runs; needs no new run. The study's limits
            stay in force.
        limits: ``{validation set: nats per token}`` that the mixture must not exceed, beside the
            study's.
        bounds: ``{domain: (lowest, highest rate)}`` in place of those that the domain has;
            None: as it is.

    Raises:
        ValueError: if no run has finished, no mixture keeps the bounds, or the objective or a
            limit names a set that no full run has a loss of (nor MDE, from all experts), or the
            objective weighs values that are maximised with others that are minimised.

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
    return recommend_by(fit_study(study, objective, limits=limits, bounds=bounds))


@gradients()
def recommend_by(fitted: Fitted) -> Recommendation:
    """What `recommend` says by a study that is fitted already."""
    best, gain = best_point(fitted)
    recommended = row_of(fitted, "recommended", best)
    rows = [recommended, *references(fitted, best)]
    baseline = next((row.name for row in rows if row.name in ("natural", "uniform")), "")
    other = with_rates(fitted, best, baseline) if baseline else best
    versus = against(fitted, best, baseline, other) if baseline else None
    seen = best_seen(fitted)
    if seen is not None:
        rows.append(seen)
    noise = float(fitted.noise(fitted.overall)[0])
    signal = has_signal(fitted, noise)
    warnings = cautions(fitted, best, rows, versus, signal)
    return Recommendation(
        mixture=recommended.mixture,
        params=recommended.params,
        objective=recommended.objective,
        losses=recommended.losses,
        rows=tuple(rows),
        best_seen=seen,
        trust=judge(fitted, signal=signal),
        expected_gain=gain,
        noise_sd=noise,
        signal=signal,
        notes=(*warnings, *notes(fitted, best, rows, versus, signal)),
        warnings=warnings,
        pareto=front(fitted, best) if len(fitted.weights) > 1 else (),
        goals=fitted.names if len(fitted.weights) > 1 else (),
        fresh_seed=fresh_seed(fitted, recommended),
        against=versus,
        bounds=holding(fitted, best),
        limits={fitted.observations.targets[i].label: limit for i, limit in fitted.limits},
        weights={
            name: {fitted.observations.outputs[i]: float(row[i]) for i in row.nonzero()[0]}
            for name, row in zip(fitted.names, fitted.weights, strict=True)
        },
    )
