"""Trials -> observations: inputs, losses, pending runs and experts. Gaps are handled here.

A run that lacks an output leaves that output; one that cannot be placed in the space, failed, was
pruned or is excluded leaves altogether, and `Observations.left_out` says why. Numeric rooms see
arrays and names, never a trial.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import optuna
from optuna.trial import TrialState

from optuna_mde.mde.logprobs import is_missing
from optuna_mde.mde.urls import ALLOW, folder_above, is_trusted
from optuna_mde.observations import ExpertFile, Observations
from optuna_mde.simplex.projection import Array
from optuna_mde.trials import records
from optuna_mde.trials.facts import Facts, read_facts
from optuna_mde.trials.groups import Group
from optuna_mde.trials.layout import Common
from optuna_mde.trials.notes import Notes
from optuna_mde.trials.records import Record
from optuna_mde.trials.space import Space, middle
from optuna_mde.trials.targets import outputs_of


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
    facts: Facts | None = None,
    cache: Cache | None = None,
) -> Observations:
    """Read a study's runs as observations in the columns of `space`.

    Args:
        study: an Optuna study.
        space: the columns, from `layout.study_space`.
        number: the trial that is being proposed for; it does not count as pending.
        facts: what the study holds, if it was read already.
        cache: kept between calls for the same study.
    """
    facts = facts or read_facts(study)
    trials, notes = facts.trials, facts.notes
    cache = cache if cache is not None else Cache()
    layout = ([(g.prefix, g.domains, g.origins) for g in space.groups], space.distributions)
    if cache.layout != layout:
        cache.layout, cache.rows = layout, {}
    kept = [t for t in trials if t.number not in notes.excluded]
    _warn_of_strange(kept, space)
    runs, left_out = _runs(trials, notes, space, cache)
    group = space.groups[0] if space.groups else None
    told = [trial for trial, _ in runs]
    targets, Y, objective = outputs_of(told, notes, group, records.is_maximised(study))
    corner = [group is not None and trial.corner(group) is not None for trial in told]
    left_out |= {t.number: _unlearned(t, group) for t in told}
    pending, stalled = _pending(facts, number, space)
    experts, refused = expert_files(notes, group, kept) if group else ((), {})
    parts = _parts(group, told, experts) if group else {}
    retired, shares, held = _retired(group, told, experts, parts)
    return Observations(
        columns=space.labels,
        X=np.array([x for _, x in runs]).reshape(len(runs), space.dim),
        Y=Y,
        targets=targets,
        numbers=np.array([trial.number for trial in told], dtype=np.int64),
        corner=np.array(corner, dtype=bool),
        budget=np.array([trial.budget for trial in told], dtype=float),
        schedule=np.ones(len(told)),
        tokens=np.array([trial.tokens for trial in told], dtype=float),
        parameters=np.array([trial.parameters for trial in told], dtype=float),
        pending=np.array(pending).reshape(len(pending), space.dim),
        stalled=np.array(stalled).reshape(len(stalled), space.dim),
        experts=experts,
        refused=refused,
        block=space.block(group) if group else None,
        domains=group.domains if group else (),
        retired=retired,
        shares=shares,
        held=held,
        untried=_is_untried(group, told, parts),
        objective=objective,
        left_out={number: why for number, why in sorted(left_out.items()) if why},
    )


def expert_files(
    notes: Notes, group: Group, trials: Iterable[Record]
) -> tuple[tuple[ExpertFile, ...], dict[str, str]]:
    """Log-probability files, passed in or left by corner runs; the fullest first.

    Returns:
        The files that exist and may be opened, and {domain: reason} of the others.
    """
    files = [
        ExpertFile(domain, notes.resolve(url), 1.0, -1) for domain, url in notes.experts.items()
    ]
    for trial in trials:
        domain = trial.alone(group.prefix)
        ended = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        if ended and domain is not None and trial.logprob_urls:
            url, *more = map(notes.resolve, trial.logprob_urls)
            told = tuple(trial.losses.items())
            files.append(
                ExpertFile(domain, url, trial.budget, trial.number, told, more=tuple(more))
            )
    files = [served for file in files for served in _serving(file, group)]
    order = (*group.domains, *(old for old, _ in group.origins))
    files.sort(key=lambda f: (order.index(f.domain), f.of != "", -f.budget, f.number))
    faults = {file: _fault(file, file.url, notes) for file in files}
    further = {(file, url): _fault(file, url, notes) for file in files for url in file.more}
    outside = [(file, file.url) for file in files] + list(further)
    outside = [(file, url) for file, url in outside if not is_trusted(url, notes.roots)]
    if len({url for _, url in outside}) > 1:
        said = _outside(outside)
        faults |= {file: said for file, url in outside if url == file.url}
        further |= {pair: said for pair in outside if pair in further}
    for reason in dict.fromkeys(filter(None, [*faults.values(), *further.values()])):
        warnings.warn(reason, stacklevel=3)
    usable = tuple(
        replace(file, more=tuple(url for url in file.more if not further[file, url]))
        for file, reason in faults.items()
        if not reason
    )
    served = {file.domain for file in usable}
    return usable, {f.domain: why for f, why in faults.items() if why and f.domain not in served}


def _serving(file: ExpertFile, group: Group) -> list[ExpertFile]:
    """The file, for the domains that it may serve.

    The expert of a domain that has become others tells what runs gained of it. Of one that was
    split, or revised, it stands for the experts that are missing, too; of one that was merged it
    knows a part only.
    """
    if file.domain in group.domains:
        return [file]
    origins = dict(group.origins)
    if file.domain not in origins:
        return []
    parts = [new for shares in origins.values() for new, _ in shares]
    became = [new for new, _ in origins[file.domain] if new in group.domains]
    alone = [new for new in became if parts.count(new) == 1]
    return [file, *(replace(file, domain=new, of=file.domain) for new in alone)]


def _retired(
    group: Group | None,
    told: Sequence[Record],
    experts: Sequence[ExpertFile],
    parts: Mapping[str, Sequence[str]],
) -> tuple[tuple[str, ...], Array, Array]:
    """Domains that have become others and whose file tells of old runs, their shares `[R, K]`, and
    what the runs `[n, R]` trained of them."""
    domains = group.domains if group is not None else ()
    served = {file.domain for file in experts} - {*domains, *parts}
    origins = {old: dict(new) for old, new in (group.origins if group else ()) if old in served}
    shares = [[new.get(domain, 0.0) for domain in domains] for new in origins.values()]
    mixtures = [trial.mixture(group.prefix) or {} for trial in told] if group else []
    held = [[mixture.get(old, 0.0) for old in origins] for mixture in mixtures]
    return (
        tuple(origins),
        np.array(shares).reshape(len(origins), len(domains)),
        np.array(held).reshape(len(told), len(origins)),
    )


def _parts(
    group: Group, told: Sequence[Record], experts: Sequence[ExpertFile]
) -> dict[str, list[str]]:
    """Domains that were split, and their parts, where these have experts and hold nothing else.

    A run of such a domain is a run of its parts at their shares. Told by their experts, it speaks
    of the mixtures that are asked about; MDE by the old expert has errors of its own
    (`python -m benchmarks.domains`).
    """
    if not group.origins:
        return {}
    own = {file.domain for file in experts if not file.of}
    became = {old: [new for new, _ in shares] for old, shares in group.origins}
    every = [new for parts in became.values() for new in parts]
    mixtures = [trial.mixture(group.prefix) or {} for trial in told]

    def is_whole(old: str, parts: Sequence[str]) -> bool:
        beside = {name for mixture in mixtures if old in mixture for name in mixture}
        return len(parts) > 1 and all(p in own - beside and every.count(p) == 1 for p in parts)

    return {old: parts for old, parts in became.items() if is_whole(old, parts)}


def _is_untried(
    group: Group | None, told: Sequence[Record], parts: Mapping[str, Sequence[str]]
) -> bool:
    """Whether a domain was split of whose parts no mixture was run at shares of their own."""
    if group is None or not parts:
        return False
    mixed = [t.mixture(group.prefix) or {} for t in told if t.alone(group.prefix) is None]
    tried = {name for mixture in mixed for name, rate in mixture.items() if rate > 0.0}
    return any(not tried & {*new} for new in parts.values())


def _runs(
    trials: Sequence[Record], notes: Notes, space: Space, cache: Cache
) -> tuple[list[tuple[Record, Array]], dict[int, str]]:
    """Finished runs with their inputs `[d]`, and why the other finished trials are none."""
    runs: list[tuple[Record, Array]] = []
    left_out: dict[int, str] = {}
    for trial in trials:
        if not trial.finished:
            continue
        why = _excluded(trial, notes)
        x = None if why else _row(trial, space, cache)
        if x is None:
            left_out[trial.number] = why or _unplaced(trial, space)
        else:
            runs.append((trial, x))
    if any(trial.losses for trial, _ in runs):
        silent = [trial.number for trial, _ in runs if not trial.losses]
        left_out |= dict.fromkeys(silent, "reports no losses, as others do")
        runs = [(trial, x) for trial, x in runs if trial.losses]
    return runs, left_out


def _excluded(trial: Record, notes: Notes) -> str:
    """Why a finished trial has no figures to learn from; empty if it has."""
    if trial.number in notes.excluded:
        return f"excluded: {notes.excluded[trial.number]}"
    if trial.state == TrialState.FAIL:
        return "failed"
    if trial.state == TrialState.PRUNED and trial.budget >= 1.0:
        return "pruned"
    if trial.state == TrialState.PRUNED and not trial.losses:
        return "pruned without losses"
    return ""


def _unplaced(trial: Record, space: Space) -> str:
    """Why a trial has no place in the columns."""
    for group in space.groups:
        mixture = trial.mixture(group.prefix)
        if mixture is None:
            return f"has no mixture {group.prefix}"
        if trial.rates(group) is None:
            unknown = [d for d, rate in mixture.items() if d not in group.domains and rate > 0]
            return f"trains {', '.join(unknown)}, which the mixture does not have"
    for name in space.distributions:
        if name not in trial.params:
            return f"has no parameter {name}"
    values = [f"{name} = {trial.params[name]!r}" for name in space.distributions]
    return f"has a value outside the present choices: {', '.join(values)}"


def _unlearned(trial: Record, group: Group | None) -> str:
    """Why the model learns nothing from a run that is in the table; empty if it does.

    An expert on a share of a run, of a present domain or a former one, is told by its
    log-probabilities.
    """
    expert = group is not None and trial.alone(group.prefix) is not None
    if trial.budget >= 1.0 or (expert and trial.logprob_urls):
        return ""
    what = "an expert without log-probabilities" if expert else "a run"
    return f"{what} on {trial.budget:g} of a full run"


def _pending(facts: Facts, number: int | None, space: Space) -> tuple[list[Array], list[Array]]:
    """Inputs of the trials that are still to finish, beside the one that is proposed for.

    Those that may still be run, and those whose worker is probably gone.
    """
    pending: list[Array] = []
    stalled: list[Array] = []
    for trial in facts.trials:
        if trial.finished or trial.number == number or trial.number in facts.lost:
            continue
        # a parameter that is still to be suggested does not hide what is known
        known = {**{n: middle(d) for n, d in space.distributions.items()}, **trial.params}
        x = space.encode(known, _mixtures(trial, space))
        if x is not None:
            (stalled if trial.number in facts.stalled else pending).append(x)
    return pending, stalled


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


def _outside(files: Sequence[tuple[ExpertFile, str]]) -> str:
    """One sentence on several files that may not be opened."""
    urls = list(dict.fromkeys(url for _, url in files))
    domains = dict.fromkeys(file.domain for file, _ in files)
    above = folder_above(urls)
    where = f"below {above}" if above else f"such as {urls[0]}"
    named = above or "the folders or URLs above them"
    return (
        f"{len(urls)} log-probability files {where} are not opened, as the study's storage names "
        f"them and they lie outside the current folder and the storage's; MDE goes on without them"
        f" (experts of {', '.join(domains)}). If they are yours, set the environment variable "
        f"{ALLOW} to {named}"
    )


def _fault(file: ExpertFile, url: str, notes: Notes) -> str:
    """Why a file of an expert cannot be used, before it is opened; empty where nothing speaks
    against it."""
    origin = f"of trial {file.number}" if file.number >= 0 else "that was passed in"
    what = f"log-probability file {url} {origin}"
    goes_on = f"MDE goes on without the expert of {file.domain!r}"
    if url in file.more:
        goes_on = f"MDE goes on without its sets of the expert of {file.domain!r}"
    if not is_trusted(url, notes.roots):
        return (
            f"{what} is not opened, as the study's storage names it and it lies outside the "
            f"current folder and the storage's; {goes_on}. If it is yours, set the environment "
            f"variable {ALLOW} to a folder or URL above it"
        )
    if is_missing(url):
        return (
            f"{what} cannot be read; {goes_on}. Relative paths start from the study's folder "
            f"(study attribute 'mde_folder') or the current folder"
        )
    return ""
