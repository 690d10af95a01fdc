"""What is tried before the model: experts, the natural mixture or the uniform one, a design.

Workers do not talk to each other. A trial publishes its proposal before anything else, and takes
the r-th target that no trial holds, r being the number of lower-numbered running trials that
have not published yet: these will take the targets before it: by the first free one, two
workers would train the same expert.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState

from optuna_mde.simplex.projection import Array, corner, is_corner, uniform
from optuna_mde.simplex.region import Region
from optuna_mde.trials import records
from optuna_mde.trials.groups import Group
from optuna_mde.trials.records import EXPERT, Published, Record
from optuna_mde.trials.space import middle

NATURAL = "natural"
UNIFORM = "uniform"
DESIGN = "design"
FIXED_PHASES = (EXPERT, NATURAL, UNIFORM)

PROPOSALS_BEFORE_UNIFORM = 4  # beside the natural mixture
TRIES = 2  # a target whose runs failed this often is missing, and the study goes on without it
SAME_MIXTURE = 1e-6  # largest difference of a rate between a target and the run that holds it

# Finished runs before the model of a study without experts' log-probabilities. Plain parameters:
# what Optuna's GPSampler takes. Mixtures: one run more than there are domains; beyond 20 the model
# chooses better (`python -m benchmarks.prediction`).
PLAIN_STARTUP = 10
LEAST_MIXTURE_STARTUP, MOST_MIXTURE_STARTUP = 6, 20


@dataclass(frozen=True)
class Target:
    """A mixture that every study should try once."""

    phase: str
    rates: Array
    """Rates `[K]`, inside the bounds unless it is an expert."""
    domain: str | None = None
    """The domain of an expert."""
    ideal: Array | None = None
    """Rates of a baseline before the bounds were applied."""


@dataclass(frozen=True)
class Startup:
    """What the start-up rule sees of a study for one trial.

    Args:
        trial: the trial that is proposed for.
        others: every other trial that counts, by number.
        group: the mixture that has the experts.
        region: where the mixture may lie.
        given: domains whose experts' files were passed in.
        lost: numbers of running trials that no worker is at any more.
    """

    trial: Record
    others: Sequence[Record]
    group: Group
    region: Region
    given: Collection[str]
    lost: Collection[int]

    def next_target(self) -> Target | None:
        """The target of this trial; None when other trials hold or will take them all."""
        free = [target for target in self._targets() if self._is_free(target)]
        ahead = sum(self._is_undecided(t) for t in self.others if t.number < self.trial.number)
        return free[ahead] if ahead < len(free) else None

    def experts_ready(self) -> bool:
        """Whether log-probabilities of two experts are there and no expert is being trained."""
        there = {*self.given, *self._with_logprobs()}
        trained = {trial.corner(self.group) for trial in self.others if self._is_alive(trial)}
        return len(there) >= 2 and not trained - there - {None}

    def _with_logprobs(self) -> set[str]:
        return {
            domain
            for trial in self.others
            if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
            and trial.logprob_urls
            and (domain := trial.corner(self.group)) is not None
        }

    def _targets(self) -> list[Target]:
        group = self.group
        targets = []
        if self._keeps_logprobs():
            targets = [
                Target(EXPERT, corner(group.size, j), domain)
                for j, domain in enumerate(group.domains)
                if domain not in self.given and self._may_have_expert(j)
            ]
        for phase, ideal in self._baselines(targets):
            rates = self.region.snap(ideal)[0]
            if not any(_same(rates, other.rates) for other in targets):
                targets.append(Target(phase, rates, ideal=ideal))
        return targets

    def _baselines(self, experts: Sequence[Target]) -> list[tuple[str, Array]]:
        """The natural mixture, and the uniform one when nothing is better to run.

        With all experts there, proposals are of more use at first; later a run far from the others
        keeps predictions right elsewhere (`python -m benchmarks.search`).
        """
        every = (UNIFORM, uniform(np.zeros(self.group.size), np.ones(self.group.size)))
        if self.group.natural is None:
            return [every]
        natural = (NATURAL, np.array(self.group.natural))
        inner = ~is_corner(self._rates)
        if (
            inner.sum() > PROPOSALS_BEFORE_UNIFORM
            or not self.experts_ready()
            or any(self._is_free(target) for target in experts)
        ):
            return [natural, every]
        return [natural]

    def _may_have_expert(self, j: int) -> bool:
        """Whether the j-th domain may be used, and trained alone."""
        group = self.group
        others = (low for i, low in enumerate(group.lower) if i != j)
        alone = group.upper[j] >= 1.0 and max(others) <= 0.0
        return alone if group.strict else group.upper[j] > 0.0

    def _keeps_logprobs(self) -> bool:
        """False once two finished experts left no log-probabilities, and none did."""
        finished = {
            domain
            for trial in self.others
            if trial.state == TrialState.COMPLETE
            and (domain := trial.corner(self.group)) is not None
        }
        return len(finished) < 2 or bool(self.given) or bool(self._with_logprobs())

    def _is_free(self, target: Target) -> bool:
        """Whether no trial holds the target, and it is not missing either."""
        held = self._is_near(target.rates)
        if target.phase == EXPERT:  # a run of what became part of the domain is none of it
            held &= self._corners == target.domain
        if target.ideal is not None:  # bounds may have changed since a baseline was run
            held |= self._is_near(target.ideal) | (self._phases == target.phase)
        holders = [self._placed[i] for i in np.flatnonzero(held)]
        failures = [t for t in holders if t.state == TrialState.FAIL or t.number in self.lost]
        # a pruned expert without log-probabilities is missing as well: it is not run again
        return len(failures) == len(holders) < TRIES

    def _is_near(self, rates: Array) -> npt.NDArray[np.bool_]:
        """Which of the placed trials train these rates."""
        return np.asarray(np.abs(self._rates - rates).max(axis=1) <= SAME_MIXTURE)

    @cached_property
    def _placed(self) -> list[Record]:
        """Trials whose mixture is known, n of them."""
        return [t for t in self.others if t.rates(self.group) is not None]

    @cached_property
    def _rates(self) -> Array:
        """Their rates `[n, K]`."""
        return np.array([t.rates(self.group) for t in self._placed]).reshape(-1, self.group.size)

    @cached_property
    def _corners(self) -> npt.NDArray[np.str_]:
        """Domains `[n]` of which they train nothing else, empty otherwise."""
        return np.array([t.corner(self.group) or "" for t in self._placed], str)

    @cached_property
    def _phases(self) -> npt.NDArray[np.str_]:
        """Phases `[n]` in which they were proposed for these domains, empty otherwise."""
        return np.array([self._phase(t.published) for t in self._placed], str)

    def _phase(self, published: Published | None) -> str:
        origins = self.group.origins
        groups = published.groups if published else ()
        if origins:
            groups = tuple(group.revised(origins) for group in groups)
        domains = [{*group.domains} for group in groups]
        return published.phase if published and {*self.group.domains} in domains else ""

    def _is_alive(self, trial: Record) -> bool:
        return not trial.finished and trial.number not in self.lost

    def _is_undecided(self, trial: Record) -> bool:
        """Whether a running trial will still take a target."""
        return (
            trial.is_unpublished
            and trial.number not in self.lost
            and not any(name in trial.params for name in self.group.names)
        )


def startup_runs(group: Group | None) -> int:
    """Finished runs that the model waits for where no experts' log-probabilities are known."""
    if group is None:
        return PLAIN_STARTUP
    return min(max(LEAST_MIXTURE_STARTUP, group.size + 1), MOST_MIXTURE_STARTUP)


def shared_value(
    name: str, distribution: BaseDistribution, trials: Sequence[Record], group: Group
) -> Any:
    """The value of a parameter beside the mixture that all experts and baselines share.

    That of the first enqueued trial or expert that has one, else the centre of its range.
    """
    for trial in trials:
        fixed: Mapping[str, Any] = trial.params if trial.corner(group) else trial.fixed
        if name in fixed and records.contains(distribution, fixed[name]):
            return fixed[name]
    return middle(distribution)


def shared_mixture(group: Group, trials: Sequence[Record], experts: Group) -> Array:
    """Rates of a further mixture of the study while the experts of the first are trained.

    Those of the first expert, moved inside the bounds if these have changed since.
    """
    region = group.region()
    shared = (trial.rates(group) for trial in trials if trial.corner(experts) is not None)
    natural = None if group.natural is None else np.array(group.natural)
    rates = next((rates for rates in shared if rates is not None), natural)
    if rates is None:
        return region.center
    return rates if region.contains(rates) else region.snap(rates)[0]


def _same(a: Array, b: Array) -> bool:
    return bool(np.abs(a - b).max() <= SAME_MIXTURE)
