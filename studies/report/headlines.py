"""The answer in a line: whether a winner is named, and why not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from optuna_mde_studies.wording import in_words, listed

from optuna_mde.answers.intervals import Interval
from optuna_mde.visualization.palette import shortened

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from optuna_mde_studies.report.judgement import Judgement
    from optuna_mde_studies.report.overview import Overview

    from optuna_mde.answers.answer import Recommendation


@dataclass(frozen=True)
class Headline:
    """The answer in a line."""

    text: str
    names: bool
    """Whether it tells the reader to train on the recommended mixture."""


def headline(
    overview: Overview,
    recommendation: Recommendation,
    rates: Mapping[str, float],
    judgement: Judgement | None = None,
) -> Headline:
    """The answer in a line, which says no more than the figures below it.

    A winner is named if its gain on the baseline is beyond the interval: that of runs with fresh
    seeds where they are of this mixture and this objective, else the predicted one of a study
    whose runs tell mixtures apart. Where a limit rules the baseline out, the answer is the best
    mixture that keeps the limit, and what that costs is said.

    Args:
        overview: the study's trials.
        recommendation: what to answer with.
        rates: its mixture.
        judgement: what runs with fresh seeds say of it.
    """
    current = judgement if judgement and judgement.is_current else None
    train = f"Train on {in_words(rates)}"
    if current and not current.held:
        return Headline("The recommended mixture did not hold", False)
    gains = gains_on_baseline(overview, recommendation, current)
    if recommendation.limits and (kept := _within_limits(recommendation, gains)):
        broken = recommendation.rows[0].breaks
        return Headline(kept if broken else f"{train}, which {kept}", not broken)
    is_better = any(gain.low > 0 for gain in gains)
    confirmed = current is not None and current.tells_apart
    if not (recommendation.signal or confirmed):
        return Headline("No mixture stands out from the noise", False)
    if is_better or not gains:
        return Headline(train, True)
    name = recommendation.against.name if recommendation.against else ""
    return Headline(f"No mixture is better than the {name} one for sure", False)


def gains_on_baseline(
    overview: Overview, recommendation: Recommendation, judgement: Judgement | None
) -> list[Interval]:
    """Gain on the baseline, a goal each, above zero is better: of runs with fresh seeds where
    the baseline was among them, else predicted; none without a baseline."""
    versus = recommendation.against
    if versus is None:
        return []
    confirmed = judgement.against(versus.name) if judgement else []
    found = [d.interval for d in confirmed] or list(versus.goals or (versus.objective,))
    return [
        gain if maximise else Interval(-gain.mean, -gain.high, -gain.low)
        for gain, maximise in zip(found, overview.maximise, strict=False)
    ]


def _within_limits(recommendation: Recommendation, gains: Sequence[Interval]) -> str:
    """What limits mean for the answer; nothing where they rule out nothing that is better."""
    limits, (best, *others) = recommendation.limits, recommendation.rows
    if best.breaks:
        return f"No mixture keeps {_limits({name: limits[name] for name in best.breaks})}"
    cost = [-gain.mean for gain in gains if gain.high < 0]
    name = recommendation.against.name if recommendation.against else ""
    ruled_out = next((row.breaks for row in others if row.name == name), ())
    if not ruled_out and not cost:
        return ""
    kept = f"keeps {_limits({n: limits[n] for n in ruled_out} or limits)}"
    return f"{kept} at a cost of {cost[0]:.2g} against the {name} one" if cost else kept


def _limits(limits: Mapping[str, float]) -> str:
    return listed(f"{shortened(name)} ≤ {limit:g}" for name, limit in limits.items())
