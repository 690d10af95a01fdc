"""The marginal likelihood against torch's density, finite differences and GPyTorch's own."""

from __future__ import annotations

import gpytorch
import torch
from botorch.models import SingleTaskGP
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import LogNormalPrior
from torch.distributions import MultivariateNormal

from optuna_mde.fitting import DenseMarginalLogLikelihood, log_density


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
