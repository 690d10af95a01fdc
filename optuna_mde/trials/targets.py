"""What runs report, as outputs, goals and limits: losses, plain values, constraints."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from optuna_mde.objective import CONSTRAINT, Objective, ObjectiveError
from optuna_mde.observations import VALUE, Kind, Output
from optuna_mde.simplex.projection import Array
from optuna_mde.trials.groups import Group
from optuna_mde.trials.notes import Notes
from optuna_mde.trials.records import Record

NATURAL_TOLERANCE = 1e-6  # recorded rates of the natural mixture are often rounded

Table = tuple[tuple[Output, ...], Array]  # M outputs, and their values `[n, M]`


def outputs_of(
    told: Sequence[Record], notes: Notes, group: Group | None, maximised: Sequence[bool]
) -> tuple[tuple[Output, ...], Array, Objective]:
    """The outputs of finished runs, their values `[n, M]`, and what the study wants of them.

    Args:
        told: the runs; all of them report losses, or none does.
        notes: what the study keeps.
        group: the mixture that a natural limit stands for.
        maximised: for each of the study's values, whether it is maximised.
    """
    goals = _objective(told, notes)
    if not told and goals.sets:  # the sampler's own objective, ahead of any run
        table: Table = tuple(map(Output, goals.sets)), np.zeros((0, len(goals.sets)))
    elif any(trial.losses for trial in told):
        table = _losses(told)
    else:
        table = _values(told, maximised)
        goals = Objective(tuple((output.name, ((output.name, 1.0),)) for output in table[0]))
    sets = [output.name for output in table[0]]
    averaged = [output.name for output in table[0] if not output.added]
    constraints = _constraints(told)
    limits = _limits(told, group, goals, sets)
    limits += tuple((output.name, 0.0) for output in constraints[0])
    outputs, Y = (*table[0], *constraints[0]), np.hstack([table[1], constraints[1]])
    return outputs, Y, Objective(reported_goals(goals, sets, averaged), limits)


def natural_loss(told: Sequence[Record], group: Group | None, name: str) -> float | None:
    """Mean loss on a validation set over the runs of the natural mixture; None without one.

    Where the bounds exclude it, the runs of the nearest allowed mixture stand for it: that is
    what the start-up runs as the natural one.
    """
    if group is None or group.natural is None:
        return None
    natural = np.array(group.natural)
    for target in (natural, group.region().snap(natural)[0]):
        values = [
            trial.losses.get(name, np.nan)
            for trial in told
            if (rates := trial.rates(group)) is not None
            and np.abs(rates - target).max() <= NATURAL_TOLERANCE
        ]
        finite = [value for value in values if np.isfinite(value)]
        if finite:
            return float(np.mean(finite))
    return None


def _losses(told: Sequence[Record]) -> Table:
    reported = dict.fromkeys(name for t in told for name in t.reported)
    names = tuple(dict.fromkeys([*reported, *(name for t in told for name in t.losses)]))
    outputs = tuple(Output(name, added=name not in reported) for name in names)
    return outputs, _values_of([t.losses for t in told], names)


def _values(told: Sequence[Record], maximised: Sequence[bool]) -> Table:
    outputs = tuple(
        Output(f"{VALUE}{i}", Kind.VALUE, turned) for i, turned in enumerate(maximised)
    )
    rows = [t.values if t.values is not None else (np.nan,) * len(outputs) for t in told]
    Y = np.array(rows, dtype=float).reshape(len(told), len(outputs))
    return outputs, np.where(maximised, -Y, Y)


def _constraints(told: Sequence[Record]) -> Table:
    """Values of `trial.set_constraint`, feasible at or below 0."""
    keys = tuple(dict.fromkeys(key for t in told for key in t.constraints))
    outputs = tuple(Output(CONSTRAINT + key, Kind.CONSTRAINT) for key in keys)
    return outputs, _values_of([t.constraints for t in told], keys)


def _values_of(rows: Sequence[Mapping[str, float]], keys: Sequence[str]) -> Array:
    """Values `[n, len(keys)]`, NaN where a row lacks a key."""
    values = [[row.get(key, np.nan) for key in keys] for row in rows]
    return np.array(values, dtype=float).reshape(len(rows), len(keys))


def _objective(told: Sequence[Record], notes: Notes) -> Objective:
    """The study's present objective, else that of the latest run that carries one."""
    texts = [(f"of trial {trial.number}", trial.objective) for trial in reversed(told)]
    texts = [("of the study", notes.present), *texts]
    for origin, text in (*texts, ("of the sampler's options", notes.objective)):
        if text is not None:
            try:
                return Objective.from_json(text)
            except ObjectiveError as error:
                warnings.warn(f"the objective {origin} is left out: {error}", stacklevel=2)
    return Objective()


