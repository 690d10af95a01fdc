"""What a run reports: the loss of every validation set, and what else is known of it."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import optuna
from optuna.trial import BaseTrial, Trial

from optuna_mde.mde.urls import trust
from optuna_mde.objective import CONSTRAINT, Objective, ObjectiveError, ObjectiveLike
from optuna_mde.observations import VALUE
from optuna_mde.scalars import as_float, is_number, real, whole
from optuna_mde.trials import records
from optuna_mde.trials.facts import read_facts
from optuna_mde.trials.layout import study_space
from optuna_mde.trials.notes import excluded, has_objective, set_excluded, stored_objective
from optuna_mde.trials.targets import natural_loss

Limit = float | Literal["natural"]

_RESERVED = re.compile(rf"{CONSTRAINT}.*|{VALUE}\d+", re.DOTALL)  # the model's other outputs


def report_losses(
    trial: BaseTrial,
    losses: Mapping[str, float],
    *,
    objective: ObjectiveLike = None,
    limits: Mapping[str, Limit] | None = None,
    logprobs: str | os.PathLike[str] | None = None,
    budget: float = 1.0,
    tokens: int | None = None,
    parameters: int | None = None,
) -> float | tuple[float, ...]:
    """Record the losses of a run on its trial and return the value(s) for Optuna.

    Args:
        trial: the trial that was run.
        losses: validation set -> loss in nats per token. A set that is NaN counts as absent: the
            run informs the other sets, and its value is formed from those.
        objective: ``None`` (the study's or sampler's, else the plain mean), weights
            ``{set: weight}``, or named groups ``{"code": {...}, "prose": {...}}``, each an
            objective of its own.
        limits: ``{set: loss}`` that an allowed mixture must not exceed; ``"natural"`` stands for
            the loss of the natural mixture's own run.
        logprobs: URL of the token log-probabilities (`save_logprobs`), as an expert leaves them;
            a relative path starts from the study's folder.
        budget: share of a full run that was trained, ``mixture.budget``.
        tokens: tokens that were trained.
        parameters: parameters of the model.

    Returns:
        The objective's value, or one value for each group.

    Raises:
        ValueError: if a loss, limit, weight or budget cannot be used, the objective or a limit
            names a set that no run reports, a limit is "natural" without a natural mixture, or the
            study maximises.
        optuna.TrialPruned: after recording, if ``budget < 1``: a shortened run has no value that
            compares with the others'.
    """
    running = records.live(trial)
    study = running.study if running is not None else None
    reported = checked_losses(losses)
    kept = {name: loss for name, loss in reported.items() if not math.isnan(loss)}
    budget = real("budget", budget)
    if not 0.0 < budget <= 1.0:
        raise ValueError(f"budget is the share of a full run, in (0, 1], got {budget!r}")
    if running is not None:
        _warn_of_waste(running, budget, logprobs)
    goals = _goals(study, objective)
    check_goals(study, goals)
    absent = _absent(study, goals, reported, kept)
    if running is not None and objective is not None:
        _warn_of_another_goal(running, kept)
    wanted = _limits(limits)
    _check_limits(study, wanted, reported)
    known = _known_limits(running, wanted)
    attrs: dict[str, Any] = {
        "losses": kept,
        "objective": goals.to_json(),
        "budget": budget if budget < 1.0 else None,
        "logprobs": None if logprobs is None else checked_url("logprobs", logprobs),
        "tokens": None if tokens is None else _count("tokens", tokens),
        "parameters": None if parameters is None else _count("parameters", parameters),
        "limits": wanted or None,
        "feasible": _feasible(kept, known),
        "format": records.FORMAT,
    }
    values = _values(goals, kept, absent)
    # Everything is checked by now: a call that fails leaves nothing on the trial.
    if attrs["logprobs"] is not None:
        trust(attrs["logprobs"])
    for key, value in attrs.items():
        if value is not None or trial.user_attrs.get(key) is not None:
            trial.set_user_attr(key, value)
    if budget < 1.0 and running is not None:
        raise optuna.TrialPruned(
            f"trained {budget:g} of a full run; its losses are recorded, but no value"
        )
    return values[0] if len(values) == 1 else values


def exclude_trials(study: optuna.Study, numbers: Iterable[int], reason: str) -> None:
    """Leave finished trials out of all that is learned: wrong data, a broken run.

    The trials stay in the study; their numbers and the reason are kept beside them (study
    attribute ``excluded``). An expert that is left out is trained again.

    Args:
        study: the study.
        numbers: trial numbers.
        reason: why, in a few words.

    Raises:
        ValueError: if the study has no such trial.
    """
    given: Any = [numbers] if is_number(numbers) else numbers
    numbers = [whole("a trial number", number) for number in given]
    known = {trial.number for trial in study.get_trials(deepcopy=False)}
    unknown = sorted(set(numbers) - known)
    if unknown:
        raise ValueError(
            f"the study has no trial {', '.join(map(str, unknown))}; numbers run from 0 to "
            f"{max(known, default=-1)}"
        )
    reasons = {**excluded(study), **dict.fromkeys(numbers, str(reason))}
    set_excluded(study, reasons)


def checked_losses(losses: Mapping[str, float]) -> dict[str, float]:
    """Losses as plain floats, by the texts of their sets' names."""
    if not isinstance(losses, Mapping) or not losses:
        raise ValueError(f"losses must be {{validation set: nats per token}}, got {losses!r}")
    checked: dict[str, float] = {}
    for name, value in losses.items():
        number, key = as_float(value), str(name)
        if number is None:
            raise ValueError(
                f"the loss of {name!r} must be a number, in nats per token, got {value!r}"
            )
        if key in checked:
            raise ValueError(f"losses holds the set {key!r} twice, as a text and as a number")
        if _RESERVED.fullmatch(key):
            raise ValueError(
                f"losses holds a set {key!r}, which is what the model calls an output that is no "
                f"loss; give the set another name"
            )
        checked[key] = number
    return checked


