"""One ask: what is known when a trial wants parameters, and the joint draft it gets.

Targets of the start-up come first (`startup`), then the model (`proposal`), and a design point
wherever neither has one to give.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState

from optuna_mde.asks.startup import (
    DESIGN,
    FIXED_PHASES,
    Startup,
    Target,
    shared_mixture,
    shared_value,
    startup_runs,
)
from optuna_mde.gp.torch_state import gradients
from optuna_mde.observations import Observations
from optuna_mde.simplex.projection import MixtureError
from optuna_mde.simplex.region import design
from optuna_mde.trials import history, records
from optuna_mde.trials.facts import Facts
from optuna_mde.trials.groups import Group
from optuna_mde.trials.notes import Notes
from optuna_mde.trials.records import Published, Record
from optuna_mde.trials.space import Space

if TYPE_CHECKING:
    from optuna_mde.asks.proposal import Proposal, Proposer

# Proposals simulated for workers that ask at the same moment: each costs an acquisition.
MOST_AHEAD = 15

_logger = logging.getLogger("optuna_mde")


@dataclass(frozen=True)
class Chance:
    """Where randomness comes from."""

    entropy: int
    """The seed; with the trial's number it decides the design."""
    reseed: int
    """Drawn anew by `reseed_rng`; with the other two it decides the model's random numbers."""

    def seed(self, number: int) -> int:
        """The seed of one trial's proposal."""
        sequence = np.random.SeedSequence([self.entropy, self.reseed, number])
        return int(sequence.generate_state(1)[0])


@dataclass
class Memory:
    """What a sampler keeps of one study; all of it can be read or computed again."""

    cache: history.Cache = field(default_factory=history.Cache)
    proposer: Proposer | None = None
    introduced: bool = False
    """Whether the sampler's options are on the study."""
    situation: object = None
    """What `foreseen` was proposed from."""
    foreseen: dict[int, Proposal] = field(default_factory=dict)
    """Proposals by trial number, of trials that may not have asked yet."""
    logged: set[str] = field(default_factory=set)
    facts: dict[int, Facts] = field(default_factory=dict)
    """What was read of the study for trials that are about to be proposed for, by number."""


@dataclass
class Draft:
    """A joint proposal in Optuna's parameters."""

    params: dict[str, Any]
    phase: str
    budget: float = 1.0
    mean: float | None = None
    """Expected objective, in the study's own direction; None where no model made the draft."""
    sd: float | None = None