def present_objective(trials: Sequence[Record], notes: Notes) -> Objective | None:
    """What a study minimises now, as whoever shows its trials takes it; None where nobody says.

    A goal without weights stays so where it is the mean of all sets that there are.
    """
    told = [trial for trial in trials if trial.objective is not None]
    if not told and notes.present is None and notes.objective is None:
        return None
    found = _objective(told, notes)
    averaged = list(dict.fromkeys(name for trial in trials for name in trial.reported))
    added = any(trial.added for trial in trials)
    return found.averaging(averaged) if added and averaged else found


def is_told_for(trial: Record, objective: Objective | None) -> bool:
    """Whether a trial's value, and its prediction, are those of an objective."""
    if objective is None or trial.objective is None:
        return True
    try:
        told = Objective.from_json(trial.objective)
    except ObjectiveError:
        return True
    return told.averaging(trial.reported).weighs_as(objective.averaging(trial.reported))


def present_values(trial: Record, objective: Objective | None) -> tuple[float, ...]:
    """The objective's values of a trial: what it was told where that was of this objective, else
    from its losses; NaN where it lacks one that is weighed, nothing where it has no value."""
    if trial.values is None:
        return ()
    if objective is None or not trial.losses or is_told_for(trial, objective):
        return trial.values
    goals = objective.averaging(trial.reported)
    if any(name not in trial.losses for _, weights in goals.goals for name, _ in weights):
        return (math.nan,) * len(goals.goals)
    return goals.values(trial.losses)


def reported_goals(
    objective: Objective, sets: Sequence[str], averaged: Sequence[str]
) -> tuple[tuple[str, tuple[tuple[str, float], ...]], ...]:
    """Goals with explicit weights over losses (or values) that exist.

    Args:
        objective: the goals; one without weights is the mean over all sets that runs report.
        sets: the losses that exist.
        averaged: those of them that count where no weights are given.
    """
    goals = []
    for name, weights in objective.goals:
        kept = {s: w for s, w in weights if s in sets} or dict.fromkeys(averaged, 1.0)
        missing = [s for s, _ in weights if s not in sets]
        if missing and sets:
            warnings.warn(
                f"objective {name!r} weighs {', '.join(missing)}, which no run reports; it goes "
                f"on with {', '.join(kept)}",
                stacklevel=2,
            )
        total = sum(kept.values())
        goals.append((name, tuple((s, w / total) for s, w in kept.items())))
    return tuple(goals)


def _limits(
    told: Sequence[Record], group: Group | None, objective: Objective, sets: Sequence[str]
) -> tuple[tuple[str, float], ...]:
    """Upper limits on losses; "natural" is the mean loss of the runs of the natural mixture."""
    limits = dict(objective.limits)
    asked = next((t.limits for t in reversed(told) if t.limits), {})
    for name, limit in asked.items():
        value = natural_loss(told, group, name) if limit == "natural" else float(limit)
        if value is not None:
            limits[name] = value
    return tuple((name, limit) for name, limit in limits.items() if name in sets)
