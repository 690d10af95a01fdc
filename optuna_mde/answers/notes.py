"""What a reader should know beside the figures of a recommendation, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from optuna.trial import TrialState

from optuna_mde.answers.differences import Against
from optuna_mde.answers.fitted import Fitted
from optuna_mde.answers.intervals import interval, signed
from optuna_mde.answers.optimum import excess
from optuna_mde.answers.references import best_run
from optuna_mde.answers.rows import SAME, Row, full_runs, observed, widths
from optuna_mde.answers.scarce import spoilt_expert
from optuna_mde.simplex.projection import Array

_NEAR = 0.2  # L1 distance of neighbours: a tenth of the mixture is another one
_CLEARLY = 3.0  # sd of the difference of two runs; the best of many is lucky by two of them
_MOST_NAMED = 6  # trials that one sentence names


def notes(
    fitted: Fitted, best: Array, rows: Sequence[Row], versus: Against | None, signal: bool
) -> tuple[str, ...]:
    """Sentences on a recommended input `[d]`, its rows, and its difference to the baseline."""
    said = [
        _on_the_fit(fitted),
        _on_signal(signal),
        _on_the_gain(fitted, versus) if signal else None,
        _on_worse_runs(fitted, best),
        *_on_limits(fitted, best),
        *_on_bounds(rows),
        _on_a_cheap_expert(rows),
        _on_missing_experts(fitted),
        _on_a_spoilt_expert(fitted),
        _on_weighted_tokens(fitted),
        _on_left_out(fitted),
        *_on_refused_experts(fitted),
    ]
    return tuple(note for note in said if note is not None)


def _on_the_fit(fitted: Fitted) -> str | None:
    if fitted.failure is None:
        return None
    return (
        f"The model could not be fitted to these runs ({fitted.failure}). All figures stand on "
        f"what it assumes before any run: take them as a guess, and look for odd losses among the "
        f"runs (exclude_trials leaves one out)."
    )


def _on_signal(signal: bool) -> str | None:
    if signal:
        return None
    return (
        "The runs of the search do not tell mixtures apart from the noise of a single run: by "
        "them alone there is no winner to name (yet)."
    )


def _on_the_gain(fitted: Fitted, versus: Against | None) -> str | None:
    if versus is None or fitted.is_unlike:
        return None
    found = signed(versus.objective, -fitted.shown_sign)
    if found.low > 0.0:
        return None
    return (
        f"By the search alone it is not sure that the recommended mixture is better than the "
        f"{versus.name} one: the "
        f"predicted gain is {found.mean:.4f}, and its 90 % interval, {found.low:.4f} to "
        f"{found.high:.4f}, includes no gain at all."
    )


def _on_worse_runs(fitted: Fitted, best: Array) -> str | None:
    """Says so where all runs near the recommended mixture were clearly worse than the best one."""
    seen = best_run(fitted)
    if seen is None:
        return None
    w = fitted.overall[0]
    found = [
        (float(np.abs(fitted.told(t)[0] - best).sum()), value, t.number)
        for t in full_runs(fitted)
        if (value := observed(fitted, t, w)) is not None
    ]
    nearest = min(found)[0]
    reach = SAME if nearest <= SAME else max(_NEAR, nearest)
    near = [(value, number) for distance, value, number in found if distance <= reach]
    values = np.array([value for value, _ in near])
    # Repeats of one mixture are averaged; of neighbours, which are many mixtures, the best counts.
    level, n = (values.mean(), len(values)) if reach == SAME else (values.min(), 1)
    noise = float(fitted.noise(fitted.overall)[0]) * (1.0 + 1.0 / n) ** 0.5
    behind = level - (observed(fitted, seen, w) or 0.0)
    if behind <= _CLEARLY * noise:
        return None
    which = f"trial{'s' * (len(near) > 1)} {', '.join(str(n) for n in sorted(n for _, n in near))}"
    where = "The recommended mixture was run itself"
    if reach > SAME:
        where = f"The nearest runs differ from it in up to {50 * reach:.0f} % of the mixture"
    by = "" if fitted.is_unlike else f" by {behind:.4f}"
    return (
        f"{where} ({which}), and did clearly worse than the best run, trial {seen.number},{by}: "
        f"the recommendation rests on the model against these runs. Run it before you rely on it."
    )


def _on_limits(fitted: Fitted, best: Array) -> Iterator[str]:
    if not fitted.limits:
        return
    targets = fitted.observations.targets
    mean, sd = fitted.outputs(best[None])
    sd = sd * widths(fitted, np.eye(len(targets)))
    broken, doubtful = [], []
    for (i, limit), above in zip(fitted.limits, excess(fitted, best), strict=True):
        name, high = targets[i].label, interval(mean[0, i], sd[0, i]).high
        if above > 0.0:
            broken.append(f"{name} {mean[0, i]:.4f}, {above:.4f} above {limit:g}")
        elif high > limit:
            doubtful.append(f"{name} up to {high:.4f}, limit {limit:g}")
    if broken:
        yield (
            f"No mixture is expected to keep the limits. The recommended one exceeds them least: "
            f"{'; '.join(broken)}."
        )
    if doubtful:
        yield (
            f"The recommended mixture is expected to keep these limits, but not its whole 90 % "
            f"interval: {'; '.join(doubtful)}."
        )


def _on_bounds(rows: Sequence[Row]) -> Iterator[str]:
    outside = [row.name for row in rows if row.forbidden]
    if outside:
        yield f"Outside the bounds or constraints in force: {', '.join(outside)}."
    moved = [row.name for row in rows if row.moved]
    if moved:
        yield (
            f"Bounds or constraints forbid the {' and the '.join(moved)} mixture itself: the "
            f"nearest allowed one stands under that name, in the search too."
        )


def _on_a_cheap_expert(rows: Sequence[Row]) -> str | None:
    if not any(row.name == "best expert" and row.trial is None for row in rows):
        return None
    return (
        "The best expert was trained on a share of a run: its row is an estimate for a full "
        "one, and the interval is too narrow."
    )


def _on_missing_experts(fitted: Fitted) -> str | None:
    domains = fitted.observations.domains
    missing = [d for d in domains if d not in fitted.expert_domains | fitted.refused.keys()]
    if not missing or len(missing) == len(domains):
        return None
    return (
        f"No expert log-probabilities for {', '.join(missing)}: "
        "its share is predicted from the rates alone."
    )


def _on_a_spoilt_expert(fitted: Fitted) -> str | None:
    found = spoilt_expert(fitted)
    if found is None:
        return None
    name, less = found.domain, found.budget / 2.0
    mend = "Pass in the file of an expert that trained for fewer steps."
    if found.number >= 0:
        mend = (
            f"Train it for less, MDESampler(expert_budget={{{name!r}: {less:g}}}) or still less; "
            f'exclude_trials(study, [{found.number}], "overtrained") has it trained again.'
        )
    return (
        f"The expert of {name} spoils predictions: the more of {name} a mixture had, the better "
        f"it did than the experts' files say, by {found.gap:.2f} nats per token at 100 %. An "
        f"expert that has read its domain's text too often does that. {mend}"
    )


def _on_refused_experts(fitted: Fitted) -> Iterator[str]:
    for domain, reason in fitted.refused.items():
        yield f"The expert of {domain} is left out, or part of it: {reason}."


def _on_weighted_tokens(fitted: Fitted) -> str | None:
    if fitted.mde_error == 0.0:
        return None
    return (
        f"MDE losses are those of a few hundred weighted tokens of each validation set, which are "
        f"within {fitted.mde_error:.4f} nats (root mean square) of those of all its tokens."
    )


def _on_left_out(fitted: Fitted) -> str | None:
    """Names the trials that were told, and from which nothing is learned."""
    told = [t.number for t in fitted.trials if t.losses or t.state == TrialState.COMPLETE]
    left_out = fitted.observations.left_out
    reasons: dict[str, list[int]] = {}
    for number in told:
        if number in left_out:
            reasons.setdefault(left_out[number], []).append(number)
    if not reasons:
        return None
    texts = [f"{_trials(numbers)} ({reason})" for reason, numbers in reasons.items()]
    return f"Nothing is learned from {'; '.join(texts)}."


def _trials(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:_MOST_NAMED]))
    more = len(numbers) - _MOST_NAMED
    shown += f" and {more} more" if more > 0 else ""
    return f"trial{'' if len(numbers) == 1 else 's'} {shown}"
