"""What a study found, in sentences: for the report and the dashboard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optuna_mde_studies.report.headlines import gains_on_baseline
from optuna_mde_studies.wording import copyable, count, in_words, listed

from optuna_mde.answers.mde_alone import DRAWN
from optuna_mde.answers.tables import held_by
from optuna_mde.visualization.palette import shortened, signed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from optuna_mde_studies.report.judgement import Judgement
    from optuna_mde_studies.report.overview import Overview

    from optuna_mde.answers.answer import Recommendation
    from optuna_mde.answers.intervals import Interval
    from optuna_mde.answers.mde_alone import MdeAlone
    from optuna_mde.objective import Objective

MOST_WORSE = 6
"""Validation sets that a sentence names."""
MOST_BOUNDS = 4
"""Bounds, constraints and limits that a sentence names."""
ROWS = {
    "recommended": "the allowed mixture with the best predicted objective (the mean of several)",
    "natural": "the shares in which the text was found",
    "uniform": "equal shares",
    "best expert": "the best domain alone",
    "best seen": "the best allowed run of the search",
}
"""What the rows of a recommendation are, in words."""
JUDGED = (
    "Leave-one-out: every run that is no expert (a run on one domain alone) is predicted from all "
    "others. The error is the root mean square of predicted minus observed; the noise the standard"
    " deviation of a run about its mixture's own loss, the gain what the most promising run is "
    "expected to improve."
)
MDE = (
    "Mixture of Data Experts predicts the loss of a mixture without training it, by mixing the "
    "predictions of the experts, each trained on one domain alone."
)


def objective_in_words(goals: Objective | None) -> str:
    """What is minimised, in a sentence; nothing if no run says it."""
    if goals is None:
        return ""
    told = [(name, _goal(dict(weights))) for name, weights in goals.goals]
    if len(told) == 1:
        return f"Objective: {told[0][1]}."
    return f"Objectives: {'; '.join(f'{name}, {goal}' for name, goal in told)}."


def _goal(weights: Mapping[str, float]) -> str:
    if not weights:
        return "the mean loss over all validation sets"
    if len(weights) == 1:
        return f"the loss on {next(iter(weights))}"
    if len({round(weight, 6) for weight in weights.values()}) == 1:
        return f"the mean loss on {listed(weights)}"
    return " + ".join(f"{weight:.3g} {name}" for name, weight in weights.items())


def recommended(
    overview: Overview, recommendation: Recommendation
) -> tuple[dict[str, float], dict[str, Any]]:
    """The recommended rates as one copies them, and the other parameters.

    Of several mixtures in one study the first is the mixture; the parts of the others are
    parameters, as in `overview.read`.
    """
    parts = recommendation.mixture
    rates = {domain: rate for domain, rate in parts.items() if domain in overview.domains}
    others = {name: rate for name, rate in parts.items() if name not in rates}
    return copyable(rates), {**others, **recommendation.params}


def findings(
    overview: Overview, recommendation: Recommendation, judgement: Judgement | None = None
) -> list[str]:
    """What the recommended mixture gains, what it makes worse, and what holds it.

    Gain and losses are those of runs with fresh seeds where the mixture was confirmed, else those
    that are predicted, and it is said which.
    """
    current = judgement if judgement and judgement.is_current else None
    return [
        text
        for text in (
            gain_in_words(overview, recommendation, current),
            _worse(overview, recommendation, current),
            _bounds(recommendation),
        )
        if text
    ]


def gain_in_words(
    overview: Overview, recommendation: Recommendation, judgement: Judgement | None = None
) -> str:
    """What the recommended mixture gains on the mixture in use, goal by goal."""
    versus = recommendation.against
    if versus is None:
        own = recommendation.objective
        return f"Predicted: {own.mean:.3f} (90 % interval {own.low:.3f} to {own.high:.3f})."
    goals = recommendation.goals or ("",)
    confirmed = judgement.against(versus.name) if judgement else []
    if confirmed and judgement:
        seeds = len(judgement.confirmation.seeds)
        how, level = f"with {seeds} fresh seeds", 95
    else:
        how, level = "predicted for the training seed that the runs share, not confirmed", 90
    unit = " nats per token" if overview.goals else ""
    found = gains_on_baseline(overview, recommendation, judgement)
    gains = [_gain(name, gain) for name, gain in zip(goals, found, strict=False)]
    text = f"Gain on {versus.name}, {how} ({level} % interval): {'; '.join(gains)}{unit}."
    if confirmed or recommendation.signal or not any(gain.low > 0 for gain in found):
        return text
    return (
        f"{text} That is what the model expects: the runs, which differ by no more than their "
        f"noise, do not bear it out."
    )


def _gain(name: str, gain: Interval) -> str:
    text = (
        f"{name + ' ' if name else ''}{minus(gain.mean)} ({minus(gain.low)} to {minus(gain.high)}"
    )
    return f"{text}, which includes none)" if gain.low <= 0 <= gain.high else f"{text})"


def _worse(overview: Overview, recommendation: Recommendation, judgement: Judgement | None) -> str:
    """The sets that lose, beyond their intervals, and whether the objective counts them."""
    versus = recommendation.against
    if versus is None or not overview.sets:
        return ""
    found = judgement.losses_against(versus.name) if judgement else {}
    losses = found or versus.losses
    worse = sorted(
        ((name, loss.mean) for name, loss in losses.items() if loss.low > 0), key=lambda i: -i[1]
    )
    if not worse:
        return f"No validation set is clearly worse than under {versus.name}."
    named = [f"{shortened(name)} {signed(mean, 2)}" for name, mean in worse[:MOST_WORSE]]
    rest = len(worse) - len(named)
    text = listed([*named, f"{count(rest, 'other set')}"] if rest else named)
    counted = {s for weights in recommendation.weights.values() for s in weights}
    hit = [shortened(name) for name, _ in worse if name in counted]
    counts = f"of these the objective counts {listed(hit)}" if hit else "the objective counts none"
    return f"Worse than {versus.name}: {text}; {counts}."


def _bounds(recommendation: Recommendation) -> str:
    bounds = recommendation.bounds
    if not bounds:
        return ""
    named, rest = bounds[:MOST_BOUNDS], len(bounds) - MOST_BOUNDS
    more = f"; and {rest} more" if rest > 0 else ""
    return f"Held by: {held_by(named)}{more}."


def mde_in_words(found: MdeAlone, recommendation: Recommendation) -> str:
    """How far the model follows MDE, and what that alone would have said."""
    known = recommendation.trust
    cost = found.cost
    texts = [
        f"MDE explains {100 * found.followed:.0f} % of the differences that the model expects "
        f"between mixtures (R² over {DRAWN} allowed ones). Alone it would recommend "
        f"{in_words(found.mixture)}, which is predicted to be {minus(cost.mean)} worse (90 % "
        f"interval {minus(cost.low)} to {minus(cost.high)})."
    ]
    if found.error is not None and known.rmse is not None:
        texts.append(
            f"Its own losses are off by {found.error:.3f} on the {known.n_runs} runs beside the "
            f"experts, {minus(found.bias or 0.0)} on average (rank correlation "
            f"{_rank(found.spearman)}); the model, which has learned from the other runs, by "
            f"{known.rmse:.3f} ({_rank(known.spearman)})."
        )
    return " ".join(texts)


def _rank(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}".replace("-", "\u2212")


def seeds_in_words(recommendation: Recommendation, judgement: Judgement | None = None) -> str:
    """Which training seed the predicted interval is for, and what is known of another one."""
    found = judgement.fresh_run if judgement else None
    if judgement is None or found is None:
        return recommendation.on_seeds
    return (
        f"Predictions are for the training seed that the runs of the search share. With "
        f"{len(judgement.confirmation.seeds)} fresh seeds it reached {found.mean:.3f} on average; "
        f"another one is expected between {found.low:.3f} and {found.high:.3f} (90 %)."
    )


def minus(value: float) -> str:
    """Three decimals, with a minus that is no hyphen."""
    return f"{value:.3f}".replace("-", "\u2212")
