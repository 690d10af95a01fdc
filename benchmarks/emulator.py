"""Recorded runs made continuous: test objectives for searches that must ask anywhere.

An emulator is the posterior mean of Gaussian processes fitted to every recorded mixture, one for
each validation set; seed noise, with its correlation over the sets, is that of the repeated runs.
There are two, for an emulator favours searchers of its own family:

* ``rates``: around a power law in the tokens that serve a set (`transfer`), Matérn 5/2 over
  ``log(1 + λ/ε)``, a length-scale for each domain;
* ``mde``: around a constant, the same, and linear in the MDE losses of all sets, of full experts
  and of those at half the budget.

Both are continuous everywhere: experts are rows like all others, and nothing jumps at a rate of 0.
A call takes well below a millisecond. How far they are from the runs they have not seen is their
leave-one-out error (the law having seen all). Of the unseen sets it is .055 and .031 nats for
``environment``, .073 and .033 for ``twins``; inside the simplex .023 and .018, .028 and .017: what
hurts is a domain left out. Without the law, rates alone were .103 and .145 off, and promised .2
nats below the best run in a place where nothing had been run; ε a tenth of this is as close, but
makes cliffs at the faces.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import Array
from benchmarks.tables import Recording
from benchmarks.transfer import fit_law, law_losses

FAMILIES = ("rates", "mde")
_STEPS = 60
_FLOOR = 5e-3  # a rate below it is as good as none
_LEAST_NOISE = 1e-3  # sd in spreads over mixtures, where nothing was repeated


@dataclass(frozen=True)
class Emulator:
    """Losses of any mixture, nats per token.

    Args:
        family: one of `FAMILIES`.
        sets: the M validation sets.
        lift: rates `[n, K]` to columns `[n, D]`, the first K of them logarithms.
        Z: `[N, D]` columns of the recorded mixtures.
        alpha: `[M, N]` coefficients, in standard units.
        lengthscale: `[M, K]` of the logarithms.
        outputscale: `[M]` variance of the Matérn part.
        linear: `[M]` variance of each linear coefficient; 0 without linear columns.
        centre: `[M]` and
        scale: `[M]`, from standard units to nats per token.
        level: `[M]` constant means in standard units.
        law: `[M, 3 + K]` parameters of the trend, or `[M, 0]`.
        noise_root: `[M, M]` square root of the noise covariance.
        left_out: `[n, M]` leave-one-out errors of the mixtures that are no corners.
    """

    family: str
    sets: tuple[str, ...]
    lift: Callable[[Array], Array]
    Z: Array
    alpha: Array
    lengthscale: Array
    outputscale: Array
    linear: Array
    centre: Array
    scale: Array
    level: Array
    law: Array
    noise_root: Array
    left_out: Array

    def losses(self, rates: Array) -> Array:
        """Noise-free losses `[n, M]` of mixtures `[n, K]`."""
        rates = np.atleast_2d(rates)
        Z = self.lift(rates)
        return np.stack([self._set_losses(i, rates, Z) for i in range(len(self.sets))], axis=1)

    def means(self, rates: Array, weights: Array) -> Array:
        """Noise-free weighted mean `[n]` of the sets; weights `[M]`."""
        rates = np.atleast_2d(rates)
        Z = self.lift(rates)
        parts = [
            weights[i] * self._set_losses(i, rates, Z) for i in np.flatnonzero(weights).tolist()
        ]
        return np.asarray(np.sum(parts, axis=0))

    def _set_losses(self, i: int, rates: Array, Z: Array) -> Array:
        K, scale = self.lengthscale.shape[1], self.lengthscale[i]
        kernel = self.outputscale[i] * _matern(Z[:, :K] / scale, self.Z[:, :K] / scale)
        standard = kernel @ self.alpha[i]
        if self.linear[i] > 0:
            standard = standard + self.linear[i] * (Z[:, K:] @ (self.Z[:, K:].T @ self.alpha[i]))
        trend = law_losses(self.law[i], rates) if self.law.shape[1] else 0.0
        return np.asarray(trend + self.centre[i] + self.scale[i] * (standard + self.level[i]))

    def run(self, rates: Array, rng: np.random.Generator) -> Array:
        """Losses `[M]` of one run of a mixture `[K]`, with seed noise."""
        noise: Array = self.noise_root @ rng.standard_normal(len(self.sets))
        return np.asarray(self.losses(rates)[0] + noise)

    def error_of(self, weights: Array) -> float:
        """Leave-one-out error (RMSE) of a weighted mean of the sets; weights `[M]`."""
        return float(np.sqrt(np.mean((self.left_out @ weights) ** 2)))

    def noise_of(self, weights: Array) -> float:
        """Sd of a single run's weighted mean of the sets."""
        return float(np.linalg.norm(weights @ self.noise_root))

    def minimum(self, weights: Array, seed: int = 0) -> tuple[Array, float]:
        """The mixture with the lowest weighted mean of the sets, and that loss."""
        K = self.lengthscale.shape[1]
        return lowest(lambda rates: self.means(rates, weights), K, seed)


