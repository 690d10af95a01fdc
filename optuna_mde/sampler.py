"""`MDESampler`: Optuna's contract for samplers, and nothing else.

The numbers come from `proposal`; what a study holds is read by `history`; what is tried before
the model is decided by `startup`. Everything that must outlive a process is in the study.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import weakref
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from optuna_mde import history as histories
from optuna_mde import records
from optuna_mde.mixture import make_group
from optuna_mde.objective import Objective, ObjectiveLike
from optuna_mde.records import Notes, Published, Record
from optuna_mde.simplex import MixtureError, design, sample
from optuna_mde.space import Group, Space
from optuna_mde.startup import (
    DESIGN,
    FIXED_PHASES,
    Startup,
    Target,
    shared_mixture,
    shared_value,
    startup_runs,
)

if TYPE_CHECKING:
    from optuna_mde.proposal import Proposal, Proposer

# Proposals simulated for workers that ask at the same moment: each costs an acquisition.
MOST_AHEAD = 15

PART = FloatDistribution(0.0, 1.0)

_logger = logging.getLogger("optuna_mde")


@dataclass
class _Draft:
    """A proposal in the making."""

    params: dict[str, Any]
    phase: str
    budget: float = 1.0
    mean: float | None = None
    sd: float | None = None


@dataclass
class _StudyState:
    """What a sampler keeps of one study; all of it can be read again."""

    cache: histories.Cache = field(default_factory=histories.Cache)
    proposer: Proposer | None = None
    introduced: bool = False
    """Whether the sampler's options are on the study."""
    situation: object = None
    """What `foreseen` was proposed from."""
    foreseen: dict[int, Proposal] = field(default_factory=dict)
    """Proposals by trial number, of trials that may not have asked yet."""