@dataclass(frozen=True)
class Ask:
    """Everything that is known of a trial and its study when it asks."""

    study: optuna.Study
    own: Record
    facts: Facts
    space: Space
    fixed: Mapping[str, Any]
    """Values that the draft must keep: enqueued, suggested or published before."""

    @property
    def trials(self) -> list[Record]:
        """Every trial of the study."""
        return self.facts.trials

    @property
    def notes(self) -> Notes:
        """What the study keeps beside them."""
        return self.facts.notes

    @property
    def group(self) -> Group | None:
        """The mixture that has the experts."""
        return self.space.groups[0] if self.space.groups else None

    @property
    def others(self) -> list[Record]:
        """The other trials that count."""
        return [
            trial
            for trial in self.trials
            if trial.number != self.own.number and trial.number not in self.notes.excluded
        ]

    def draft(self, memory: Memory, chance: Chance, n_startup_trials: int | None) -> Draft:
        """The joint draft, with the fixed values as they are."""
        others = self.others
        target, ready = self._start(others)
        if n_startup_trials is not None:
            ready = self._told(others) >= max(n_startup_trials, 1)
        if target is not None:
            draft = self._at(target, others)
        else:
            draft = (self._by_model(memory, chance) if ready else None) or self._design(chance)
        names = {name for group in self.space.groups for name in group.names}
        names |= self.space.distributions.keys()
        draft.params |= {name: value for name, value in self.fixed.items() if name in names}
        return draft

    def _start(self, others: Sequence[Record]) -> tuple[Target | None, bool]:
        """The start-up's target for the trial, and whether the model may propose without one."""
        enough = self._told(others) >= startup_runs(self.group)
        if self.group is None:
            return None, enough
        startup = Startup(
            trial=self.own,
            others=others,
            group=self.group,
            region=self.group.region(),
            given=self.notes.experts.keys(),
            lost=self.facts.lost,
        )
        target = self._begun(self.group)
        if target is None and not any(name in self.fixed for name in self.group.names):
            target = startup.next_target()
        return target, enough or startup.experts_ready()

    def _told(self, others: Sequence[Record]) -> int:
        """Finished runs that the model could learn from."""
        return sum(
            trial.state == TrialState.COMPLETE
            or (trial.state == TrialState.PRUNED and bool(trial.losses))
            for trial in others
            if self.group is None or trial.rates(self.group) is not None
        )

    def _begun(self, group: Group) -> Target | None:
        """The target that was published for the trial before; what it lacks goes with it."""
        published = self.own.published
        if published is None or published.phase not in FIXED_PHASES:
            return None
        if not all(name in self.fixed for name in group.names):
            return None
        rates = np.array([float(self.fixed[name]) for name in group.names])
        return Target(published.phase, rates, self.own.corner(group))

    def _at(self, target: Target, others: Sequence[Record]) -> Draft:
        """A target, with the values beside it that all of them share."""
        experts = self.space.groups[0]
        params: dict[str, Any] = dict(zip(experts.names, target.rates.tolist(), strict=True))
        for group in self.space.groups[1:]:
            rates = shared_mixture(group, others, experts)
            params.update(zip(group.names, rates.tolist(), strict=True))
        for name, distribution in self.space.distributions.items():
            params[name] = shared_value(name, distribution, others, experts)
        if target.domain is None:
            return Draft(params, target.phase, 1.0)
        if strange := self.notes.strange_budgets(experts.domains):
            warnings.warn(
                f"expert_budget names {', '.join(strange)}, which the mixture does not have; its "
                f"domains are {', '.join(experts.domains)}",
                stacklevel=2,
            )
        return Draft(params, target.phase, self.notes.expert_budget(target.domain))

    def _by_model(self, memory: Memory, chance: Chance) -> Draft | None:
        """The model's draft; None if it has none, for whatever reason: the study goes on."""
        try:
            with gradients():
                return self._modelled(memory, chance)
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
            if cause not in memory.logged:
                memory.logged.add(cause)
                _logger.warning(
                    "Trial %d takes a design point instead of a proposal. %s",
                    self.own.number,
                    cause,
                )
            return None

    def _modelled(self, memory: Memory, chance: Chance) -> Draft:
        own = self.own.number
        observations = history.read(
            self.study,
            self.space,
            number=own,
            facts=self.facts,
            cache=memory.cache,
        )
        # Workers that ask at the same moment see the same history: what those before this one
        # are about to take counts as pending, or all would propose nearly the same.
        gone = self.facts.lost | self.facts.stalled
        silent = [
            t for t in self.trials if t.number < own and t.is_silent and t.number not in gone
        ]
        for other in silent[-MOST_AHEAD:]:
            held = {**records.partially_fixed(self.study), **other.fixed}
            guess = self._foresee(memory, chance, observations, held, other.number)
            observations = replace(
                observations, pending=np.vstack([observations.pending, guess.x])
            )
        proposal = self._foresee(memory, chance, observations, self.fixed, own)
        mean = proposal.predicted_mean
        if mean is not None:
            mean *= float(observations.goal_signs[0])
        params = self.space.decode(proposal.x)
        return Draft(params, proposal.phase, mean=mean, sd=proposal.predicted_sd)

    def _foresee(
        self,
        memory: Memory,
        chance: Chance,
        observations: Observations,
        fixed: Mapping[str, Any],
        number: int,
    ) -> Proposal:
        """The model's proposal for a trial; kept, as another thread may ask for it later."""
        from optuna_mde.asks.proposal import Proposer, is_seen

        if memory.proposer is None:
            memory.proposer = Proposer()
        situation = (self.space, observations.numbers.tobytes(), chance)
        if memory.situation != situation:
            memory.situation, memory.foreseen = situation, {}
        region = self.space.region(fixed)
        known = memory.foreseen.get(number)
        # what was foreseen may have been taken since, as by the retry of an expert
        taken = known is not None and is_seen(known.x, observations.pending)
        if known is None or taken or not region.contains(known.x):
            known = memory.proposer.propose(observations, region, seed=chance.seed(number))
            if not region.contains(known.x):
                known = replace(known, x=region.snap(known.x)[0])
            memory.foreseen[number] = known
        return known

    def _design(self, chance: Chance) -> Draft:
        x = design(self.space.region(self.fixed), chance.entropy, self.own.number)
        return Draft(self.space.decode(x), DESIGN)


def widen(space: Space, own: Record, search_space: Mapping[str, BaseDistribution]) -> Space:
    """The space with every parameter asked for, and ranges of parts that no helper registered.

    Raises:
        MixtureError: if the ranges leave no rates that sum to 1.
    """
    registered = {group.prefix for group in own.groups}
    parts = {name for group in space.groups for name in group.names}
    ranges = {**own.distributions, **search_space}
    groups = tuple(
        group if group.prefix in registered else _within(group, ranges) for group in space.groups
    )
    asked = {n: d for n, d in search_space.items() if n not in parts and not d.single()}
    return Space(groups, dict(sorted({**space.distributions, **asked}.items())))


def kept_params(own: Record, space: Space) -> dict[str, Any]:
    """Published parameters that still hold: of the trial itself, or of the one it repeats.

    Not those that its ranges exclude by now, or that are no choice any more: JSON keeps numbers
    and texts alone.
    """
    if own.published is None:
        return {}
    published, ranges = own.published, space.distributions
    return {
        name: value
        for name, value in published.params.items()
        if not is_stale(name, published, own)
        and (name not in ranges or records.contains(ranges[name], value))
    }


def is_stale(name: str, published: Published, own: Record) -> bool:
    """Whether a part was proposed for another mixture or other bounds than the trial's."""
    now = next((group for group in own.groups if name in group.names), None)
    if now is None:
        return False
    then = next((group for group in published.groups if group.prefix == now.prefix), None)
    return then is None or replace(then, natural=None) != replace(now, natural=None)


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
