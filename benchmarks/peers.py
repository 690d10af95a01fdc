"""Models that predict the losses of a mixture from finished runs: what people use today.

Notation: ``X`` `[n, K]` rates of the runs, ``Y`` `[n, M]` their losses in nats per token, ``Z``
`[m, K]` mixtures to predict, ``W`` `[T, M]` targets, each a weighted mean of the sets (a single
set is one too). Every model is a function ``(evidence, Z, W) -> Predicted``.

Sources: RegMix (arXiv 2407.01492), olmix (2602.12237), data mixing laws (2403.16952), Mixture of
Data Experts (2502.15950).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from botorch.models.multitask import KroneckerMultiTaskGP
    from torch import Tensor

Array = npt.NDArray[np.float64]

_RIDGES = np.logspace(-6, 2, 17)
_LAW_STARTS = 8
_HUBER = 0.02  # nats; olmix's
_MULTITASK_STEPS = 150


@dataclass(frozen=True)
class Evidence:
    """Finished runs.

    Args:
        X: `[n, K]` rates.
        Y: `[n, M]` losses.
        expert: `[n]` true for runs on one domain alone whose log-probabilities ``mde`` stands on.
        mde: rates `[m, K]` to MDE losses `[m, M]`; None without experts.
    """

    X: Array
    Y: Array
    expert: npt.NDArray[np.bool_]
    mde: Callable[[Array], Array] | None = None

    def features(self, Z: Array) -> Array:
        """MDE losses `[m, M]`."""
        assert self.mde is not None
        return self.mde(Z)

    def without_experts(self) -> Evidence:
        """The runs on more than one domain."""
        used = ~self.expert
        return Evidence(self.X[used], self.Y[used], self.expert[used], self.mde)


@dataclass(frozen=True)
class Predicted:
    """Targets `[m, T]` of mixtures, nats per token."""

    mean: Array
    sd: Array | None
    """Sd of a single run, noise included; None where a model gives no interval."""


Model = Callable[[Evidence, Array, Array], Predicted]


def constant(evidence: Evidence, Z: Array, W: Array) -> Predicted:
    """The mean of the runs, whatever the mixture."""
    targets = evidence.Y @ W.T
    ones = np.ones((len(Z), 1))
    return Predicted(ones * targets.mean(axis=0), ones * targets.std(axis=0, ddof=1))


def ridge(evidence: Evidence, Z: Array, W: Array) -> Predicted:
    """Linear in the rates, the penalty chosen by leave-one-out for each set."""
    return Predicted(_ridge(evidence.X, evidence.Y, Z) @ W.T, None)


def regmix(evidence: Evidence, Z: Array, W: Array) -> Predicted:
    """RegMix's LightGBM on the rates, one for each set, with leaves small enough for few runs."""
    return Predicted(_boosted(evidence.X, evidence.Y, Z) @ W.T, None)


def log_linear(evidence: Evidence, Z: Array, W: Array) -> Predicted:
    """olmix's law ``L = exp(c) + exp(t·λ)`` for each set, Huber loss, several starts."""
    from scipy.optimize import minimize

    X, K = evidence.X, evidence.X.shape[1]
    predictions = []
    for y in evidence.Y.T:
        starts = np.random.default_rng(0).uniform(0.0, 0.1, (_LAW_STARTS, K + 1))
        # Exponents near those of a constant law, the constant itself from small to nearly all.
        starts[:, 0] = np.log(y.min() * np.linspace(0.1, 0.95, _LAW_STARTS))
        starts[:, 1:] += np.log(np.maximum(y.mean() - np.exp(starts[:, :1]), 1e-2))
        ends = [
            minimize(_law_loss, s, (X, y), jac=True, method="L-BFGS-B", options={"maxiter": 500})
            for s in starts
        ]
        best = min(ends, key=lambda end: float(end.fun)).x
        predictions.append(np.exp(best[0]) + np.exp(np.minimum(Z @ best[1:], 20.0)))
    return Predicted(_within_reach(np.stack(predictions, axis=1), evidence.Y) @ W.T, None)


def exponential(evidence: Evidence, Z: Array, W: Array) -> Predicted:
    """The law ``L = c + k exp(t·λ)`` of data mixing laws for each set.

    On the simplex it is olmix's family (k is absorbed by t). Here its logarithm is fitted, a ridge
    regression of ``log(L - c)`` on the rates; c and the penalty are chosen by leave-one-out.
    """
    predictions = [_shifted_exponential(evidence.X, y, Z) for y in evidence.Y.T]
    return Predicted(_within_reach(np.stack(predictions, axis=1), evidence.Y) @ W.T, None)


