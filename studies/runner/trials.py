"""How many trials a study has, by what became of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from optuna.study import StudyDirection
from optuna.trial import TrialState
from optuna_mde_studies.exchange.origin import is_own
from optuna_mde_studies.runner.recovery import INTERRUPTED, is_abandoned, is_ours
from optuna_mde_studies.runner.sharing.leases import lease
from optuna_mde_studies.wording import count, listed

from optuna_mde.asks.startup import TRIES
from optuna_mde.trials.facts import read_facts
from optuna_mde.trials.layout import study_space
from optuna_mde.trials.records import read_trial
from optuna_mde.trials.targets import present_objective, present_values

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import optuna
    from optuna.trial import FrozenTrial

    from optuna_mde.trials.facts import Facts
    from optuna_mde.trials.groups import Group
    from optuna_mde.trials.records import Record

ALLOWED = 1e-6
"""By which recorded rates may miss a bound: they are often rounded."""

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
"""What counts as a trial of `search.n_trials`; a shortened expert ends PRUNED."""


WANTED_ATTR = "n_trials"
"""Study attribute: `search.n_trials` of whoever started the study last, for all workers."""


def num_finished(study: optuna.Study) -> int:
    """Finished trials, as `search.n_trials` counts them: none that were taken over."""
    return sum(map(is_own, study.get_trials(deepcopy=False, states=FINISHED)))


def num_held(study: optuna.Study) -> int:
    """RUNNING trials that workers of this package hold."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return sum(is_ours(trial) for trial in running)


def holders(study: optuna.Study) -> list[str]:
    """`host:pid` of the processes that work on the study, as far as is known here."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    held = [lease(trial) for trial in running if not is_abandoned(trial)]
    return sorted({str(found.get("place", "")) for found in held if found is not None})


def activity(study: optuna.Study, *, has_runner: bool) -> str:
    """Whether anything is going on: `running now: 2 workers, on node3 and node7`.

    Args:
        study: the study.
        has_runner: whether a process of this machine runs the study.
    """
    places = holders(study)
    if places:
        machines = dict.fromkeys(place.rpartition(":")[0] for place in places)
        return f"running now: {count(len(places), 'worker')}, on {listed(machines)}"
    return "running now" if has_runner else "not running"


def counts(study: optuna.Study) -> dict[str, int]:
    """Trials by state; those that were interrupted and queued again are not failures, those of
    dead processes wait for whoever takes them up, and those that were taken over from elsewhere
    are not the study's."""
    found: dict[str, int] = {}
    for trial in study.get_trials(deepcopy=False):
        state = trial.state.name.lower()
        if trial.state == TrialState.FAIL and trial.user_attrs.get(INTERRUPTED):
            state = "interrupted"
        elif trial.state == TrialState.FAIL:
            state = "failed"
        elif trial.state == TrialState.RUNNING and is_abandoned(trial):
            state = "left by a process that is gone"
        elif trial.state in FINISHED and not is_own(trial):
            state = "taken over"
        found[state] = found.get(state, 0) + 1
    return found


def lost_experts(study: optuna.Study, facts: Facts | None = None) -> list[str]:
    """Domains whose experts failed for good: none is tried again."""
    facts = facts or read_facts(study)
    groups = study_space(study, facts=facts).groups
    if not groups:
        return []
    runs: dict[str, list[TrialState]] = {domain: [] for domain in groups[0].domains}
    for trial in facts.trials:
        if (domain := trial.corner(groups[0])) is not None:
            runs[domain].append(trial.state)
    return [
        domain
        for domain, states in runs.items()
        if domain not in facts.notes.experts
        and states.count(TrialState.FAIL) == len(states) >= TRIES
    ]


def on_lost_experts(study: optuna.Study) -> str | None:
    """A sentence on the domains whose experts failed for good; None without any."""
    facts = read_facts(study)
    groups = study_space(study, facts=facts).groups
    lost = lost_experts(study, facts)
    return no_expert(lost, len(groups[0].domains)) if lost else None


def no_expert(lost: Sequence[str], domains: int) -> str:
    """What it costs that some of so many domains have no expert."""
    cost = "their shares are predicted from the rates alone"
    if domains - len(lost) < 2:
        cost = "there is no MDE, and the search goes by its runs alone"
    return (
        f"NO EXPERT of {listed(lost)}: every run failed, {TRIES} times or more, and none is tried "
        f"again; {cost}"
    )


def is_forbidden(record: Record, group: Group | None) -> bool:
    """Whether the bounds and constraints in force forbid a trial's mixture."""
    rates = None if group is None else record.rates(group)
    return group is not None and rates is not None and not group.region().contains(rates, ALLOWED)


def values(study: optuna.Study) -> dict[int, tuple[float, ...]]:
    """Objective values of complete trials, by number, under the study's present objective."""
    facts = read_facts(study)
    goals = present_objective(facts.trials, facts.notes)
    complete = [trial for trial in facts.trials if trial.state == TrialState.COMPLETE]
    return {trial.number: present_values(trial, goals) for trial in complete}


def allowed(study: optuna.Study) -> Callable[[FrozenTrial], bool]:
    """Tells trials whose mixtures the bounds and constraints in force allow, by those of now."""
    groups = study_space(study).groups
    return lambda trial: not any(is_forbidden(read_trial(trial), group) for group in groups)


def best_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The best allowed trial, or the allowed ones of the Pareto front of several objectives."""
    keeps = allowed(study)
    if len(study.directions) > 1:
        return [trial for trial in study.best_trials if keeps(trial)]
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
    reached = {n: value for n, (value,) in values(study).items() if not math.isnan(value)}
    found = [
        (sign * reached[t.number], t.number, t) for t in done if t.number in reached and keeps(t)
    ]
    return [min(found, key=lambda one: one[:2])[2]] if found else []
