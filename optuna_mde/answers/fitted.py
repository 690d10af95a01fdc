"""A study's observations and the surrogate fitted to them, which every answer is read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from optuna_mde.answers.asked import Bounds, Question
from optuna_mde.answers.known import check_known, known, mde_sets
from optuna_mde.gp.modeller import Modeller
from optuna_mde.gp.torch_state import gradients
from optuna_mde.objective import ObjectiveError, ObjectiveLike
from optuna_mde.observations import Observations
from optuna_mde.scalars import real
from optuna_mde.simplex.projection import Array, MixtureError
from optuna_mde.simplex.region import Region
from optuna_mde.trials import history
from optuna_mde.trials.facts import read_facts
from optuna_mde.trials.layout import study_space
from optuna_mde.trials.records import Record
from optuna_mde.trials.space import Space, encode_value

if TYPE_CHECKING:
    import optuna
    from torch import Tensor

    from optuna_mde.gp.surrogate import Surrogate
    from optuna_mde.mde.loading import Experts, Reader


# Mixtures that a recommendation looks at, of one goal and of several; and how often a run's or
# another mixture's MDE loss is taken at most: three exponents, three times.
_FINALISTS, _FRONTS, _LOOKS = 30, 450, 9


# Of every study that was asked: questions in a row read the experts' files once.
_readers: WeakKeyDictionary[optuna.Study, Reader] = WeakKeyDictionary()


@dataclass(frozen=True)
class Fitted:
    """A study's observations, and the surrogate fitted to them, twice."""

    trials: list[Record]
    space: Space
    region: Region
    observations: Observations
    surrogate: Surrogate
    """What figures are taken from: MDE losses over every token, where that takes seconds."""
    quick: Surrogate
    """The same on the coreset: cheap and with gradients, to maximise on."""
    experts: Experts | None
    """What the experts' files say."""
    refused: dict[str, str]
    """{domain: reason} of the experts' files, or sets of them, that were left out."""
    names: tuple[str, ...]
    """Names `[G]` of the goals."""
    failure: str | None = None
    """Why the fit failed, whose hyper-parameters are then those of the prior."""

    @property
    def is_unlike(self) -> bool:
        """Whether there are several goals in units of their own: no mean of them has a meaning."""
        return len(self.weights) > 1 and self.observations.is_plain

    @cached_property
    def weights(self) -> Array:
        """Weights `[G, M]` of the goals."""
        return self.observations.weights

    @cached_property
    def overall(self) -> Array:
        """Weights `[1, M]` of the number that a recommendation minimises: the mean of the goals.

        Goals in units of their own are divided by their spread over the runs, or by the noise of
        a run, whichever is larger.
        """
        W = self.weights
        if self.is_unlike:
            mean, _ = self.goals(self.region.snap(self.observations.X))
            scale = np.maximum(mean.std(axis=0), self.noise(W))
            W = W / np.maximum(scale, 1e-9)[:, None]
        return W.mean(axis=0, keepdims=True)

    @property
    def shown(self) -> Array:
        """Weights `[1, M]` of the number that rows show: the first goal where `is_unlike`."""
        return self.weights[:1] if self.is_unlike else self.overall

    @property
    def shown_sign(self) -> float:
        """-1 where the number that rows show was maximised."""
        return float(self.observations.goal_signs[0])

    @property
    def limits(self) -> list[tuple[int, float]]:
        """(index of the output, limit): upper limits on expected losses."""
        return self.observations.objective.limits_on(self.observations.outputs)

    @property
    def mde_error(self) -> float:
        """Error of the MDE losses that figures stand on, nats per token: root mean square over
        mixtures, of the set with the largest; 0 where they are those of every token."""
        coreset = self.surrogate.features.coreset
        return 0.0 if coreset is None else float(coreset.rms_error.max(initial=0.0))

    @cached_property
    def losses(self) -> tuple[int, ...]:
        """Losses, or plain values, that can be predicted; answers leave the others out."""
        return known(self.observations, self.experts)

    @cached_property
    def has_mde(self) -> bool:
        """Whether MDE knows all sets that goals weigh, by all of its experts."""
        columns = np.flatnonzero(self.weights.sum(axis=0))
        return {self.observations.outputs[i] for i in columns} <= mde_sets(self.experts)

    @property
    def expert_domains(self) -> set[str]:
        """Domains whose experts have log-probabilities."""
        return self.experts.table.used if self.experts else set()

    def looking_at(self, mixtures: int) -> Fitted:
        """The same, to look at so many mixtures: on every token only where that takes seconds."""
        if self.experts is None or self.surrogate is self.quick:
            return self
        looks = _LOOKS * (len(self.observations.X) + mixtures)
        whole = self.experts.table.every_token(looks) is not None
        return self if whole else replace(self, surrogate=self.quick)

    def told(self, trial: Record) -> tuple[Array, Array]:
        """Inputs `[d]` and losses `[M]` at the end of a run of the observations."""
        row = int(np.flatnonzero(self.observations.numbers == trial.number)[-1])
        return self.observations.X[row], self.observations.Y[row]

    @cached_property
    def unseen(self) -> tuple[Tensor, Tensor]:
        """Mean and sd (noise included) `[n, M]` of every run, predicted from all the others."""
        return self.surrogate.leave_one_out()

    def goals(self, X: Array, W: Array | None = None) -> tuple[Array, Array]:
        """Mean and sd `[n, G]` of the noise-free goals, or of those weighted by `[G, M]`, at
        inputs `[n, d]`."""
        import torch

        W = self.weights if W is None else W
        with torch.no_grad():
            mean, sd = self.surrogate.goals(torch.from_numpy(X), torch.from_numpy(W))
        return mean.numpy(), sd.numpy()

    def outputs(self, X: Array) -> tuple[Array, Array]:
        """Mean and sd `[n, M]` of the noise-free outputs at inputs `[n, d]`."""
        import torch

        with torch.no_grad():
            mean, sd = self.surrogate.posterior(torch.from_numpy(X))
        return mean.numpy(), sd.numpy()

    def noise(self, W: Array | None = None) -> Array:
        """Sd `[G]` of a single run's goals, or of those weighted by `[G, M]`."""
        import torch

        W = self.weights if W is None else W
        return self.surrogate.spread(self.surrogate.noise_sd[None], torch.from_numpy(W))[0].numpy()

    def best_told(self) -> Array:
        """Inputs `[d]` of the told run with the lowest expected goal, moved into the region."""
        inside = self.region.snap(self.observations.X)
        mean, _ = self.goals(inside, self.overall)
        best: Array = inside[int(mean[:, 0].argmin())]
        return best


