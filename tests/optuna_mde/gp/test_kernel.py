"""The kernel against GPyTorch's Matérn, and where it lets the losses depart from MDE."""

from __future__ import annotations

import itertools
import math

import torch
from gpytorch.kernels import MaternKernel

from optuna_mde.gp.kernel import Columns, ResidualKernel
from optuna_mde.gp.tails import HeavyTailed, Tails
from tests.optuna_mde.fits import features_of

D, L, K = 3, 2, 3
COLUMNS = Columns(
    block=torch.tensor([0, 0, 1]),
    lengthscale=torch.tensor([[0.7, 1.5], [0.4, 2.0]]).double(),
    lengthscale_spread=torch.full((2, 2), 0.5).double(),
    outputscale=torch.tensor([0.3, 0.8]).double(),
    outputscale_prior=HeavyTailed(torch.zeros(2).double(), Tails(0.5, 0.2, 0.5)),
    slope=torch.tensor([[1.0, 0.5], [0.2, 0.0]]).double(),
    slope_prior=HeavyTailed(torch.zeros(2).double(), Tails(0.5, 0.2, 0.5)),
    shared=torch.tensor([[[0.3, 0.0], [0.1, 0.2]], [[0.0, 0.0], [0.0, 0.0]]]).double(),
    rates=K,
    expert_noise=torch.tensor([0.04, 0.09]).double(),
    blend=torch.tensor([0.5, 0.7]).double(),
    blend_prior=HeavyTailed(torch.zeros(2).double(), Tails(0.5, 0.2, 0.5)),
    rough=0.2,
    rough_lengthscale=0.3,
)


def matern(first: torch.Tensor, second: torch.Tensor, lengthscale: torch.Tensor) -> torch.Tensor:
    kernel = MaternKernel(nu=2.5).double()
    kernel.lengthscale = 1.0
    covariance: torch.Tensor = kernel(first / lengthscale, second / lengthscale).to_dense()
    return covariance


def test_covariance_is_the_formula() -> None:
    kernel = ResidualKernel(COLUMNS).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    kernel.log_slopescale.fill_(math.log(2.0))
    first, second = (torch.rand(2, n, D + L + K + 1, generator=generator).double() for n in (4, 5))
    for x in (first, second):
        x[1, :, :D] = x[0, :, :D]  # all processes see the same rates
    found = kernel.forward(first, second)
    own = kernel.forward(first, first, diag=True)
    for b in range(2):
        parts = [D, L, K, 1]
        (z, phi, e, a), (y, psi, f, c) = (x[b].split(parts, dim=-1) for x in (first, second))
        lengthscale = COLUMNS.lengthscale[b][COLUMNS.block]
        doubt = COLUMNS.shared[b] @ COLUMNS.shared[b].mT
        expected = phi @ (torch.diag((2.0 * COLUMNS.slope[b]).square()) + doubt) @ psi.mT
        expected = expected + COLUMNS.expert_noise[b] * e @ f.mT
        for j, k in itertools.combinations(range(K), 2):  # Scheffé's terms of second order
            blends = [4.0 * rates[:, j] * rates[:, k] for rates in (e, f)]
            expected = expected + COLUMNS.blend[b] ** 2 * torch.outer(*blends)
        expected = expected + COLUMNS.outputscale[b] ** 2 * (a @ c.mT) * matern(z, y, lengthscale)
        expected = expected + 0.2**2 * matern(z, y, torch.tensor(0.3).double())
        torch.testing.assert_close(found[b], expected)
        torch.testing.assert_close(own[b], kernel.forward(first, first)[b].diagonal())
        torch.testing.assert_close(own[b], kernel.variance(kernel.scale(first))[b])


def test_more_is_left_to_learn_where_one_domain_dominates(world) -> None:
    balanced, dominated = ([0.25] * 4, [0.85, 0.05, 0.05, 0.05])
    X = torch.tensor([balanced, dominated], dtype=torch.float64)
    few, many = features_of(world).amplitude(X)[:, 0].tolist()
    assert many > 2.0 * few
    assert features_of(world, experts=False).amplitude(X).eq(1.0).all()
