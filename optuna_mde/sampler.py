"""`MDESampler`: Optuna's contract for samplers, and nothing else.

What a trial gets is drafted in `ask`. Everything that must outlive a process is in the study.
"""

from __future__ import annotations

import os
import secrets
import threading
import warnings
import weakref
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from optuna_mde.asks.ask import Ask, Chance, Memory, is_stale, kept_params, widen
from optuna_mde.asks.startup import FIXED_PHASES, shared_value
from optuna_mde.mde.urls import trust
from optuna_mde.objective import Objective, ObjectiveLike
from optuna_mde.scalars import real, whole
from optuna_mde.simplex.projection import MixtureError
from optuna_mde.simplex.region import sample
from optuna_mde.trials import layout, records
from optuna_mde.trials.facts import Facts, read_facts
from optuna_mde.trials.groups import check_enqueued, make_group
from optuna_mde.trials.notes import check_present, refuse_revised, set_settings
from optuna_mde.trials.records import Published, Record
from optuna_mde.trials.space import Space

PART = FloatDistribution(0.0, 1.0)  # every part of every mixture; bounds are kept beside it


class MDESampler(BaseSampler):
    """Proposes data mixtures by Mixture of Data Experts and a Gaussian process.

    The first trials are the experts (corners of the simplex, for MDE), the natural mixture and
    the uniform one; then an acquisition function is maximised on the bounded simplex, running
    trials taken into account. Parameters beside the mixture, and studies without any mixture,
    are searched by the same Gaussian process.

    Args:
        seed: makes proposals a function of seed, history and trial number. Workers may share it.
        mixtures: ``{prefix: domains}`` for frameworks that never call `suggest_mixture`. Their
            ranges are the bounds; the study's user attribute ``natural`` is the natural mixture.
        experts: ``{domain: URL}`` of log-probability files that exist; these corners are not run.
        expert_budget: share of a full run that experts train (``mixture.budget``), a number or
            ``{domain: share}``: less for a domain whose expert would repeat its documents often.
            A full run where nothing is said.
        objective: weights or groups of validation sets as in `report_losses`, used until a
            finished trial brings its own.
        n_startup_trials: finished trials before the model proposes. By default the model starts
            with the experts' log-probabilities; without any, after 10 trials, or about one for
            each domain of a mixture.
        independent_sampler: sampler of parameters outside the common search space (conditional
            ones, changing ranges); by default they are drawn uniformly.
        device: where the model computes: the CPU (None or ``"cpu"``), so far the only one.

    Raises:
        ValueError: if an argument cannot be used.

    Example:
        >>> import optuna
        >>> from optuna_mde import MDESampler, suggest_mixture
        >>> study = optuna.create_study(sampler=MDESampler(seed=0))
        >>> mixture = suggest_mixture(study.ask(), ["web", "code"])
        >>> dict(mixture), mixture.is_expert
        ({'web': 1.0, 'code': 0.0}, True)
    """

    def __init__(
        self,
        *,
        seed: int | None = None,
        mixtures: Mapping[str, Sequence[str]] | None = None,
        experts: Mapping[str, str | os.PathLike[str]] | None = None,
        expert_budget: float | Mapping[str, float] | None = None,
        objective: ObjectiveLike = None,
        n_startup_trials: int | None = None,
        independent_sampler: BaseSampler | None = None,
        device: str | None = None,
    ) -> None:
        seed = None if seed is None else _at_least_0("seed", seed)
        if n_startup_trials is not None:
            n_startup_trials = _at_least_0("n_startup_trials", n_startup_trials)
        if device is not None and str(device) != "cpu":
            raise ValueError(
                f"device must be None or 'cpu', got {device!r}: the model computes on the CPU, "
                f"and leaves accelerators to the runs"
            )
        self._seed = seed
        self._n_startup_trials = n_startup_trials
        self._independent_sampler = independent_sampler
        self._settings = _settings(mixtures, experts, expert_budget, objective)
        self._reseed = 0
        self._forget()
        self._trust_experts()

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        for name in ("_lock", "_memories", "_entropy"):
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()
        self._trust_experts()

    def _trust_experts(self) -> None:
        """What the user passed in may be read, wherever it lies."""
        for url in self._settings.get("experts", {}).values():
            trust(url)

    def _forget(self) -> None:
        """Start without what can be read or drawn again; copies of a sampler differ from here."""
        self._lock = threading.RLock()
        self._memories: weakref.WeakKeyDictionary[Any, dict[int, Memory]]
        self._memories = weakref.WeakKeyDictionary()
        self._entropy = secrets.randbits(31) if self._seed is None else self._seed

    def reseed_rng(self) -> None:
        """Draw anew what chance decides in the model phase and in independent parameters.

        Design points keep to (seed, trial number): another scramble for every trial, as threads
        would bring it, would take away their even spread.
        """
        self._reseed = secrets.randbits(31)
        if self._independent_sampler is not None:
            self._independent_sampler.reseed_rng()

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        memory = self._memory(study)
        if not memory.introduced:
            for prefix, domains in self._settings.get("mixtures", {}).items():
                check_present(study, prefix, domains)
            set_settings(study, self._settings)
            memory.introduced = True
        if self._independent_sampler is not None:
            self._independent_sampler.before_trial(study, trial)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self._memory(study).facts.pop(trial.number, None)
        if trial.constraints:
            records.set_trial_attr(study, trial, "constraints", dict(trial.constraints))
        if self._independent_sampler is not None:
            self._independent_sampler.after_trial(study, trial, state, values)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The parts of the mixtures registered on this trial, and the parameters in common.

        Of other mixtures the bounds are not known yet: the helper is called after another
        `suggest_...`, or never. Their parts come from `sample_independent`, one by one out of the
        same joint proposal.
        """
        with self._lock:
            # `sample_relative` comes next, and needs no second reading.
            facts = self._memory(study).facts[trial.number] = self._read(study)
            space = self._space(study, trial, facts)
        own = _own(facts.trials, trial)
        registered = {name for group in own.groups for name in group.names}
        return {**dict.fromkeys(sorted(registered), PART), **space.distributions}

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        with self._lock:
            facts = self._memory(study).facts.pop(trial.number, None)
            if not search_space:
                return {}
            params = self._propose(study, trial, search_space, facts)
        return {name: params[name] for name in search_space if name in params}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        own = records.read_trial(trial)
        known = own.published if own.published and own.published.number == own.number else None
        if isinstance(param_distribution, FloatDistribution) and _is_part(
            param_name, own, known, self._settings
        ):
            value = None if known is None else known.params.get(param_name)
            stale = known is not None and is_stale(param_name, known, own)
            outside = value is not None and not records.contains(param_distribution, value)
            if value is None or stale or outside:
                asked = {param_name: param_distribution}
                value = self._propose(study, trial, asked, renew=outside)[param_name]
            return min(max(value, param_distribution.low), param_distribution.high)
        if known is not None and known.phase in FIXED_PHASES and known.groups:
            trials = [t for t in self._read(study).trials if t.number != trial.number]
            return shared_value(param_name, param_distribution, trials, known.groups[0])
        if self._independent_sampler is not None:
            return self._independent_sampler.sample_independent(
                study, trial, param_name, param_distribution
            )
        alone = Space((), {param_name: param_distribution})
        rng = np.random.default_rng(
            [self._entropy, self._reseed, trial.number, zlib.crc32(param_name.encode())]
        )
        return alone.decode(sample(alone.region(), 1, rng)[0])[param_name]

    def _propose(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: Mapping[str, BaseDistribution],
        facts: Facts | None = None,
        *,
        renew: bool = False,
    ) -> dict[str, Any]:
        """One joint proposal for the trial, published before it is returned.

        What was published for the trial before is kept, unless it is to be renewed.
        """
        with self._lock:
            facts = facts or self._read(study)
            own = _own(facts.trials, trial)
            for group in own.groups:  # this worker may run an older script
                refuse_revised(facts.notes.revisions.get(group.prefix, ()), group.domains)
            space = widen(self._space(study, trial, facts), own, search_space)
            _warn_of_enqueued(space, own)
            kept = {} if renew else kept_params(own, space)
            fixed = {**kept, **records.partially_fixed(study), **own.fixed, **trial.params}
            chance = Chance(self._entropy, self._reseed)
            ask = Ask(study, own, facts, space, fixed)
            draft = ask.draft(self._memory(study), chance, self._n_startup_trials)
            mixed = space.groups[0].names if space.groups else ()
            if own.published is not None and kept and all(name in kept for name in mixed):
                draft.phase, draft.budget = own.published.phase, own.published.budget
            proposal = Published(
                trial.number, draft.params, draft.phase, draft.budget, space.groups
            )
            records.publish(study, trial, proposal)
            # What other threads have read before does not hold this proposal.
            self._memory(study).facts.clear()
            records.set_trial_attr(study, trial, "phase", draft.phase)
            if draft.mean is not None and draft.sd is not None:
                records.set_trial_attr(study, trial, "predicted_mean", draft.mean)
                records.set_trial_attr(study, trial, "predicted_sd", draft.sd)
            return draft.params

    def _space(self, study: optuna.Study, trial: FrozenTrial, facts: Facts) -> Space:
        declared = {**facts.notes.mixtures, **self._settings.get("mixtures", {})}
        common = self._memory(study).cache.common
        return layout.study_space(study, trial, declared, facts, common)

    def _read(self, study: optuna.Study) -> Facts:
        return read_facts(study, self._memory(study).cache.records)

    def _memory(self, study: optuna.Study) -> Memory:
        storage, study_id = records.identity(study)
        with self._lock:
            return self._memories.setdefault(storage, {}).setdefault(study_id, Memory())


def _settings(
    mixtures: Mapping[str, Sequence[str]] | None,
    experts: Mapping[str, str | os.PathLike[str]] | None,
    expert_budget: float | Mapping[str, float] | None,
    objective: ObjectiveLike,
) -> dict[str, Any]:
    """The options that readers of the study need, checked and JSON-able."""
    settings: dict[str, Any] = {}
    if mixtures:
        groups = [make_group(domains, prefix=prefix) for prefix, domains in mixtures.items()]
        settings["mixtures"] = {group.prefix: list(group.domains) for group in groups}
    if experts:
        settings["experts"] = _experts(experts)
    if isinstance(expert_budget, Mapping):
        settings["expert_budget"] = {
            str(domain): _budget(f"expert_budget of {domain!r}", share)
            for domain, share in expert_budget.items()
        }
    elif expert_budget is not None:
        settings["expert_budget"] = _budget("expert_budget", expert_budget)
    if objective is not None:
        settings["objective"] = Objective.parse(objective).to_json()
    return settings


def _experts(experts: Mapping[str, str | os.PathLike[str]]) -> dict[str, str]:
    urls = {}
    for domain, url in experts.items():
        if not isinstance(url, (str, os.PathLike)):
            raise ValueError(f"experts must be {{domain: URL}}, got {url!r} for {domain!r}")
        urls[str(domain)] = os.fspath(url)
    return urls


def _budget(what: str, value: Any) -> float:
    share = real(what, value)
    if not 0.0 < share <= 1.0:
        raise ValueError(f"{what} is the share of a full run, in (0, 1], got {value!r}")
    return share


def _at_least_0(what: str, value: Any) -> int:
    number = whole(what, value)
    if number < 0:
        raise ValueError(f"{what} must be at least 0, got {value}")
    return number


def _own(trials: Sequence[Record], trial: FrozenTrial) -> Record:
    found = next((t for t in trials if t.number == trial.number), None)
    return records.read_trial(trial) if found is None else found


def _warn_of_enqueued(space: Space, own: Record) -> None:
    """What `suggest_mixture` refuses; a framework that never calls it would see a crash."""
    for group in space.groups:
        if group.prefix not in {registered.prefix for registered in own.groups}:
            try:
                check_enqueued(group, own.fixed)
            except MixtureError as error:
                warnings.warn(f"trial {own.number} trains another mixture: {error}", stacklevel=2)


def _is_part(
    name: str, own: Record, published: Published | None, settings: Mapping[str, Any]
) -> bool:
    groups = [*own.groups, *(published.groups if published else ())]
    declared = settings.get("mixtures", {}).items()
    return any(name in group.names for group in groups) or any(
        name == prefix + domain for prefix, domains in declared for domain in domains
    )
