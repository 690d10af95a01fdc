"""Runs of tables as finished trials of a study, and a study's trials as runs."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import FloatDistribution, distribution_to_json, json_to_distribution
from optuna.trial import TrialState, create_trial
from optuna_mde_studies.exchange.origin import ORIGIN, is_own
from optuna_mde_studies.exchange.runs import TableRun, TableRuns
from optuna_mde_studies.exchange.tables import ExchangeError
from optuna_mde_studies.wording import listed

from optuna_mde import report_losses
from optuna_mde.mde.urls import trust
from optuna_mde.objective import Objective, ObjectiveError
from optuna_mde.simplex.projection import MixtureError
from optuna_mde.trials import notes, records
from optuna_mde.trials.attributes import chunks
from optuna_mde.trials.facts import read_facts
from optuna_mde.trials.groups import Group, make_group
from optuna_mde.trials.layout import study_space

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

SIZE_TOLERANCE = 0.01
"""Runs whose tokens or parameters differ by more are of another size: their losses differ by more
than any mixture does."""

PHASES = ("expert", "natural", "uniform", "design", "model", "prior", "mde")
"""What may have proposed a run."""


@dataclass(frozen=True)
class Target:
    """What the runs of tables are taken into."""

    study: optuna.Study
    group: Group
    """Its mixture, with the bounds in force."""
    objective: Objective | None
    """What all of its runs are judged by; None: what each of them says, else the mean."""
    ended: datetime
    """When the runs had ended."""
    goals: Objective = field(default_factory=Objective)
    """What the study minimises."""
    sets: tuple[str, ...] = ()
    """Its validation sets; none where nobody says them."""


def mixture_of(
    study: optuna.Study,
    found: TableRuns,
    domains: Sequence[str] = (),
    bounds: Mapping[str, tuple[float, float]] | None = None,
    natural: Mapping[str, float] | None = None,
) -> Group:
    """The mixture that runs are taken as: the study's own, else that of its definition, else the
    tables'.

    Args:
        study: where they go.
        found: the runs.
        domains: of the study's definition, with `bounds` and `natural`.

    Raises:
        ExchangeError: if a run trains a domain that the study does not have.
    """
    groups = study_space(study).groups
    if len(groups) > 1:
        raise ExchangeError(f"{study.study_name}: has several mixtures, which tables cannot tell")
    try:
        group = groups[0] if groups else make_group(domains or found.domains, bounds, natural)
    except MixtureError as error:
        raise ExchangeError(str(error)) from None
    unknown = [name for name in found.domains if name not in group.domains]
    trained = [n for n in unknown if any(run.mixture[n] > 0 for run in found.runs)]
    if trained:
        raise ExchangeError(
            f"the tables have rates of {listed(map(repr, trained))}, and {study.study_name} has "
            f"the domains {', '.join(group.domains)}; rename the columns, or leave these runs out"
        )
    return group


def as_trial(
    run: TableRun,
    sets: Sequence[str],
    target: Target,
    origin: Mapping[str, Any],
) -> FrozenTrial:
    """A finished trial that says what `suggest_mixture` and `report_losses` would have written,
    but for its log-probabilities (`name_file`).

    Args:
        run: the run.
        sets: validation sets of all runs; one that the run lacks is absent in it.
        target: the study, its mixture and its objective.
        origin: where it comes from.

    Raises:
        ExchangeError: if the run has no value, or a parameter that is none.
    """
    group = target.group
    params, distributions = _parameters(run, group)
    state = TrialState.COMPLETE if run.budget >= 1.0 else TrialState.PRUNED
    draft = create_trial(params=params, distributions=distributions, state=TrialState.RUNNING)
    draft.set_user_attr(ORIGIN, dict(origin))
    if run.phase in PHASES:
        draft.set_user_attr("phase", run.phase)
    values = _reported(draft, run, sets, target.objective)
    made = create_trial(
        state=state,
        values=values if state == TrialState.COMPLETE else None,
        params=params,
        distributions=distributions,
        user_attrs=draft.user_attrs,
        system_attrs=dict(chunks("groups", [group.to_json()], {})),
    )
    made.datetime_start = made.datetime_complete = target.ended
    return made


def name_file(trial: FrozenTrial, url: str) -> None:
    """Says where the log-probabilities of a run lie, as `report_losses` does."""
    trust(url)
    trial.set_user_attr("logprobs", url)


def check_names(target: Target, found: TableRuns) -> None:
    """Refuse losses on sets that are none of the study's.

    Raises:
        ExchangeError: with the sets that do not fit.
    """
    strange = [name for name in found.sets if name not in target.sets]
    if strange and target.sets:
        raise ExchangeError(
            f"the tables have losses on {listed(map(repr, strange))}, and "
            f"{target.study.study_name} has the validation sets {', '.join(target.sets)}; rename "
            "the columns, or leave them out"
        )


def check_sets(target: Target, found: TableRuns) -> None:
    """Refuse new runs whose losses are not those of the study's own runs.

    Raises:
        ExchangeError: with the sets that do not fit.
    """
    check_names(target, found)
    lacking = [name for name in target.sets if name not in found.sets]
    if found.runs and lacking and any(not weights for _, weights in target.goals.goals):
        raise ExchangeError(
            f"the tables have no losses on {listed(map(repr, lacking))}, and the objective is the "
            "mean over all validation sets: their runs would be judged by another mean. Give the "
            "sets weights in the objective, or add the columns"
        )


def origins(study: optuna.Study) -> list[Any]:
    """Where the runs come from that a study has taken over."""
    return [t.user_attrs[ORIGIN] for t in study.get_trials(deepcopy=False) if not is_own(t)]


def taken_over(target: Target) -> Callable[[TableRun, Mapping[str, Any]], records.Record | None]:
    """Finds the trial of a run that the study has taken over before: it comes from the same place,
    has the same parameters, and contradicts no loss.

    Returns:
        A function of a run and of where it comes from.
    """
    told = {record.number: record for record in read_facts(target.study).trials}
    held: dict[str, list[FrozenTrial]] = {}
    for trial in target.study.get_trials(deepcopy=False):
        if not is_own(trial):
            held.setdefault(json.dumps(trial.user_attrs[ORIGIN], sort_keys=True), []).append(trial)

    def find(run: TableRun, origin: Mapping[str, Any]) -> records.Record | None:
        for trial in held.get(json.dumps(origin, sort_keys=True), ()):
            losses = told[trial.number].losses
            agree = all(losses.get(name, loss) == loss for name, loss in run.losses.items())
            if agree and trial.params == _parameters(run, target.group)[0]:
                return told[trial.number]
        return None

    return find


def check(study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
    """Refuse runs that the study's model cannot learn from as it is.

    Raises:
        ExchangeError: if one is judged by another number of goals, or is of another size than the
            others.
    """
    for trial in trials:
        if trial.values is not None and len(trial.values) != len(study.directions):
            raise ExchangeError(
                f"{study.study_name} has {len(study.directions)} objective(s), the runs have "
                f"{len(trial.values)}; give another objective"
            )
    if any(records.is_maximised(study)):
        raise ExchangeError(f"{study.study_name} maximises, and losses are minimised")
    check_sizes(study.get_trials(deepcopy=False), trials)


def check_sizes(old: Iterable[FrozenTrial], new: Iterable[FrozenTrial]) -> None:
    """Refuse runs of another size: the model takes all full runs to be of one.

    Raises:
        ExchangeError: with both sizes.
    """
    for what in ("tokens", "parameters"):
        sizes = [
            (size, record.number)
            for record in map(records.read_trial, [*old, *new])
            if record.state in (TrialState.COMPLETE, TrialState.PRUNED)
            and (size := _full(record, what))
        ]
        if not sizes:
            continue
        (smallest, _), (largest, _) = min(sizes), max(sizes)
        if largest > smallest * (1 + SIZE_TOLERANCE):
            raise ExchangeError(
                f"full runs have {what} = {smallest:,.0f} in one place and {largest:,.0f} in "
                "another: runs of several sizes cannot be compared. Take one size; experts of a "
                "smaller model serve by their files alone, MDESampler(experts={domain: file})"
            )


def runs_of(study: optuna.Study) -> tuple[tuple[str, ...], list[tuple[int, TableRun]], list[str]]:
    """What a study's finished trials say.

    Returns:
        Domains; trial numbers with their runs, whose `logprobs` are URLs; and what is left out.

    Raises:
        ExchangeError: if the study has no finished run with losses, or several mixtures.
    """
    groups = study_space(study).groups
    if len(groups) != 1:
        what = "several mixtures" if groups else "no mixture"
        raise ExchangeError(f"{study.study_name}: has {what}; tables hold the runs of one")
    group, excluded = groups[0], notes.excluded(study)
    found: list[tuple[int, TableRun]] = []
    left_out: list[str] = []
    names: set[str] = set()
    known = {record.number: record for record in read_facts(study).trials}
    for trial in study.get_trials(deepcopy=False):
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
            continue
        record = known[trial.number]
        rates = record.rates(group)
        if trial.number in excluded or rates is None or not record.losses:
            why = "excluded" if trial.number in excluded else "without mixture or losses"
            left_out.append(f"trial {trial.number} is left out: {why}")
            continue
        mixture = dict(zip(group.domains, rates.tolist(), strict=True))
        run = _run(trial, record, mixture, group.prefix)
        if run.name in names:
            run = replace(run, name=_another(f"trial-{trial.number}", names))
        names.add(run.name)
        found.append((trial.number, run))
    if not found:
        raise ExchangeError(f"{study.study_name}: has no finished run that reports losses")
    return group.domains, found, left_out


def _objective(record: records.Record) -> str | None:
    """What a run was judged by; a mean over all sets names those that it reported itself, where
    others were added later."""
    if record.objective is None or not record.added:
        return record.objective
    goals = Objective.from_json(record.objective)
    mean = dict.fromkeys(record.reported, 1 / len(record.reported))
    named = tuple((name, weights or tuple(mean.items())) for name, weights in goals.goals)
    return replace(goals, goals=named).to_json()


def _another(name: str, names: set[str]) -> str:
    return name if name not in names else _another(f"{name}-again", names)


def _run(
    trial: FrozenTrial, record: records.Record, mixture: dict[str, float], prefix: str
) -> TableRun:
    origin = trial.user_attrs.get(ORIGIN)
    known = origin.get("run") if isinstance(origin, Mapping) else None
    return TableRun(
        name=str(known) if known else str(trial.number),
        mixture=mixture,
        losses=record.losses,
        tokens=None if record.tokens is None else round(record.tokens),
        parameters=None if record.parameters is None else round(record.parameters),
        budget=record.budget,
        phase=str(trial.user_attrs.get("phase") or "") or None,
        logprobs=record.logprobs,
        more_logprobs=record.more_logprobs,
        objective=_objective(record),
        limits=dict(record.limits),
        beside={
            name: [value, distribution_to_json(trial.distributions[name])]
            for name, value in trial.params.items()
            if not name.startswith(prefix)
        },
    )


def _reported(
    draft: FrozenTrial,
    run: TableRun,
    sets: Sequence[str],
    objective: Objective | None,
) -> Sequence[float]:
    """Values of a run, whose attributes are written on the draft."""
    try:
        goals = objective or (Objective.from_json(run.objective) if run.objective else Objective())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sets that a run lacks, which are said once
            found = report_losses(
                draft,
                {name: run.losses.get(name, math.nan) for name in sets},
                objective={name: dict(weights) or "mean" for name, weights in goals.goals},
                limits=run.limits or None,
                budget=run.budget,
                tokens=run.tokens,
                parameters=run.parameters,
            )
    except (ObjectiveError, ValueError) as error:
        raise ExchangeError(f"run {run.name}: {error}") from None
    values = (found,) if isinstance(found, float) else tuple(found)
    if any(math.isnan(value) for value in values) and run.budget >= 1.0:
        raise ExchangeError(
            f"run {run.name}: has no loss on {listed(goals.sets)}, which the objective weighs; "
            "leave the run out, or give another objective"
        )
    return values


def _parameters(run: TableRun, group: Group) -> tuple[dict[str, Any], dict[str, Any]]:
    """Values and distributions of a run's parameters, those of the mixture first."""
    values: dict[str, Any] = {
        name: min(1.0, run.mixture.get(domain, 0.0))
        for domain, name in zip(group.domains, group.names, strict=True)
    }
    distributions: dict[str, Any] = dict.fromkeys(values, FloatDistribution(0.0, 1.0))
    for name, pair in run.beside.items():
        values[name], distributions[name] = _parameter(run, group, name, pair)
    return values, distributions


def _parameter(run: TableRun, group: Group, name: str, pair: Any) -> tuple[Any, Any]:
    """Value and distribution of a parameter beside the mixture."""
    try:
        value, text = pair
        distribution = json_to_distribution(text)
        if name.startswith(group.prefix) or not records.contains(distribution, value):
            raise ValueError
    except (TypeError, ValueError, KeyError, AttributeError):
        raise ExchangeError(
            f"run {run.name}: beside = {{{name!r}: …}} is no parameter with its distribution"
        ) from None
    return value, distribution


def _full(record: records.Record, what: str) -> float | None:
    """Tokens or parameters of a full run, as a run on a share of one lets expect."""
    size = record.tokens if what == "tokens" else record.parameters
    if size is None or what == "parameters":
        return size
    return size if record.budget >= 1.0 else None