def checked_url(name: str, value: Any) -> str:
    """The URL of a log-probability file as text."""
    try:
        return os.fsdecode(value)
    except TypeError:
        raise ValueError(
            f"{name} must be the URL or path that save_logprobs returned, got {value!r}"
        ) from None


def _count(name: str, value: Any) -> int:
    count = whole(name, value)
    if count < 0:
        raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
    return count


def _warn_of_waste(running: Trial, budget: float, logprobs: str | os.PathLike[str] | None) -> None:
    """A shortened run is of use only if it says so, and by its log-probabilities."""
    if budget < 1.0:
        if logprobs is None:
            warnings.warn(
                f"a run on {budget:g} of the budget serves by its token log-probabilities alone: "
                f"save_logprobs keeps them, report_losses(..., logprobs=url) reports them",
                stacklevel=3,
            )
        return
    if running.user_attrs.get("phase") != records.EXPERT:
        return  # nothing else is proposed on a share of a run
    published = records.read_live(running).published
    if published is not None and published.budget < 1.0:
        warnings.warn(
            f"trial {running.number} was to train {published.budget:g} of a full run; if it did, "
            f"say so, report_losses(..., budget=mixture.budget): it is recorded as a full one",
            stacklevel=3,
        )


def _warn_of_another_goal(running: Trial, kept: Mapping[str, float]) -> None:
    """The study's present objective counts, whatever the call that reports names."""
    if not has_objective(running.study):
        return
    present = Objective.from_json(stored_objective(running.study) or "")
    lacking = [name for name in present.sets if name not in kept]
    if lacking:
        warnings.warn(
            f"trial {running.number} has no loss on {', '.join(lacking)}, which the study's "
            f"objective weighs (set_objective): the value that it is told is of the objective "
            f"given here, and the study has none for it. Report the loss, or add it (add_losses)",
            stacklevel=3,
        )


def _goals(study: optuna.Study | None, objective: ObjectiveLike) -> Objective:
    if objective is None and study is not None:
        text = stored_objective(study)
        if text is not None:
            return Objective.from_json(text)
    return Objective.parse(objective)


def check_goals(study: optuna.Study | None, goals: Objective) -> None:
    """Refuse an objective that a study's directions do not fit.

    Raises:
        ValueError: if the study maximises, or has another number of values.
    """
    if study is None:
        return
    maximised = records.is_maximised(study)
    if any(maximised):
        raise ValueError(
            "losses are minimised, but the study maximises; create it with "
            + ("direction='minimize'" if len(maximised) == 1 else "directions='minimize' for all")
        )
    if len(maximised) != len(goals.goals):
        n = len(goals.goals)
        raise ValueError(
            f"the objective has {n} value(s) ({', '.join(goals.names)}), the study "
            f"{len(maximised)}; create it with directions={['minimize'] * n}"
        )