class MDESampler(BaseSampler):
    """Proposes data mixtures by Mixture of Data Experts and a Gaussian process.

    The first trials are the experts (corners of the simplex, for MDE), the natural mixture and
    the uniform one; then an acquisition function is maximised on the bounded simplex, running
    trials taken into account. Parameters beside the mixture, and studies without any mixture,
    are searched by the same Gaussian process.

    Args:
        seed: makes proposals a function of seed, history and trial number. Workers may share it.
        mixtures: ``{prefix: domains}`` for frameworks that never call `suggest_mixture`.
        experts: ``{domain: URL}`` of log-probability files that exist; these corners are not run.
        expert_budget: share of a full run that experts train, a number or ``{domain: share}``.
        objective: weights or groups of validation sets as in `report_losses`, used until a
            finished trial brings its own.
        n_startup_trials: finished trials before the model proposes. By default the model starts
            with the experts' log-probabilities; without any, after 10 trials, or about one for
            each domain of a mixture.
        independent_sampler: sampler of parameters outside the common search space (conditional
            ones, changing ranges); by default they are drawn uniformly.
        device: where the model computes; only the CPU (None) so far.

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
        if device not in (None, "cpu"):
            raise ValueError(f"device must be None or 'cpu', got {device!r}")
        if n_startup_trials is not None and n_startup_trials < 0:
            raise ValueError(f"n_startup_trials must be at least 0, got {n_startup_trials}")
        self._seed = seed
        self._n_startup_trials = n_startup_trials
        self._independent_sampler = independent_sampler
        self._settings = _settings(mixtures, experts, expert_budget, objective)
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        for name in ("_lock", "_states", "_entropy", "_reseed"):
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        """Start without what can be read or drawn again; copies of a sampler differ from here."""
        self._lock = threading.RLock()
        self._states: weakref.WeakKeyDictionary[Any, dict[int, _StudyState]]
        self._states = weakref.WeakKeyDictionary()
        self._entropy = secrets.randbits(31) if self._seed is None else self._seed
        self._reseed = 0

    def reseed_rng(self) -> None:
        """Draw anew what chance decides in the model phase and in independent parameters.

        Design points keep to (seed, trial number): another scramble for every trial, as threads
        would bring it, would take away their even spread.
        """
        self._reseed = secrets.randbits(31)
        if self._independent_sampler is not None:
            self._independent_sampler.reseed_rng()

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        state = self._state(study)
        if not state.introduced:
            records.set_settings(study, self._settings)
            state.introduced = True
        if self._independent_sampler is not None:
            self._independent_sampler.before_trial(study, trial)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
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
            trials = self._read(study)
            space = self._space(study, trial, trials, records.read_notes(study))
        registered = {name for group in _own(trials, trial).groups for name in group.names}
        return {**dict.fromkeys(sorted(registered), PART), **space.distributions}

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        if not search_space:
            return {}
        params = self._propose(study, trial, search_space)
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
        if _is_part(param_name, own, known, self._settings):
            value = None if known is None else known.params.get(param_name)
            stale = known is not None and _is_stale(param_name, known, own)
            outside = value is not None and not records.contains(param_distribution, value)
            if value is None or stale or outside:
                asked = {param_name: param_distribution}
                value = self._propose(study, trial, asked, renew=outside)[param_name]
            assert isinstance(param_distribution, FloatDistribution)
            return min(max(value, param_distribution.low), param_distribution.high)
        if known is not None and known.phase in FIXED_PHASES and known.groups:
            trials = [t for t in self._read(study) if t.number != trial.number]
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
        renew: bool = False,
    ) -> dict[str, Any]:
        """One joint proposal for the trial, published before it is returned.

        What was published for the trial before is kept, unless it is to be renewed.
        """
        with self._lock:
            trials, notes = self._read(study), records.read_notes(study)
            own = _own(trials, trial)
            space = self._space(study, trial, trials, notes)
            space = _widened(space, own, search_space)
            kept = {} if renew else _kept(own)
            fixed = {**kept, **records.partially_fixed(study), **own.fixed, **trial.params}
            draft = self._draft(study, trial, trials, notes, space, fixed)
            if own.published is not None and kept:
                draft.phase, draft.budget = own.published.phase, own.published.budget
            names = {name for group in space.groups for name in group.names}
            draft.params |= {
                name: value
                for name, value in fixed.items()
                if name in names or name in space.distributions
            }
            published = Published(
                trial.number, draft.params, draft.phase, draft.budget, space.groups
            )
            records.publish(study, trial, published)
            records.set_trial_attr(study, trial, "phase", draft.phase)
            if draft.mean is not None and draft.sd is not None:
                records.set_trial_attr(study, trial, "predicted_mean", draft.mean)
                records.set_trial_attr(study, trial, "predicted_sd", draft.sd)
            return draft.params

    def _draft(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        trials: Sequence[Record],
        notes: Notes,
        space: Space,
        fixed: Mapping[str, Any],
    ) -> _Draft:
        others = [t for t in trials if t.number != trial.number and t.number not in notes.excluded]
        told = sum(t.state == TrialState.COMPLETE or bool(t.losses) for t in others if t.finished)
        group = space.groups[0] if space.groups else None
        ready = told >= startup_runs(group)
        if group is not None:
            startup = Startup(
                trial=_own(trials, trial),
                others=others,
                group=group,
                region=group.region(),
                given=notes.experts.keys(),
                lost=histories.lost_trials(trials),
            )
            target = _begun(startup.trial, group, fixed)
            if target is None and not any(name in fixed for name in group.names):
                target = startup.next_target()
            if target is not None:
                return _at_target(target, others, notes, space)
            ready = ready or startup.experts_ready()
        if self._n_startup_trials is not None:
            ready = told >= max(self._n_startup_trials, 1)
        if ready:
            try:
                return self._by_model(study, trial, trials, notes, space, fixed)
            except Exception as error:  # a study goes on whatever its history holds
                _logger.warning(
                    "Trial %d takes a design point. %s: %s",
                    trial.number,
                    type(error).__name__,
                    error,
                )
        x = design(space.region(fixed), self._entropy, trial.number)
        return _Draft(space.decode(x), DESIGN)

    def _by_model(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        trials: Sequence[Record],
        notes: Notes,
        space: Space,
        fixed: Mapping[str, Any],
    ) -> _Draft:
        state = self._state(study)
        history = histories.read(
            study, space, trial=trial, trials=trials, notes=notes, cache=state.cache
        )
        # Workers that ask at the same moment see the same history: what those before this one
        # are about to take counts as pending, or all would propose nearly the same.
        lost = histories.lost_trials(trials)
        ahead = [
            t for t in trials if t.number < trial.number and t.number not in lost and _is_silent(t)
        ]
        for other in ahead[-MOST_AHEAD:]:
            held = {**records.partially_fixed(study), **other.fixed}
            guess = self._proposal(state, history, space, held, other.number)
            history = replace(history, pending=np.vstack([history.pending, guess.x]))
        proposal = self._proposal(state, history, space, fixed, trial.number)
        mean = proposal.predicted_mean
        if mean is not None and history.outputs[:1] == ("value 0",):
            mean = -mean if records.is_maximised(study)[0] else mean
        return _Draft(
            space.decode(proposal.x), proposal.phase, mean=mean, sd=proposal.predicted_sd
        )

    def _proposal(
        self,
        state: _StudyState,
        history: histories.History,
        space: Space,
        fixed: Mapping[str, Any],
        number: int,
    ) -> Proposal:
        """The model's proposal for a trial; kept, as another thread may ask for it later."""
        if state.proposer is None:
            from optuna_mde.proposal import Proposer

            state.proposer = Proposer()
        situation = (space, history.numbers.tobytes(), self._reseed)
        if state.situation != situation:
            state.situation, state.foreseen = situation, {}
        region = space.region(fixed)
        known = state.foreseen.get(number)
        if known is None or not region.contains(known.x):
            known = state.proposer.propose(history, region, seed=self._seed_of(number))
            if not region.contains(known.x):
                known = replace(known, x=region.snap(known.x)[0])
            state.foreseen[number] = known
        return known

    def _seed_of(self, number: int) -> int:
        sequence = np.random.SeedSequence([self._entropy, self._reseed, number])
        return int(sequence.generate_state(1)[0])

    def _space(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        trials: Sequence[Record],
        notes: Notes,
    ) -> Space:
        declared = {**notes.mixtures, **self._settings.get("mixtures", {})}
        cache = self._state(study).cache
        return histories.study_space(study, trial, declared, trials, notes, cache)

    def _read(self, study: optuna.Study) -> list[Record]:
        return records.read_trials(study, self._state(study).cache.records)

    def _state(self, study: optuna.Study) -> _StudyState:
        storage, study_id = records.identity(study)
        with self._lock:
            return self._states.setdefault(storage, {}).setdefault(study_id, _StudyState())


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
        settings["experts"] = {domain: os.fspath(url) for domain, url in experts.items()}
    if expert_budget is not None:
        named = expert_budget if isinstance(expert_budget, Mapping) else {"": expert_budget}
        for domain, share in named.items():
            if not 0.0 < share <= 1.0:
                of = f" of {domain!r}" if domain else ""
                raise ValueError(
                    f"expert_budget{of} is the share of a full run, in (0, 1], got {share!r}"
                )
        settings["expert_budget"] = named if isinstance(expert_budget, Mapping) else expert_budget
    if objective is not None:
        settings["objective"] = Objective.parse(objective).to_json()
    return settings