def gaussian_process(evidence: Evidence, Z: Array, W: Array) -> Predicted:
    """BoTorch's `SingleTaskGP` on the roots of the rates, as it comes, one for each set."""
    import torch
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from gpytorch.mlls import ExactMarginalLogLikelihood

    model = SingleTaskGP(torch.from_numpy(np.sqrt(evidence.X)), torch.from_numpy(evidence.Y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        with torch.no_grad():
            posterior = model.posterior(torch.from_numpy(np.sqrt(Z)), observation_noise=True)
    variance = posterior.variance.detach().numpy()  # the noise keeps its gradient
    return Predicted(posterior.mean.numpy() @ W.T, np.sqrt(variance @ (W**2).T))


def mde_alone(evidence: Evidence, Z: Array, W: Array) -> Predicted:
    """The MDE loss as it is; MixMin minimises the same."""
    return Predicted(evidence.features(Z) @ W.T, None)


def mde_affine(evidence: Evidence, Z: Array, W: Array) -> Predicted:
    """An offset and a slope for each set, fitted to the runs that are no experts: an expert's loss
    is its MDE loss, and would hold the line at the wrong place."""
    evidence = evidence.without_experts()
    F, G, Y = evidence.features(evidence.X), evidence.features(Z), evidence.Y
    centre, level = F.mean(axis=0), Y.mean(axis=0)
    # One run's worth of belief in slope 1, at the spread that MDE itself shows.
    weight = np.var(G, axis=0)
    slope = (((F - centre) * (Y - level)).sum(axis=0) + weight) / (
        ((F - centre) ** 2).sum(axis=0) + weight
    )
    return Predicted((level + slope * (G - centre)) @ W.T, None)


def mde_linear(evidence: Evidence, Z: Array, W: Array) -> Predicted:
    """The paper's regularised linear model on rates and all MDE losses, without the experts' own
    losses (with them: rank correlation .93, not .97, at 25 runs in all, of which 5 experts)."""
    evidence = evidence.without_experts()
    return Predicted(
        _ridge(_lifted(evidence, evidence.X), evidence.Y, _lifted(evidence, Z)) @ W.T, None
    )


def mde_regmix(evidence: Evidence, Z: Array, W: Array) -> Predicted:
    """The paper's gradient boosting on rates and all MDE losses, without the experts' own losses
    (with them: rank correlation .75, not .90, at 25 runs in all, of which 5 experts)."""
    evidence = evidence.without_experts()
    return Predicted(
        _boosted(_lifted(evidence, evidence.X), evidence.Y, _lifted(evidence, Z)) @ W.T, None
    )


def mde_multitask(evidence: Evidence, Z: Array, W: Array) -> Predicted:
    """The paper's multi-task GP: BoTorch's `KroneckerMultiTaskGP` on roots and MDE losses."""
    import torch
    from botorch.fit import fit_gpytorch_mll
    from botorch.models.multitask import KroneckerMultiTaskGP
    from botorch.models.transforms import Standardize
    from gpytorch.mlls import ExactMarginalLogLikelihood

    def inputs(rates: Array) -> torch.Tensor:
        F = (evidence.features(rates) - centre) / spread
        return torch.from_numpy(np.hstack([np.sqrt(rates), F]))

    references = evidence.features(np.concatenate([evidence.X, Z]))
    centre, spread = references.mean(axis=0), references.std(axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = KroneckerMultiTaskGP(
            inputs(evidence.X),
            torch.from_numpy(evidence.Y),
            outcome_transform=Standardize(evidence.Y.shape[1]),
        )
        fit_gpytorch_mll(
            ExactMarginalLogLikelihood(model.likelihood, model),
            optimizer_kwargs={"options": {"maxiter": _MULTITASK_STEPS}},
            # A second attempt would draw from the priors, and that of the correlations cannot.
            warning_handler=lambda _: True,
        )
        with torch.no_grad():
            return _joint(model, inputs(Z), W)


RATES_ONLY: dict[str, Model] = {
    "mean": constant,
    "ridge on rates": ridge,
    "LightGBM per set (RegMix)": regmix,
    "log-linear law (olmix)": log_linear,
    "exponential law (data mixing laws)": exponential,
    "GP on √rates per set": gaussian_process,
}
WITH_MDE: dict[str, Model] = {
    "MDE alone": mde_alone,
    "MDE affine": mde_affine,
    "linear + MDE": mde_linear,
    "LightGBM + MDE": mde_regmix,
    "multi-task GP + MDE": mde_multitask,
}


def _joint(model: KroneckerMultiTaskGP, inputs: Tensor, W: Array) -> Predicted:
    """Targets of a model whose sets are correlated, a few points at a time."""
    units: Array = model.outcome_transform.stdvs.numpy().ravel()  # type: ignore[operator]
    means, sds = [], []
    model.eval()
    for start in range(0, len(inputs), 16):
        chunk = inputs[start : start + 16]
        n, M = len(chunk), len(units)
        joint = model.likelihood(model(chunk))
        covariance = joint.covariance_matrix.reshape(n, M, n, M).numpy()
        own = covariance[np.arange(n), :, np.arange(n)]  # [n, M, M]
        scaled = W * units
        means.append(model.posterior(chunk).mean.numpy() @ W.T)
        sds.append(np.sqrt(np.einsum("ti,nij,tj->nt", scaled, own, scaled)))
    return Predicted(np.concatenate(means), np.concatenate(sds))


def _lifted(evidence: Evidence, rates: Array) -> Array:
    return np.hstack([rates, evidence.features(rates)])


def _ridge(X: Array, Y: Array, Z: Array) -> Array:
    from sklearn.linear_model import RidgeCV  # type: ignore[import-untyped]

    centre, spread = X.mean(axis=0), X.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    model = RidgeCV(_RIDGES * len(X), alpha_per_target=True)
    predicted: Array = model.fit((X - centre) / spread, Y).predict((Z - centre) / spread)
    return predicted


def _shifted_exponential(X: Array, y: Array, Z: Array) -> Array:
    U, s, Vt = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)
    best = (np.inf, np.zeros(len(Z)))
    for c in y.min() * np.linspace(0.0, 0.98, 25):
        logs = np.log(y - c)
        level = logs.mean()
        for penalty in _RIDGES:
            shrunk = s**2 / (s**2 + penalty)
            fitted = level + U @ (shrunk * (U.T @ (logs - level)))
            leverage = (U**2) @ shrunk + 1.0 / len(y)
            left_out = logs - (logs - fitted) / np.maximum(1.0 - leverage, 1e-3)
            error = float(np.sum((c + np.exp(np.minimum(left_out, 20.0)) - y) ** 2))
            if error < best[0]:
                slope = Vt.T @ (shrunk / np.maximum(s, 1e-12) * (U.T @ (logs - level)))
                power = np.minimum(level + (Z - X.mean(axis=0)) @ slope, 20.0)
                best = (error, c + np.exp(power))
    return best[1]


def _within_reach(predicted: Array, Y: Array) -> Array:
    """Predictions at most the runs' range away from it: laws explode where no run was."""
    low, high = Y.min(axis=0), Y.max(axis=0)
    return np.clip(predicted, 2 * low - high, 2 * high - low)


def _boosted(X: Array, Y: Array, Z: Array) -> Array:
    from lightgbm import LGBMRegressor

    predictions = []
    for y in Y.T:
        model = LGBMRegressor(
            n_estimators=300,
            learning_rate=0.05,
            num_leaves=8,
            min_child_samples=2,
            subsample=0.8,
            subsample_freq=1,
            colsample_bytree=0.8,
            random_state=0,
            n_jobs=1,
            deterministic=True,
            verbose=-1,
        )
        predictions.append(model.fit(X, y).predict(Z))
    return np.stack(predictions, axis=1)


def _law_loss(parameters: Array, X: Array, y: Array) -> tuple[float, Array]:
    """Huber loss and gradient of ``exp(c) + exp(t·λ)``."""
    constant_part = np.exp(np.minimum(parameters[0], 20.0))
    power = np.exp(np.minimum(X @ parameters[1:], 20.0))
    error = constant_part + power - y
    small = np.abs(error) <= _HUBER
    loss = np.where(small, 0.5 * error**2, _HUBER * (np.abs(error) - 0.5 * _HUBER))
    slope = np.clip(error, -_HUBER, _HUBER)
    gradient = np.append((slope * constant_part).sum(), X.T @ (slope * power))
    return float(loss.sum()), gradient
