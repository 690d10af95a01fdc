"""What a reader should know beside the figures of a recommendation, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from optuna.trial import TrialState

from optuna_mde.answers.differences import Against
from optuna_mde.answers.fitted import Fitted
from optuna_mde.answers.held_out import FEWEST
from optuna_mde.answers.intervals import Interval, interval, signed
from optuna_mde.answers.optimum import excess
from optuna_mde.answers.references import best_run
from optuna_mde.answers.rows import SAME, Row, full_runs, observed, widths
from optuna_mde.answers.scarce import spoilt_expert
from optuna_mde.observations import Kind
from optuna_mde.simplex.projection import Array

_NEAR = 0.2  # L1 distance of neighbours: a tenth of the mixture is another one
_CLEARLY = 3.0  # sd of the difference of two runs; the best of many is lucky by two of them
_MOST_NAMED = 6  # trials that one sentence names


def cautions(
    fitted: Fitted, best: Array, rows: Sequence[Row], versus: Against | None, signal: bool
) -> tuple[str, ...]:
    """What whoever takes the recommended input `[d]` must know even where nothing else is read:
    that figures are a guess, a limit is not kept, or evidence that the study names is left out."""
    said = [
        _on_the_fit(fitted),
        _on_lacking_sets(fitted),
        _on_signal(fitted, versus, signal),
        _on_broken_limits(fitted, best),
        _on_negative_losses(fitted, rows),
        *_on_refused_experts(fitted),
    ]
    return tuple(note for note in said if note is not None)


def notes(
    fitted: Fitted, best: Array, rows: Sequence[Row], versus: Against | None, signal: bool
) -> tuple[str, ...]:
    """Further sentences on a recommended input `[d]`, its rows, and its difference to the
    baseline."""
    broken = {row.name for row in rows if row.breaks}  # no rivals of a mixture that keeps limits
    is_choice = "recommended" not in broken
    fair = is_choice and versus is not None and versus.name not in broken
    said = [
        _on_the_gain(fitted, versus) if signal and fair else None,
        _on_worse_runs(fitted, best) if is_choice else None,
        _on_doubtful_limits(fitted, best),
        *_on_bounds(rows),
        _on_a_cheap_expert(rows),
        _on_missing_experts(fitted),
        _on_lost_corners(fitted, best),
        _on_a_spoilt_expert(fitted),
        _on_weighted_tokens(fitted),
        _on_left_out(fitted),
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


def _on_lacking_sets(fitted: Fitted) -> str | None:
    """Names the full runs that lack a set which goals weigh, as others have it."""
    observations = fitted.observations
    weighed = fitted.weights.sum(axis=0) > 0.0
    absent = np.isnan(observations.Y[observations.full])
    numbers = observations.numbers[observations.full]
    lacking = [i for i in observations.losses if weighed[i] and absent[:, i].any()]
    if not lacking:
        return None
    sets = [observations.targets[i].label for i in lacking]
    without = absent[:, lacking].sum(axis=1) > 0
    whole, n = int((~without).sum()), len(without)
    said = (
        f"The objective weighs {', '.join(sets)}, of which no loss is known of "
        f"{_trials(numbers[without].tolist())}: {whole} of {n} full runs have a value. Score the "
        f"others (add_losses, `optuna-mde score`), and let new runs report the set."
    )
    if whole >= FEWEST or fitted.has_mde:
        return said
    return (
        f"{said} Until {FEWEST} have one, nothing checks these figures: take them as a guess, and "
        f"their intervals as too narrow."
    )


def _on_signal(fitted: Fitted, versus: Against | None, signal: bool) -> str | None:
    if signal:
        return None
    said = (
        "The runs of the search do not tell mixtures apart from the noise of a single run: by "
        "them alone there is no winner to name (yet)."
    )
    if versus is None or fitted.is_unlike or _gain(fitted, versus).low <= 0.0:
        return said
    return (
        f"{said} That the interval of the gain on {versus.name} lies above 0 is the model's "
        f"expectation, which these runs neither bear out nor refute: fresh seeds can."
    )


def _gain(fitted: Fitted, versus: Against) -> Interval:
    """What the recommended mixture gains on another, above 0 whichever way the goal is."""
    return signed(versus.objective, -fitted.shown_sign)


def _on_the_gain(fitted: Fitted, versus: Against | None) -> str | None:
    if versus is None or fitted.is_unlike:
        return None
    found = _gain(fitted, versus)
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


def _on_broken_limits(fitted: Fitted, best: Array) -> str | None:
    if not fitted.limits:
        return None
    mean, _ = fitted.outputs(best[None])
    broken = [
        f"{fitted.observations.targets[i].label} {mean[0, i]:.4f}, {above:.4f} above {limit:g}"
        for (i, limit), above in zip(fitted.limits, excess(fitted, best), strict=True)
        if above > 0.0
    ]
    if not broken:
        return None
    return (
        f"No mixture is expected to keep the limits. The recommended one exceeds them least: "
        f"{'; '.join(broken)}."
    )


def _on_doubtful_limits(fitted: Fitted, best: Array) -> str | None:
    if not fitted.limits:
        return None
    targets = fitted.observations.targets
    mean, sd = fitted.outputs(best[None])
    sd = sd * widths(fitted, np.eye(len(targets)))
    doubtful = [
        f"{targets[i].label} up to {high:.4f}, limit {limit:g}"
        for (i, limit), above in zip(fitted.limits, excess(fitted, best), strict=True)
        if above <= 0.0 and (high := interval(mean[0, i], sd[0, i]).high) > limit
    ]
    if not doubtful:
        return None
    return (
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


def _on_lost_corners(fitted: Fitted, best: Array) -> str | None:
    """Shortened experts without a file teach nothing: no run is near their corners."""
    observations, groups = fitted.observations, fitted.space.groups
    if observations.block is None or not groups:
        return None
    short = {t.corner(groups[0]) for t in fitted.trials if t.losses and t.budget < 1.0}
    rates = observations.X[observations.full][:, observations.block]
    most = rates.max(axis=0, initial=0.0)
    lost = [
        (k, d)
        for k, d in enumerate(observations.domains)
        if d in short and d not in fitted.expert_domains and most[k] < 1.0
    ]
    if not lost:
        return None
    reached = ", ".join(f"{d} up to {100 * most[k]:.0f} %" for k, d in lost)
    beyond = [d for k, d in lost if best[observations.block][k] > most[k] + SAME]
    here = f", as those of the recommended mixture are ({', '.join(beyond)})" if beyond else ""
    return (
        f"Figures of mixtures with more of {', '.join(d for _, d in lost)} than full runs had "
        f"({reached}) are extrapolated{here}: the experts of these domains were shortened, and "
        f"left no log-probabilities that can be read."
    )


def _on_negative_losses(fitted: Fitted, rows: Sequence[Row]) -> str | None:
    """A loss in nats per token is above 0: what is expected below it means nothing."""
    observations = fitted.observations
    told = np.where(np.isfinite(observations.Y), observations.Y, np.inf).min(axis=0, initial=0.0)
    losses = [
        target.name
        for i, target in enumerate(observations.targets)
        if target.kind is Kind.LOSS and told[i] >= 0.0
    ]
    found = [
        f"{name} {row.losses[name].mean:.4f} ({row.name})"
        for name in losses
        for row in rows
        if name in row.losses and row.losses[name].mean < 0.0
    ]
    if not found:
        return None
    more = len(found) - _MOST_NAMED
    listed = ", ".join(found[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
    return (
        f"Predicted losses below 0 make no sense: {listed}. The model extrapolates there, beyond "
        f"its runs: take no figure of these mixtures at its word. Run one of them, or bound the "
        f"rates to where runs are; a run that is broken is left out by exclude_trials."
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
    reasons: dict[str, list[str]] = {}
    for domain, reason in fitted.refused.items():
        reasons.setdefault(reason, []).append(domain)
    for reason, domains in reasons.items():
        if len(domains) > 1:
            yield f"Experts are left out: {reason}."
        else:
            yield f"The expert of {domains[0]} is left out, or part of it: {reason}."


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
