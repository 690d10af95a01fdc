"""Which columns a study's next proposal has: its mixtures, and the parameters in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from optuna_mde.trials.facts import Facts, read_facts
from optuna_mde.trials.groups import DEFAULT_PREFIX, Group
from optuna_mde.trials.notes import Notes
from optuna_mde.trials.records import Record
from optuna_mde.trials.space import Space


@dataclass
class Common:
    """Parameters that all finished runs have with the same distribution."""

    distributions: dict[str, BaseDistribution] | None = None
    counted: set[int] = field(default_factory=set)
    """Numbers of the runs that were looked at."""

    def of(self, complete: Sequence[Record]) -> dict[str, BaseDistribution]:
        """The parameters, by name; runs that were not known before are looked at."""
        for trial in complete:
            if trial.number in self.counted:
                continue
            self.counted.add(trial.number)
            if self.distributions is None:
                self.distributions = dict(trial.distributions)
            else:
                self.distributions = {
                    n: d for n, d in self.distributions.items() if trial.distributions.get(n) == d
                }
        return dict(sorted((self.distributions or {}).items()))


def study_space(
    study: optuna.Study,
    trial: FrozenTrial | Trial | None = None,
    mixtures: Mapping[str, Sequence[str]] | None = None,
    facts: Facts | None = None,
    common: Common | None = None,
) -> Space:
    """The space of a study's next proposal.

    Mixtures are those registered on `trial`, completed by those of the latest finished run (of
    any trial while none has finished) and by `mixtures`; the other parameters are those that all
    finished runs have in common.

    Args:
        study: an Optuna study.
        trial: the trial to propose for.
        mixtures: prefix -> domains of mixtures that no helper registers.
        facts: what the study holds, if it was read already.
        common: kept between calls for the same study.
    """
    facts = facts or read_facts(study)
    trials, notes = facts.trials, facts.notes
    own = next((t for t in trials if trial is not None and t.number == trial.number), None)
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    declared = notes.mixtures if mixtures is None else mixtures
    groups = {p: _declared_group(p, domains, complete) for p, domains in declared.items()}
    for source in (_latest(trials, notes), own):
        groups |= {group.prefix: group for group in (source.groups if source else ())}
    if not groups and (domains := _imported_domains(complete)):
        groups[DEFAULT_PREFIX] = _declared_group(DEFAULT_PREFIX, domains, complete)
    parts = {name for group in groups.values() for name in group.names}
    present = [group.revised(notes.origins(group.prefix)) for group in groups.values()]
    parts |= {group.prefix + old for group in present for old, _ in group.origins}
    others = (common or Common()).of(complete)
    return Space(
        tuple(_with_natural(group, notes.natural) for group in present),
        {name: d for name, d in others.items() if name not in parts and not d.single()},
    )


def _latest(trials: Sequence[Record], notes: Notes) -> Record | None:
    """The latest finished run that says its mixtures, be it an expert on a share of one; while
    none has present domains, any trial that has."""
    saying = [trial for trial in reversed(trials) if trial.groups]
    told = [
        trial
        for trial in saying
        if trial.state == TrialState.COMPLETE
        or (trial.state == TrialState.PRUNED and trial.losses)
    ]
    present = (t for t in (*told, *saying) if not any(map(notes.is_revised, t.groups)))
    return next(present, next(iter(told or saying), None))


def _imported_domains(complete: Sequence[Record]) -> tuple[str, ...]:
    """Domains of runs that came from elsewhere (`add_trials`) in the documented format.

    Every run must have parameters ``mix/<domain>`` that sum to 1: the name or the sum alone would
    be a guess.
    """
    prefix = DEFAULT_PREFIX
    if not complete or any(trial.mixture(prefix) is None for trial in complete):
        return ()
    names = [n for trial in complete for n in trial.params if n.startswith(prefix)]
    domains = tuple(name.removeprefix(prefix) for name in dict.fromkeys(names))
    return domains if len(domains) >= 2 else ()


def _declared_group(prefix: str, domains: Sequence[str], complete: Sequence[Record]) -> Group:
    """A mixture that no helper registers; ranges narrower than [0, 1] are its bounds."""
    names = [prefix + domain for domain in domains]
    latest = next((t for t in reversed(complete) if set(names) <= t.distributions.keys()), None)
    ranges = [latest.distributions[name] if latest else None for name in names]
    lower = tuple(float(getattr(r, "low", 0.0)) for r in ranges)
    upper = tuple(float(getattr(r, "high", 1.0)) for r in ranges)
    return Group(prefix, tuple(domains), lower, upper, strict=True)


def _with_natural(group: Group, shares: Mapping[str, float]) -> Group:
    """The group with the study's natural mixture where it brings none."""
    rates = np.array([max(0.0, shares.get(domain, 0.0)) for domain in group.domains])
    if group.natural is not None or rates.sum() <= 0:
        return group
    return replace(group, natural=tuple((rates / rates.sum()).tolist()))