def _at_target(target: Target, others: Sequence[Record], notes: Notes, space: Space) -> _Draft:
    experts = space.groups[0]
    params: dict[str, Any] = dict(zip(experts.names, target.rates.tolist(), strict=True))
    for group in space.groups[1:]:
        rates = shared_mixture(group, others, experts)
        params.update(zip(group.names, rates.tolist(), strict=True))
    for name, distribution in space.distributions.items():
        params[name] = shared_value(name, distribution, others, experts)
    budget = 1.0 if target.domain is None else notes.expert_budget(target.domain)
    return _Draft(params, target.phase, budget)


def _begun(own: Record, group: Group, fixed: Mapping[str, Any]) -> Target | None:
    """The target that was already published for the trial; what it lacks goes with it."""
    if own.published is None or own.published.phase not in FIXED_PHASES:
        return None
    if not all(name in fixed for name in group.names):
        return None
    rates = np.array([float(fixed[name]) for name in group.names])
    return Target(own.published.phase, rates, own.corner(group))


def _own(trials: Sequence[Record], trial: FrozenTrial) -> Record:
    return next(t for t in trials if t.number == trial.number)


def _widened(space: Space, own: Record, search_space: Mapping[str, BaseDistribution]) -> Space:
    """The space with every parameter asked for, and ranges of parts that no helper registered."""
    registered = {group.prefix for group in own.groups}
    parts = {name for group in space.groups for name in group.names}
    ranges = {**own.distributions, **search_space}
    groups = tuple(
        group if group.prefix in registered else _within(group, ranges) for group in space.groups
    )
    asked = {n: d for n, d in search_space.items() if n not in parts and not d.single()}
    return Space(groups, dict(sorted({**space.distributions, **asked}.items())))


def _within(group: Group, ranges: Mapping[str, BaseDistribution]) -> Group:
    bounds = list(zip(group.names, group.lower, group.upper, strict=True))
    lower = [max(low, getattr(ranges.get(name), "low", 0.0)) for name, low, _ in bounds]
    upper = [min(high, getattr(ranges.get(name), "high", 1.0)) for name, _, high in bounds]
    if sum(lower) > 1.0 or sum(upper) < 1.0:
        raise MixtureError(
            f"the ranges of {', '.join(group.names)} leave no rates that sum to 1: "
            f"lower ends {sum(lower):g}, upper ends {sum(upper):g}"
        )
    return replace(group, lower=tuple(lower), upper=tuple(upper))


def _kept(own: Record) -> dict[str, Any]:
    """Published parameters that still hold: of the trial itself, or of the one it repeats."""
    if own.published is None:
        return {}
    published = own.published
    return {n: v for n, v in published.params.items() if not _is_stale(n, published, own)}


def _is_stale(name: str, published: Published, own: Record) -> bool:
    """Whether a part was proposed for another mixture or other bounds than the trial's."""
    now = next((group for group in own.groups if name in group.names), None)
    if now is None:
        return False
    then = next((group for group in published.groups if group.prefix == now.prefix), None)
    if then is None:
        return True
    return replace(then, natural=None) != replace(now, natural=None)


def _is_part(
    name: str, own: Record, published: Published | None, settings: Mapping[str, Any]
) -> bool:
    groups = [*own.groups, *(published.groups if published else ())]
    declared = settings.get("mixtures", {}).items()
    return any(name in group.names for group in groups) or any(
        name == prefix + domain for prefix, domains in declared for domain in domains
    )


def _is_silent(trial: Record) -> bool:
    """Whether a running trial has not said yet what it will try."""
    return (
        trial.state == TrialState.RUNNING and trial.published is None and not trial.distributions
    )
