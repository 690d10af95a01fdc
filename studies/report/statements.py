"""What a study found, in sentences: for the report and the dashboard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optuna_mde_studies.wording import copyable, in_words, listed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from optuna_mde_studies.report.judgement import Judgement
    from optuna_mde_studies.report.overview import Overview

    from optuna_mde.answers.answer import Recommendation
    from optuna_mde.objective import Objective


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


def headline(recommendation: Recommendation, rates: Mapping[str, float], *, held: bool) -> str:
    """The answer in a line.

    Args:
        recommendation: what to answer with.
        rates: its mixture.
        held: False if runs with fresh seeds have shown that something else is better.
    """
    if not recommendation.signal:
        return "No mixture stands out from the noise"
    return f"Train on {in_words(rates)}" if held else "The recommended mixture did not hold"


def gain_in_words(overview: Overview, recommendation: Recommendation) -> str:
    """Predicted objective of the recommended mixture, and what that gains over the baseline."""
    found = recommendation.objective
    what = "Predicted loss" if overview.goals else "Predicted objective"
    unit = " nats per token" if overview.goals else ""
    text = f"{what} {found.mean:.3f}{unit} (90 % interval {found.low:.3f} to {found.high:.3f})"
    for row in recommendation.rows:
        if row.name in ("natural", "uniform"):
            gain = found.mean - row.objective.mean
            way = "below" if gain < 0 else "above"
            return f"{text}, {abs(gain):.3f} {way} the {row.name} mixture."
    return f"{text}."


def seeds_in_words(recommendation: Recommendation, judgement: Judgement | None = None) -> str:
    """Which training seed the predicted interval is for, and what is known of another one."""
    found = judgement.fresh_run if judgement else None
    if judgement is None or found is None:
        return recommendation.on_seeds
    return (
        f"That is for the training seed that the runs of the search share. With "
        f"{len(judgement.confirmation.seeds)} fresh seeds it reached {found.mean:.3f} on average; "
        f"another one is expected between {found.low:.3f} and {found.high:.3f} (90 %)."
    )
