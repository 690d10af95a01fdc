"""Trials -> observations: inputs, losses, pending runs and experts. Gaps are handled here.

A run that lacks an output leaves that output; a run that cannot be placed in the space, failed,
was pruned or is excluded leaves altogether. Numeric rooms see arrays and names, never a trial.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import optuna
from optuna.trial import TrialState

from optuna_mde.objective import CONSTRAINT, Objective, ObjectiveError
from optuna_mde.observations import VALUE, ExpertFile, Observations
from optuna_mde.simplex.projection import Array
from optuna_mde.trials import records
from optuna_mde.trials.groups import Group
from optuna_mde.trials.layout import Common
from optuna_mde.trials.notes import Notes, read_notes
from optuna_mde.trials.records import Record
from optuna_mde.trials.space import Space

LOST_FACTOR = 10.0  # running for this many times the longest finished run counts as lost ...
LOST_SECONDS = 60.0  # ... but never sooner than this: toy runs end within milliseconds
NATURAL_TOLERANCE = 1e-6  # recorded rates of the natural mixture are often rounded


@dataclass
class Cache:
    """What one reader of one study need not parse again."""

    records: dict[int, Record] = field(default_factory=dict)
    layout: object = None
    """What decides the columns: prefixes, domains and distributions, but no bounds."""
    rows: dict[int, Array | None] = field(default_factory=dict)
    """Inputs of finished trials in that layout."""
    common: Common = field(default_factory=Common)


def read(
    study: optuna.Study,
    space: Space,
    *,
    number: int | None = None,
    trials: Sequence[Record] | None = None,
    notes: Notes | None = None,
    cache: Cache | None = None,
) -> Observations:
    """Read a study's runs as observations in the columns of `space`.

    Args:
        study: an Optuna study.
        space: the columns, from `layout.study_space`.
        number: the trial that is being proposed for; it does not count as pending.
        trials: the study's records, if they were read already.
        notes: what the study keeps, if it was read already.
        cache: kept between calls for the same study.
    """
    trials = records.read_trials(study) if trials is None else trials
    notes = read_notes(study) if notes is None else notes
    cache = cache if cache is not None else Cache()
    layout = ([(g.prefix, g.domains) for g in space.groups], space.distributions)
    if cache.layout != layout:
        cache.layout, cache.rows = layout, {}
    kept = [t for t in trials if t.number not in notes.excluded]
    _warn_of_strange(kept, space)
    runs = [t for t in kept if _is_observation(t)]
    placed = [(t, x) for t in runs if (x := _row(t, space, cache)) is not None]
    group = space.groups[0] if space.groups else None
    reporting = any(t.losses for t, _ in placed)
    if reporting:
        placed = [(t, x) for t, x in placed if t.losses]
    told = [t for t, _ in placed]
    goals = _objective(told, notes)
    if not told and goals.sets:  # the sampler's own objective, ahead of any run
        outputs, Y = goals.sets, np.zeros((0, len(goals.sets)))
    elif reporting:
        outputs, Y = _losses(told)
    else:
        outputs, Y = _values(told, records.is_maximised(study))
        goals = _value_goals(len(outputs))
    outputs, Y = _with_constraints(told, outputs, Y)
    X = np.array([x for _, x in placed]).reshape(len(placed), space.dim)
    alive = [t for t in trials if not t.finished and t.number != number]
    lost = lost_trials(trials)
    encoded = [space.encode(t.params, _mixtures(t, space)) for t in alive if t.number not in lost]
    waiting = [x for x in encoded if x is not None]
    pending = np.array(waiting).reshape(len(waiting), space.dim)
    return Observations(
        space_dim=space.dim,
        X=X,
        Y=Y,
        outputs=outputs,
        numbers=np.array([t.number for t in told], dtype=np.int64),
        corner=np.array([group is not None and t.corner(group) is not None for t in told], bool),
        budget=np.array([t.budget for t in told], dtype=float),
        pending=pending,
        experts=expert_files(notes, group, kept) if group else (),
        block=space.block(group) if group else None,
        domains=group.domains if group else (),
        objective=Objective(_reported_goals(goals, outputs), _limits(told, group, goals, outputs)),
        n_told=len(told),
    )


def expert_files(notes: Notes, group: Group, trials: Iterable[Record]) -> tuple[ExpertFile, ...]:
    """Log-probability files that exist, passed in or left by corner runs; the fullest first."""
    files = [
        ExpertFile(domain, url, 1.0, -1)
        for domain, url in notes.experts.items()
        if domain in group.domains
    ]
    for trial in trials:
        domain = trial.corner(group)
        ended = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        if ended and domain is not None and trial.logprobs is not None:
            files.append(ExpertFile(domain, trial.logprobs, trial.budget, trial.number))
    files.sort(key=lambda f: (group.domains.index(f.domain), -f.budget, f.number))
    return tuple(
        ExpertFile(f.domain, url, f.budget, f.number)
        for f in files
        if _exists(url := notes.resolve(f.url), f)
    )


def lost_trials(trials: Sequence[Record]) -> set[int]:
    """Running trials that no worker can still be at: not every storage has a heartbeat."""
    durations = [t.seconds for t in trials if t.state == TrialState.COMPLETE and t.seconds]
    if not durations:
        return set()
    limit = max(LOST_SECONDS, LOST_FACTOR * max(durations))
    return {
        t.number
        for t in trials
        if t.state == TrialState.RUNNING
        and t.started is not None
        and (datetime.now(t.started.tzinfo) - t.started).total_seconds() > limit
    }


def _is_observation(trial: Record) -> bool:
    """A finished run with figures; a cheap expert ends pruned, with its losses."""
    if trial.state == TrialState.PRUNED:
        return trial.budget < 1.0 and bool(trial.losses)
    return trial.state == TrialState.COMPLETE


def _warn_of_strange(trials: Sequence[Record], space: Space) -> None:
    """Name what other hands wrote on trials, and nobody can use."""
    for trial in trials:
        if any(trial.trained.get(group.prefix, {}) is None for group in space.groups):
            warnings.warn(
                f"trial {trial.number} is left out: its user attribute 'mixture' holds no mixture "
                f"(rates of at least 0, not all of them 0)",
                stacklevel=2,
            )


def _row(trial: Record, space: Space, cache: Cache) -> Array | None:
    if trial.number not in cache.rows:
        cache.rows[trial.number] = space.encode(trial.params, _mixtures(trial, space))
    return cache.rows[trial.number]


def _mixtures(trial: Record, space: Space) -> dict[str, dict[str, float]]:
    found = {group.prefix: trial.mixture(group.prefix) for group in space.groups}
    return {prefix: mixture for prefix, mixture in found.items() if mixture is not None}


def _losses(told: Sequence[Record]) -> tuple[tuple[str, ...], Array]:
    names = tuple(dict.fromkeys(name for t in told for name in t.losses))
    rows = [[t.losses.get(name, np.nan) for name in names] for t in told]
    return names, np.array(rows, dtype=float).reshape(len(told), len(names))


def _values(told: Sequence[Record], maximised: Sequence[bool]) -> tuple[tuple[str, ...], Array]:
    names = tuple(f"{VALUE}{i}" for i in range(len(maximised)))
    rows = [t.values if t.values is not None else (np.nan,) * len(names) for t in told]
    Y = np.array(rows, dtype=float).reshape(len(told), len(names))
    return names, np.where(maximised, -Y, Y)


def _value_goals(n: int) -> Objective:
    names = [f"{VALUE}{i}" for i in range(n)]
    return Objective(tuple((name, ((name, 1.0),)) for name in names))


def _with_constraints(
    told: Sequence[Record], outputs: tuple[str, ...], Y: Array
) -> tuple[tuple[str, ...], Array]:
    """Append the values of `trial.set_constraint`, feasible at or below 0, as outputs."""
    keys = tuple(dict.fromkeys(key for t in told for key in t.constraints))
    rows = [[t.constraints.get(key, np.nan) for key in keys] for t in told]
    extra = np.array(rows, dtype=float).reshape(len(told), len(keys))
    return (*outputs, *(CONSTRAINT + key for key in keys)), np.hstack([Y, extra])


def _objective(told: Sequence[Record], notes: Notes) -> Objective:
    """The objective of the latest run that carries one: a study may change its mind."""
    texts = [(f"of trial {trial.number}", trial.objective) for trial in reversed(told)]
    for origin, text in (*texts, ("of the sampler's options", notes.objective)):
        if text is not None:
            try:
                return Objective.from_json(text)
            except ObjectiveError as error:
                warnings.warn(f"the objective {origin} is left out: {error}", stacklevel=2)
    return Objective()


def _reported_goals(
    objective: Objective, outputs: Sequence[str]
) -> tuple[tuple[str, tuple[tuple[str, float], ...]], ...]:
    """Goals with explicit weights over outputs that exist; constraints are no part of a mean."""
    sets = [name for name in outputs if not name.startswith(CONSTRAINT)]
    goals = []
    for name, weights in objective.goals:
        kept = {s: w for s, w in weights if s in sets} or dict.fromkeys(sets, 1.0)
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
    told: Sequence[Record], group: Group | None, objective: Objective, outputs: Sequence[str]
) -> tuple[tuple[str, float], ...]:
    """Upper limits on outputs; "natural" is the mean loss of the runs of the natural mixture."""
    limits = dict(objective.limits)
    asked = next((t.limits for t in reversed(told) if t.limits), {})
    for name, limit in asked.items():
        value = natural_loss(told, group, name) if limit == "natural" else float(limit)
        if value is not None:
            limits[name] = value
    limits |= {name: 0.0 for name in outputs if name.startswith(CONSTRAINT)}
    return tuple((name, limit) for name, limit in limits.items() if name in outputs)


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


def _exists(url: str, file: ExpertFile) -> bool:
    local = url.removeprefix("file://")
    if "://" in local or os.access(local, os.R_OK):
        return True
    origin = f"of trial {file.number}" if file.number >= 0 else "that was passed in"
    warnings.warn(
        f"log-probability file {url} {origin} cannot be read; MDE goes on without the expert of "
        f"{file.domain!r}. Relative paths start from the study's folder (study attribute "
        f"'mde_folder') or the current folder.",
        stacklevel=2,
    )
    return False
