"""The marginal likelihood against torch's density, finite differences and GPyTorch's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gpytorch
import numpy as np
import torch
from botorch.models import SingleTaskGP
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import LogNormalPrior
from torch.distributions import MultivariateNormal

from benchmarks.tables import Recording
from optuna_mde.gp.features import Features
from optuna_mde.gp.fitting import DenseMarginalLogLikelihood, fit, log_density, standards
from optuna_mde.gp.kernel import ResidualKernel
from optuna_mde.gp.priors import columns_of, noise_of
from optuna_mde.gp.surrogate import Runs, stack_inputs
from optuna_mde.gp.warp import Warp
from tests.optuna_mde.fits import features_of, runs_of

ENVIRONMENT = Path(__file__).parents[3] / "benchmarks" / "data" / "environment"


def covariances(batch: int, n: int) -> torch.Tensor:
    roots = torch.randn(batch, n, n, generator=torch.Generator().manual_seed(0)).double()
    return roots @ roots.mT + torch.eye(n, dtype=torch.float64)


def residuals(batch: int, n: int) -> torch.Tensor:
    return torch.randn(batch, n, generator=torch.Generator().manual_seed(1)).double()


def test_log_density_is_the_normal_one() -> None:
    covariance, residual = covariances(3, 6), residuals(3, 6)
    expected = MultivariateNormal(torch.zeros(6).double(), covariance).log_prob(residual)
    torch.testing.assert_close(log_density(residual, covariance), expected)


def test_gradients_of_log_density_are_finite_differences() -> None:
    covariance = covariances(2, 4).requires_grad_(True)
    residual = residuals(2, 4).requires_grad_(True)

    def symmetric(r: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return log_density(r, (c + c.mT) / 2.0)

    assert torch.autograd.gradcheck(symmetric, (residual, covariance))


def test_marginal_likelihood_and_its_gradients_are_gpytorchs() -> None:
    X = torch.rand(12, 3, generator=torch.Generator().manual_seed(2)).double()
    likelihood = GaussianLikelihood(LogNormalPrior(-4.0, 1.0), batch_shape=torch.Size([2]))
    model = SingleTaskGP(X, residuals(2, 12).mT, likelihood=likelihood, outcome_transform=None)
    model.train()
    found = []
    with gpytorch.settings.fast_computations(log_prob=False, covar_root_decomposition=False):
        for kind in (ExactMarginalLogLikelihood, DenseMarginalLogLikelihood):
            value = kind(model.likelihood, model)(model(*model.train_inputs), model.train_targets)
            found.append((value, torch.autograd.grad(value.sum(), list(model.parameters()))))
    (theirs, their_slopes), (ours, our_slopes) = found
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(our_slopes, their_slopes)


def test_noise_is_fitted_to_all_outputs_together(world) -> None:
    """A step of all noise variances at once, either way, lowers the posterior of all outputs."""
    runs = runs_of(world, 20)
    features = features_of(world, experts=False)
    state = fit(features, runs).state()
    kernel = ResidualKernel(columns_of(features))
    for parameter in ("log_lengthscale", "log_outputscale"):
        getattr(kernel, parameter).data.copy_(state[parameter])
    inputs, _ = stack_inputs(features, runs.X, state["shared"])
    warp = Warp.of(runs.Y, ~features.has_mde)
    modelled = warp.latent(runs.Y)
    centre, scale = standards(features, replace(runs, Y=modelled))
    share = (warp.slope(warp.losses(centre)) / warp.slope(runs.Y)).square().mT
    median, spread = noise_of(features)

    def log_posterior(log_noise: torch.Tensor) -> float:
        with torch.no_grad():
            noise = torch.diag_embed(log_noise.exp().unsqueeze(-1) * share)
            covariance = kernel.forward(inputs, inputs) + noise
            density = log_density(((modelled - centre) / scale).mT, covariance).sum()
            return float(density + MultivariateNormal(median.log(), spread).log_prob(log_noise))

    fitted = log_posterior(state["noise"].log())
    for step in (-0.1, 0.1):
        assert log_posterior(state["noise"].log() + step) < fitted


def test_a_line_search_that_leaps_does_not_cost_the_fit() -> None:
    """Eight recorded runs on which L-BFGS looks at an sd of e^230 for one of the sets."""
    recording = Recording.load(ENVIRONMENT)
    mixtures = np.random.default_rng(1000).permutation(recording.rows("dirichlet", "face"))
    rows = [*recording.rows("natural", "uniform"), *mixtures[:6]]
    X, Y = (torch.from_numpy(a[rows]) for a in (recording.mixtures, recording.losses))
    K = len(recording.domains)
    features = Features(K, [slice(0, K)], recording.sets)
    surrogate = fit(features, Runs(X, Y, torch.zeros(8, dtype=torch.bool)))
    before = columns_of(features).lengthscale.log()
    assert (surrogate.state()["log_lengthscale"] - before).abs().max() > 0.5
