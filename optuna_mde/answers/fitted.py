"""A study's observations and the surrogate fitted to them, which every answer is read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from optuna_mde.gp.modeller import Modeller, expert_table
from optuna_mde.gp.torch_state import gradients
from optuna_mde.objective import Objective, ObjectiveLike
from optuna_mde.observations import Observations
from optuna_mde.scalars import real
from optuna_mde.simplex.projection import Array, MixtureError
from optuna_mde.simplex.region import Region
from optuna_mde.trials import history, records
from optuna_mde.trials.layout import study_space
from optuna_mde.trials.records import Record
from optuna_mde.trials.space import Space, encode_value

if TYPE_CHECKING:
    import optuna

    from optuna_mde.gp.surrogate import Surrogate


@dataclass(frozen=True)
class Fitted:
    """A study's observations, and the surrogate fitted to them, twice."""

    trials: list[Record]
    space: Space
    region: Region
    observations: Observations
    surrogate: Surrogate
    """MDE losses over every token: what figures are taken from."""
    quick: Surrogate
    """The same on the coreset: cheap and with gradients, to maximise on."""
    maximised: tuple[bool, ...]
    """For plain objective values: which were maximised, so have their sign turned."""

    @property
    def sign(self) -> float:
        """-1 where the first goal is a plain objective that was maximised, else 1."""
        return -1.0 if self.maximised and self.maximised[0] else 1.0

    @property
    def expert_domains(self) -> set[str]:
        """Domains whose experts have log-probabilities."""
        return {expert.domain for expert in self.observations.experts}

    def told(self, trial: Record) -> tuple[Array, Array]:
        """Inputs `[d]` and losses `[M]` of a trial of the observations."""
        row = int(np.flatnonzero(self.observations.numbers == trial.number)[0])
        return self.observations.X[row], self.observations.Y[row]

    @property
    def weights(self) -> Array:
        """Weights `[G, M]` of the goals."""
        return self.observations.objective.weights(self.observations.outputs)

    def goals(self, X: Array) -> tuple[Array, Array]:
        """Mean and sd `[n, G]` of the noise-free goals at inputs `[n, d]`."""
        import torch

        with torch.no_grad():
            mean, sd = self.surrogate.goals(torch.from_numpy(X), torch.from_numpy(self.weights))
        return mean.numpy(), sd.numpy()

    def outputs(self, X: Array) -> tuple[Array, Array]:
        """Mean and sd `[n, M]` of the noise-free outputs at inputs `[n, d]`."""
        import torch

        with torch.no_grad():
            mean, sd = self.surrogate.posterior(torch.from_numpy(X))
        return mean.numpy(), sd.numpy()

    def noise(self) -> Array:
        """Sd `[G]` of a single run's goals."""
        import torch

        spread = self.surrogate.spread(
            self.surrogate.noise_sd[None], torch.from_numpy(self.weights)
        )
        return spread[0].numpy()

    def best_told(self) -> Array:
        """Inputs `[d]` of the told run with the lowest expected goal, moved into the region."""
        inside = self.region.snap(self.observations.X)
        mean, _ = self.goals(inside)
        best: Array = inside[int(mean.mean(axis=1).argmin())]
        return best


@gradients()
def fit_study(study: optuna.Study, objective: ObjectiveLike = None) -> Fitted:
    """Fit the surrogate to what a study knows now.

    Args:
        study: an Optuna study.
        objective: another objective than the one the runs were told with: every validation set
            is modelled, so a new weighting needs no new run.

    Raises:
        ValueError: if no run has finished, the runs have no parameter in common, or the objective
            names a set that no run reports.
    """
    trials = records.read_trials(study)
    space = study_space(study, trials=trials)
    observations = history.read(study, space, trials=trials)
    if objective is not None:
        observations = replace(observations, objective=Objective.parse(objective))
    if len(observations.X) == 0:
        raise ValueError(
            f"study {study.study_name!r} has no finished run to learn from; run at least one trial"
        )
    if space.dim == 0:
        raise ValueError(
            f"study {study.study_name!r} has no mixture, nor a parameter that all of its finished "
            f"runs have in the same range, so that there is nothing to predict from"
        )
    observations.objective.weights(observations.outputs)
    region = space.region()
    modeller = Modeller()
    try:
        quick = modeller.surrogate(observations, region.blocks)
    except Exception:
        # A fit that fails leaves the prior's hyper-parameters, as in a proposal.
        quick = modeller.surrogate(observations, region.blocks, fit=False)
    plain = observations.outputs[:1] == ("value 0",)
    maximised = records.is_maximised(study) if plain else ()
    surrogate = _exact(quick, observations)
    return Fitted(trials, space, region, observations, surrogate, quick, maximised)


def _exact(quick: Surrogate, observations: Observations) -> Surrogate:
    from optuna_mde.gp.exact import on_every_token

    loaded = expert_table(observations) if quick.features.coreset is not None else None
    return quick if loaded is None else on_every_token(quick, loaded[0])


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
