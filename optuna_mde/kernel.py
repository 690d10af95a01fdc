"""The covariance of what MDE leaves unexplained, and the priors of its hyper-parameters.

Notation: a batch of B Gaussian processes over inputs ``Z = [z, φ]`` `B x n x (D + L)`: ``z`` are
the columns that distances are taken in, ``φ`` regressors with Gaussian coefficients:

``k(Z, Z') = Σ_l s_l² φ_l φ_l' + o² Matérn_5/2(|z - z'| / ℓ)``

Columns of ``z`` fall into blocks that share one length-scale. Integrating the
coefficients out (rather than fitting them) keeps their uncertainty in the
intervals, which matters when runs are few.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from gpytorch.kernels import Kernel
from gpytorch.priors import NormalPrior
from torch import Tensor, nn


@dataclass(frozen=True)
class Columns:
    """What each column of ``Z`` is, and what is believed of it before any run.

    Args:
        block: `[D]` index of the length-scale block of each distance column.
        lengthscale: `B x J` prior medians, one for each block.
        lengthscale_spread: `B x J` sd of the logarithm of each length-scale.
        outputscale: `[B]` prior median of the residual's sd, in standardised units.
        outputscale_spread: sd of its logarithm.
        slope: `B x L` prior sd of the regressors' coefficients; 0 switches one off.
    """

    block: Tensor
    lengthscale: Tensor
    lengthscale_spread: Tensor
    outputscale: Tensor
    outputscale_spread: float
    slope: Tensor

    @property
    def n_distance(self) -> int:
        """Number D of distance columns."""
        return len(self.block)


class ResidualKernel(Kernel):
    """Linear regressors plus a Matérn kernel with blocks of columns, see the module's formula.

    Args:
        columns: layout and priors of a batch of B processes.
    """

    has_lengthscale = False

    def __init__(self, columns: Columns) -> None:
        super().__init__(batch_shape=columns.outputscale.shape)
        self.columns = columns
        self.register_parameter("log_lengthscale", nn.Parameter(columns.lengthscale.log().clone()))
        self.register_parameter(
            "log_outputscale", nn.Parameter(columns.outputscale.log().unsqueeze(-1))
        )
        self.register_prior(
            "lengthscale_prior",
            NormalPrior(columns.lengthscale.log(), columns.lengthscale_spread),
            "log_lengthscale",
        )
        self.register_prior(
            "outputscale_prior",
            NormalPrior(
                columns.outputscale.log().unsqueeze(-1),
                torch.full_like(columns.outputscale, columns.outputscale_spread).unsqueeze(-1),
            ),
            "log_outputscale",
        )

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: object) -> Tensor:
        """Covariance `... x B x n1 x n2` of inputs `... x B x n x (D + L)`."""
        D = self.columns.n_distance
        phi1, phi2 = (x[..., D:] * self.columns.slope.unsqueeze(-2) for x in (x1, x2))
        scale = torch.exp(-self.log_lengthscale)[..., self.columns.block]
        z1, z2 = (x[..., :D] * scale.unsqueeze(-2) for x in (x1, x2))
        variance = torch.exp(2.0 * self.log_outputscale)
        if diag:
            distance2 = (z1 - z2).square().sum(dim=-1)
            return (phi1 * phi2).sum(dim=-1) + variance * matern52(distance2)
        distance2 = (
            z1.square().sum(dim=-1, keepdim=True)
            + z2.square().sum(dim=-1).unsqueeze(-2)
            - 2.0 * z1 @ z2.mT
        )
        return phi1 @ phi2.mT + variance.unsqueeze(-1) * matern52(distance2)


def matern52(distance2: Tensor) -> Tensor:
    """Matérn correlation with ν = 5/2 of squared distances; smooth at zero."""
    r = math.sqrt(5.0) * distance2.clamp_min(1e-14).sqrt()
    return (1.0 + r + r.square() / 3.0) * torch.exp(-r)
