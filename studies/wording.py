"""Mixtures and figures in words, for the report and the dashboard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optuna_mde_studies.palette import shortened

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from optuna_mde_studies.judgement import Judgement
    from optuna_mde_studies.overview import Overview

    from optuna_mde.answers.answer import Recommendation
    from optuna_mde.answers.rows import Row
    from optuna_mde.objective import Objective

NARROW = "\u202f"
"""Between a number and %: narrow, and no place for a line to break."""
NONE = 5e-5
"""Rates below this are 0 for a reader."""
MOST_NAMED = 5
"""Parts of a mixture that a sentence names."""


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


def copyable(mixture: Mapping[str, float], decimals: int = 4) -> dict[str, float]:
    """Rates as one copies them: few decimals, and still a sum of exactly 1."""
    units = {domain: round(rate * 10**decimals) for domain, rate in mixture.items()}
    largest = max(units, key=lambda domain: units[domain])
    units[largest] += 10**decimals - sum(units.values())
    return {domain: unit / 10**decimals for domain, unit in units.items()}


def in_words(mixture: Mapping[str, float]) -> str:
    """The largest parts: "58 % docs, 36 % prose and 6 % python"."""
    parts = sorted(mixture.items(), key=lambda item: -item[1])
    visible = [(domain, rate) for domain, rate in parts if rate >= 0.005]
    named = visible if len(visible) == MOST_NAMED + 1 else visible[:MOST_NAMED]
    words = [f"{100 * rate:.0f}{NARROW}% {shortened(domain)}" for domain, rate in named]
    rest = sum(1 for _, rate in parts if rate >= NONE) - len(named)
    return listed([*words, f"{count(rest, 'smaller part')}"] if rest else words)


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


def marked(row: Row, name: str) -> str:
    """A row's name, marked where the row breaks a limit."""
    return f"{name}, breaks {listed(row.breaks)}" if row.breaks else name


def percent(rate: float) -> str:
    """A rate with one decimal; what rounds to nothing is 0."""
    return "0" if rate < NONE else f"{100 * rate:.1f}{NARROW}%"


def share_of_a_run(budget: float) -> str:
    """How long a shortened expert was trained."""
    return f"{100 * budget:.3g}{NARROW}% of a run"


def amount(number: int) -> str:
    """A count of tokens or weights in three digits."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g}{NARROW}{unit}"
    return str(number)


def sentence(text: str) -> str:
    """Begins with a capital, ends with a full stop."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def count(number: int, noun: str) -> str:
    """A number with its noun in the singular or the plural."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def listed(words: Iterable[str]) -> str:
    """Words with commas and a last "and"."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