@gradients()
def fit_study(
    study: optuna.Study,
    objective: ObjectiveLike = None,
    mixtures: int | None = None,
    *,
    limits: Mapping[str, float] | None = None,
    bounds: Bounds | None = None,
) -> Fitted:
    """Fit the surrogate to what a study knows now.

    Args:
        study: an Optuna study.
        objective: another objective than the one the runs were told with: every validation set
            is modelled, so a new weighting needs no new run. The study's limits stay.
        mixtures: how many will be looked at; None: those of a recommendation.
        limits, bounds: as in `recommend`.

    Raises:
        ValueError: if no run has finished, the runs have no parameter in common, or the objective
            or a limit names a set that no run reports, or no mixture keeps the bounds.
    """
    from optuna_mde.gp.exact import on_every_token
    from optuna_mde.mde.loading import Reader

    facts = read_facts(study)
    space = study_space(study, facts=facts)
    observations = history.read(study, space, facts=facts)
    question = Question(objective, limits, bounds)
    observations, space = question.goals(observations), question.space(space)
    if len(observations.X) == 0:
        raise ValueError(
            f"study {study.study_name!r} has no finished run to learn from; run at least one trial"
        )
    if space.dim == 0:
        raise ValueError(
            f"study {study.study_name!r} has no mixture, nor a parameter that all of its finished "
            f"runs have in the same range, so that there is nothing to predict from"
        )
    region = space.region()
    _check_directions(observations)
    modeller, failure = Modeller(_readers.setdefault(study, Reader())), None
    try:
        quick = modeller.surrogate(observations, region.blocks)
    except Exception as error:
        # A fit that fails leaves the prior's hyper-parameters, as in a proposal.
        quick = modeller.surrogate(observations, region.blocks, fit=False)
        failure = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    experts = modeller.experts(observations)
    check_known(observations, known(observations, experts))
    if mixtures is None:
        mixtures = _FINALISTS if len(observations.objective.goals) < 2 else _FRONTS
    looks = _LOOKS * (len(observations.X) + mixtures)
    table = experts.table.every_token(looks) if experts is not None else None
    surrogate = quick if table is None else on_every_token(quick, table)
    return Fitted(
        facts.trials,
        space,
        region,
        observations,
        surrogate,
        quick,
        experts,
        modeller.refused(observations),
        _names(study, observations, objective),
        failure,
    )


def _check_directions(observations: Observations) -> None:
    """Values that are maximised and others that are minimised have no mean."""
    up = observations.signs < 0
    for name, row in zip(observations.objective.names, observations.weights, strict=True):
        if row[up].any() and row[~up].any():
            raise ObjectiveError(
                f"objective {name!r} weighs values that are maximised with others that are "
                f"minimised; name one value, or a group for each"
            )


def _names(
    study: optuna.Study, observations: Observations, objective: ObjectiveLike
) -> tuple[str, ...]:
    metrics = study.metric_names
    own = objective is None and observations.is_plain and metrics
    return tuple(metrics) if own and metrics else observations.objective.names


def place(space: Space, base: Array, mixture: Mapping[str, float]) -> Array:
    """Inputs `[d]` of a mixture, with what it leaves open as in ``base``.

    Raises:
        MixtureError: if it names what the study does not have, or its rates do not sum to 1.
    """
    parts = {name: group for group in space.groups for name in group.names}
    first = space.groups[0].prefix if space.groups else ""
    given: dict[str, float] = {}
    for key, value in mixture.items():
        name = key if key in parts or key in space.distributions else first + key
        if name not in parts and name not in space.distributions:
            known = ", ".join(d for g in space.groups for d in g.domains)
            raise MixtureError(
                f"{key!r} is no domain of the study's mixture; its domains are {known or 'none'}"
            )
        given[name] = value
    x = base.copy()
    for group in space.groups:
        if any(name in given for name in group.names):
            x[space.block(group)] = _rates(mixture, [given.get(n, 0.0) for n in group.names])
    for name, distribution in space.distributions.items():
        code = encode_value(given[name], distribution) if name in given else None
        if code is not None:
            x[space.columns(name)] = code
    return x


def _rates(mixture: Mapping[str, float], values: Sequence[float]) -> Array:
    rates = np.array([real(f"a rate of {dict(mixture)!r}", v, MixtureError) for v in values])
    if not np.isfinite(rates).all() or (rates < 0).any() or abs(rates.sum() - 1.0) > 1e-6:
        raise MixtureError(
            f"rates must be at least 0 and sum to 1, got {dict(mixture)!r}, sum {rates.sum():g}"
        )
    return rates / rates.sum()