def _limits(limits: Mapping[str, Limit] | None) -> dict[str, Limit]:
    given = {} if limits is None else limits
    if not isinstance(given, Mapping):
        raise ObjectiveError(f"limits must be {{validation set: limit}}, got {limits!r}")
    natural = [n for n, limit in given.items() if isinstance(limit, str) and limit == "natural"]
    numbers = {name: limit for name, limit in given.items() if name not in natural}
    checked: dict[str, Limit] = dict(Objective.parse(None, numbers).limits)  # type: ignore[arg-type]
    return {str(name): checked.get(str(name), "natural") for name in given}


def _absent(
    study: optuna.Study | None,
    goals: Objective,
    losses: Mapping[str, float],
    kept: Mapping[str, float],
) -> list[str]:
    """Sets without a loss in this run: NaN, or reported by other runs of the study only.

    Raises:
        ObjectiveError: if the objective weighs a set that no run has ever reported.
    """
    missing = [name for name in goals.sets if name not in losses]
    unknown = _unknown(study, missing)
    if unknown:
        raise ObjectiveError(
            f"the objective weighs {', '.join(unknown)}, which no run reports; losses holds "
            f"{', '.join(losses)}"
        )
    return missing + [name for name in losses if name not in kept]


def _check_limits(
    study: optuna.Study | None, limits: Mapping[str, Limit], losses: Mapping[str, float]
) -> None:
    """Limits that could never be judged are mistakes.

    Raises:
        ObjectiveError: if one is on a set that no run has ever reported.
    """
    unknown = _unknown(study, [name for name in limits if name not in losses])
    if unknown:
        raise ObjectiveError(
            f"limits names {', '.join(unknown)}, which no run reports; losses holds "
            f"{', '.join(losses)}"
        )


def _known_limits(running: Trial | None, limits: Mapping[str, Limit]) -> dict[str, float]:
    """Limits as numbers; without those of the natural mixture until it was run.

    Raises:
        ObjectiveError: if one is that of a natural mixture which the study does not have.
    """
    known = {name: limit for name, limit in limits.items() if not isinstance(limit, str)}
    asked = [name for name, limit in limits.items() if limit == "natural"]
    if not asked or running is None:
        return known
    facts = read_facts(running.study)
    groups = study_space(running.study, running, facts=facts).groups
    if not groups or groups[0].natural is None:
        raise ObjectiveError(
            f"the limit of {', '.join(asked)} is that of the natural mixture, and the study has "
            f"none; name it, suggest_mixture(..., natural={{domain: share}}), or give a number"
        )
    told = [t for t in facts.trials if t.finished and t.losses]
    for name in asked:
        loss = natural_loss(told, groups[0], name)
        if loss is not None:
            known[name] = loss
    return known


def _unknown(study: optuna.Study | None, names: Sequence[str]) -> list[str]:
    """Those of some validation sets that no run of the study has a loss of."""
    if not names or study is None:
        return list(names)
    known = {name for trial in read_facts(study).trials for name in trial.losses}
    return [name for name in names if name not in known]


def _values(
    goals: Objective, losses: Mapping[str, float], absent: Sequence[str]
) -> tuple[float, ...]:
    """Values of the goals over the sets that are there; NaN for a goal that has none."""
    values = []
    for name, weights in goals.goals:
        kept = tuple((s, w) for s, w in weights if s in losses)
        if not losses or (weights and not kept):
            values.append(math.nan)
            continue
        total = sum(w for _, w in kept)
        scaled = tuple((s, w / total) for s, w in kept)
        values.extend(Objective(((name, scaled),)).values(losses))
    if absent:
        none = [n for n, v in zip(goals.names, values, strict=True) if math.isnan(v)]
        said = (
            "the run's value is that of the other sets; compare it by recommend(study) rather "
            "than by its value"
        )
        if none:
            said = (
                f"{', '.join(none)} has no value (NaN) without one, and Optuna lets a trial fail "
                f"that is told it; report a loss, or let the run fail by itself"
            )
        warnings.warn(f"no loss on {', '.join(absent)}: {said}", stacklevel=3)
    return tuple(values)


def _feasible(losses: Mapping[str, float], limits: Mapping[str, float]) -> bool | None:
    """Whether the losses meet the limits; None where there is none that they have."""
    judged = {name: limit for name, limit in limits.items() if name in losses}
    return all(losses[name] <= limit for name, limit in judged.items()) if judged else None