def lowest(means: Callable[[Array], Array], K: int, seed: int = 0) -> tuple[Array, float]:
    """The mixture of K domains with the lowest loss, and that loss.

    Random search that narrows, over faces and corners too: within 1e-4 nats of what 40 starts of
    SLSQP find on emulators.

    Args:
        means: losses `[n]` of mixtures `[n, K]`.
    """
    rng = np.random.default_rng(seed)
    points = np.concatenate([np.eye(K), mixtures_of_every_kind(5000, K, rng)])
    values = means(points)
    keep = points[np.argsort(values)[:6]]
    for step in np.geomspace(0.2, 0.001, 20):
        moved = np.repeat(keep, 80, axis=0)
        moved = moved + step * rng.normal(size=moved.shape) * np.sqrt(moved + 0.01)
        moved = np.where(rng.random(moved.shape) < 0.15, 0.0, np.maximum(moved, 0.0))
        total = moved.sum(axis=1, keepdims=True)
        moved = np.where(total > 0, moved / np.maximum(total, 1e-12), 1.0 / K)
        points = np.concatenate([keep, moved])
        values = means(points)
        keep = points[np.argsort(values)[:6]]
    return keep[0], float(values.min())


def mixtures_of_every_kind(n: int, K: int, rng: np.random.Generator) -> Array:
    """About n mixtures `[n, K]`: interior, skewed, and on faces."""
    interior = rng.dirichlet(np.ones(K), n // 3)
    skewed = rng.dirichlet(np.full(K, 0.3), n // 3)
    faces = np.where(rng.random((n // 3, K)) < 0.6, 0.0, rng.dirichlet(np.ones(K), n // 3))
    faces = faces[faces.sum(axis=1) > 0]
    return np.concatenate([interior, skewed, faces / faces.sum(axis=1, keepdims=True)])


def emulator(recording: Recording, family: str, cache: Path) -> Emulator:
    """Fit an emulator to a recording, or read the fit from the cache folder.

    Args:
        recording: a packed recording.
        family: one of `FAMILIES`; ``mde`` needs the experts' files.
        cache: folder for fits.
    """
    X, Y, counts = _mixtures(recording)
    lift = _lift(recording) if family == "mde" else _logarithms
    Z = lift(X)
    noise = recording.noise_covariance
    least = (_LEAST_NOISE * Y.std(axis=0)) ** 2
    variance = np.maximum(np.diag(noise), least) / counts[:, None]
    digest = hashlib.blake2b(digest_size=8)
    for array in (Z, Y, variance):
        digest.update(np.ascontiguousarray(array).tobytes())
    path = cache / f"emulator-{recording.name}-{family}-{digest.hexdigest()}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        law = (
            np.stack([fit_law(X, y) for y in Y.T])
            if family == "rates"
            else np.empty((len(Y.T), 0))
        )
        fit: dict[str, Any] = dict(_fit(X, Z, Y, variance, law))
        np.savez(path, **fit)
    values, vectors = np.linalg.eigh(noise + np.diag(np.maximum(least - np.diag(noise), 0.0)))
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    with np.load(path) as fitted:
        return Emulator(family, recording.sets, lift, Z, noise_root=root, **fitted)


def _mixtures(recording: Recording) -> tuple[Array, Array, Array]:
    """Mixtures, mean losses over seeds, and how many seeds there are."""
    groups: dict[tuple[float, ...], list[int]] = {}
    for row in np.flatnonzero(recording.budgets == 1.0):
        groups.setdefault(tuple(recording.mixtures[row]), []).append(int(row))
    X = np.array(list(groups))
    Y = np.array([recording.losses[rows].mean(axis=0) for rows in groups.values()])
    return X, Y, np.array([float(len(rows)) for rows in groups.values()])


def _lift(recording: Recording) -> Callable[[Array], Array]:
    """Logarithms of the rates, and standardised MDE losses of full and half experts."""
    import torch

    from optuna_mde.mde.coreset import Coreset
    from optuna_mde.mde.experts import load_table

    coresets = []
    for budget in (1.0, 0.5):
        files = {d: str(p) for d, p in recording.experts.get(budget, {}).items()}
        if len(files) == len(recording.domains):
            coresets.append(Coreset(load_table(recording.domains, files)[0]))

    def losses(rates: Array) -> Array:
        with torch.no_grad():
            found = [c.losses(torch.from_numpy(np.ascontiguousarray(rates))) for c in coresets]
        return np.hstack([f.numpy() for f in found])

    reference = losses(recording.mixtures[recording.designed])
    centre, scale = reference.mean(axis=0), reference.std(axis=0)
    return lambda rates: np.hstack([_logarithms(rates), (losses(rates) - centre) / scale])


def _logarithms(rates: Array) -> Array:
    """From 0 at 0 to 1 at 1."""
    scaled: Array = np.log1p(rates / _FLOOR) / np.log1p(1.0 / _FLOOR)
    return scaled


def _fit(X: Array, Z: Array, Y: Array, variance: Array, law: Array) -> dict[str, Array]:
    """Hyper-parameters by marginal likelihood, and what predictions need."""
    import torch
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from gpytorch.kernels import LinearKernel, MaternKernel, ScaleKernel
    from gpytorch.mlls import ExactMarginalLogLikelihood
    from gpytorch.priors import GammaPrior, LogNormalPrior

    (n, M), K = Y.shape, X.shape[1]
    if law.shape[1]:
        Y = Y - np.stack([law_losses(p, X) for p in law], axis=1)
    centre, scale = Y.mean(axis=0), Y.std(axis=0)
    batch = torch.Size([M])
    matern = MaternKernel(
        2.5,
        ard_num_dims=K,
        batch_shape=batch,
        active_dims=tuple(range(K)),
        lengthscale_prior=LogNormalPrior(0.5, 1.0),
    )
    kernel = ScaleKernel(matern, batch_shape=batch, outputscale_prior=GammaPrior(2.0, 0.5))
    linear = None
    if Z.shape[1] > K:
        columns = tuple(range(K, Z.shape[1]))
        linear = LinearKernel(
            batch_shape=batch, active_dims=columns, variance_prior=GammaPrior(1.5, 5.0)
        )
    model = SingleTaskGP(
        torch.from_numpy(Z),
        torch.from_numpy((Y - centre) / scale),
        train_Yvar=torch.from_numpy(variance / scale**2),
        covar_module=kernel if linear is None else kernel + linear,
        outcome_transform=None,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit_gpytorch_mll(
            ExactMarginalLogLikelihood(model.likelihood, model),
            optimizer_kwargs={"options": {"maxiter": _STEPS}},
        )
    with torch.no_grad():
        lengthscale = matern.lengthscale.reshape(M, K).numpy()
        outputscale = kernel.outputscale.reshape(M).numpy()
        weights = np.zeros(M) if linear is None else linear.variance.reshape(M).numpy()
        level = model.mean_module.constant.reshape(M).numpy()
    alpha, left_out = np.empty((M, n)), np.empty((n, M))
    for i in range(M):
        scaled = Z[:, :K] / lengthscale[i]
        covariance = outputscale[i] * _matern(scaled, scaled)
        covariance += weights[i] * Z[:, K:] @ Z[:, K:].T
        inverse = np.linalg.inv(covariance + np.diag(variance[:, i] / scale[i] ** 2))
        alpha[i] = inverse @ ((Y[:, i] - centre[i]) / scale[i] - level[i])
        left_out[:, i] = scale[i] * alpha[i] / np.diag(inverse)
    # Left out, a corner is far from everything: no search asks for that.
    inner = X.max(axis=1) < 1.0
    return {
        "alpha": alpha,
        "lengthscale": lengthscale,
        "outputscale": outputscale,
        "linear": weights,
        "centre": centre,
        "scale": scale,
        "level": level,
        "law": law,
        "left_out": left_out[inner],
    }


def _matern(A: Array, B: Array) -> Array:
    square = (A**2).sum(axis=1)[:, None] + (B**2).sum(axis=1) - 2.0 * A @ B.T
    r = np.sqrt(5.0 * np.maximum(square, 0.0))
    correlation: Array = (1.0 + r + r**2 / 3.0) * np.exp(-r)
    return correlation
