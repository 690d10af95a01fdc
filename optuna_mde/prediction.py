"""Predicted losses of any mixture, from the runs of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from optuna_mde import calibration, records
from optuna_mde import history as histories
from optuna_mde.history import History
from optuna_mde.layout import study_space
from optuna_mde.model import Modeller, expert_table
from optuna_mde.objective import CONSTRAINT, Objective, ObjectiveLike
from optuna_mde.records import Record
from optuna_mde.simplex import Array, MixtureError, Region
from optuna_mde.space import Space, encode_value
from optuna_mde.torch_state import gradients

if TYPE_CHECKING:
    import optuna

    from optuna_mde.surrogate import Surrogate


@dataclass(frozen=True)
class Prediction:
    """Predicted losses of n mixtures on M validation sets, nats per token."""

    sets: tuple[str, ...]
    """Names of the M sets."""
    mean: Array
    """Expected losses `[n, M]`."""
    sd: Array
    """Sd `[n, M]` of the noise-free losses of mixtures anywhere. A recommendation's rows, which
    lie where runs crowd, have intervals of their own."""
    noise_sd: Array
    """Sd `[M]` of a single run around its noise-free loss."""
    objective_mean: Array
    """Expected objective `[n]`, or `[n, G]` for G > 1 goals."""
    objective_sd: Array
    """Sd of the noise-free objective; residuals of the sets are correlated in it."""
    objective_noise_sd: float | Array
    """Sd of a single run's objective, or one value for each of G > 1 goals."""


@dataclass(frozen=True)
class Fitted:
    """A study's history, and the surrogate fitted to it, twice."""

    trials: list[Record]
    space: Space
    region: Region
    history: History
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
        return {expert.domain for expert in self.history.experts}

    def told(self, trial: Record) -> tuple[Array, Array]:
        """Inputs `[d]` and losses `[M]` of a trial of the history."""
        row = int(np.flatnonzero(self.history.numbers == trial.number)[0])
        return self.history.X[row], self.history.Y[row]

    @property
    def weights(self) -> Array:
        """Weights `[G, M]` of the goals."""
        return self.history.objective.weights(self.history.outputs)

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
        inside = self.region.snap(self.history.X)
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
    history = histories.read(study, space, trials=trials)
    if objective is not None:
        history = replace(history, objective=Objective.parse(objective))
    if len(history.X) == 0:
        raise ValueError(
            f"study {study.study_name!r} has no finished run to learn from; run at least one trial"
        )
    if space.dim == 0:
        raise ValueError(
            f"study {study.study_name!r} has no mixture, nor a parameter that all of its finished "
            f"runs have in the same range, so that there is nothing to predict from"
        )
    history.objective.weights(history.outputs)
    region = space.region()
    modeller = Modeller()
    try:
        quick = modeller.surrogate(history, region.blocks)
    except Exception:
        # A fit that fails leaves the prior's hyper-parameters, as in a proposal.
        quick = modeller.surrogate(history, region.blocks, fit=False)
    plain = history.outputs[:1] == ("value 0",)
    maximised = records.is_maximised(study) if plain else ()
    surrogate = _exact(quick, history)
    return Fitted(trials, space, region, history, surrogate, quick, maximised)


def _exact(quick: Surrogate, history: History) -> Surrogate:
    from optuna_mde.exact import on_every_token

    loaded = expert_table(history) if quick.features.coreset is not None else None
    return quick if loaded is None else on_every_token(quick, loaded[0])


@gradients()
def predict(
    study: optuna.Study,
    mixtures: Mapping[str, float] | Sequence[Mapping[str, float]],
    objective: ObjectiveLike = None,
) -> Prediction:
    """Predict the losses of mixtures that were never run.

    Args:
        study: an Optuna study with at least one finished run.
        mixtures: {domain: rate}, or a list of them. Keys may also be parameter names
            (``"stage2/web"``, ``"lr"``), which a study with several mixtures or with other
            parameters needs; what is not given has the value of the best run.
        objective: another objective than that of the runs.

    Raises:
        ValueError: if no run has finished, a rate is no part of a mixture of the study, or rates
            do not sum to 1.
    """
    fitted = fit_study(study, objective)
    if isinstance(mixtures, Mapping):
        mixtures = [mixtures]
    base = fitted.best_told()
    X = np.array([place(fitted.space, base, m) for m in mixtures]).reshape(-1, fitted.space.dim)
    mean, sd = fitted.outputs(X)
    goal_mean, goal_sd = fitted.goals(X)
    goal_noise = fitted.noise()
    width = _width(fitted)
    losses = [j for j, n in enumerate(fitted.history.outputs) if not n.startswith(CONSTRAINT)]
    one = goal_mean.shape[1] == 1
    if fitted.maximised:
        signs = np.where(fitted.maximised, -1.0, 1.0)
        mean[:, losses] *= signs
        goal_mean = goal_mean * signs
    return Prediction(
        sets=tuple(fitted.history.outputs[j] for j in losses),
        mean=mean[:, losses],
        sd=width * sd[:, losses],
        noise_sd=fitted.surrogate.noise_sd.numpy()[losses],
        objective_mean=goal_mean[:, 0] if one else goal_mean,
        objective_sd=width * (goal_sd[:, 0] if one else goal_sd),
        objective_noise_sd=float(goal_noise[0]) if one else goal_noise,
    )


def _width(fitted: Fitted) -> float:
    """Factor of the posterior's sd."""
    surrogate, experts = fitted.surrogate, fitted.history.fullest.values()
    budgets = [e.budget for e in experts] if surrogate.features.coreset is not None else []
    return calibration.of_predictions(budgets, int((~surrogate.runs.corner).sum()))


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
    rates = np.array(values, dtype=float)
    if not np.isfinite(rates).all() or (rates < 0).any() or abs(rates.sum() - 1.0) > 1e-6:
        raise MixtureError(
            f"rates must be at least 0 and sum to 1, got {dict(mixture)!r}, sum {rates.sum():g}"
        )
    return rates / rates.sum()
