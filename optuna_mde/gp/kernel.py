"""The covariance of what MDE leaves unexplained, and the priors of its hyper-parameters.

Notation: a batch of B Gaussian processes over inputs ``Z = [z, φ, e, a]`` `B x n x C`, C = D + L +
K + 1: ``z`` are the columns that distances are taken in, ``φ`` regressors with Gaussian
coefficients, ``e`` the rates, ``a`` the relative sd of the residual there:

``k(Z, Z') = φᵀ (ω² S² + R Rᵀ) φ' + σ² eᵀe' + ψ² Σ_{j<k} 4 e_j e_k 4 e'_j e'_k
+ o² a a' M(|z - z'| / ℓ) + ρ² M(|z - z'| / r)``

with M the Matérn correlation, ν = 5/2. ``S`` (diagonal) and ω are an output's own departures from
what all share, ``R Rᵀ`` the doubt that is left of what they share, σ² the noise of an expert's
seed, which its MDE loss holds. ψ is what blending two domains gains or costs: the terms of second
order of the polynomial of mixtures [Scheffé 1958], 0 at the corners.

Columns of ``z`` fall into blocks that share one length-scale. Integrating the
coefficients out (rather than fitting them) keeps their uncertainty in the
intervals, which matters when runs are few. So does the rough part, which is
fixed: without it the long length-scales that few runs suggest are believed too
readily.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from gpytorch.kernels import Kernel
from gpytorch.priors import NormalPrior, Prior
from torch import Tensor, nn


@dataclass(frozen=True)
class Columns:
    """What each column of ``Z`` is, and what is believed of it before any run.

    Args:
        block: `[D]` index of the length-scale block of each distance column.
        lengthscale: `B x J` prior medians, one for each block.
        lengthscale_spread: `B x J` sd of the logarithm of each length-scale.
        outputscale: `[B]` prior median of the residual's sd where ``a`` is 1, in standard units.
        outputscale_prior: of its logarithm.
        slope: `B x L` usual sd of the regressors' coefficients; 0 switches one off.
        slope_prior: of the logarithm of a factor `[B]` of them.
        shared: `B x L x L` root R of the covariance of what all outputs share of the coefficients.
        rates: number K of the columns of rates.
        expert_noise: `[B]` prior medians of σ²; 0 without experts.
        blend: `[B]` prior medians of ψ.
        blend_prior: of its logarithm.
        rough: sd ρ of the rough part, in standardised units; 0 switches it off.
        rough_lengthscale: its length-scale r, the same for all columns.
    """

    block: Tensor
    lengthscale: Tensor
    lengthscale_spread: Tensor
    outputscale: Tensor
    outputscale_prior: Prior
    slope: Tensor
    slope_prior: Prior
    shared: Tensor
    rates: int
    expert_noise: Tensor
    blend: Tensor
    blend_prior: Prior
    rough: float
    rough_lengthscale: float

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
        self.expert_noise = columns.expert_noise
        self.register_parameter("log_lengthscale", nn.Parameter(columns.lengthscale.log().clone()))
        self.register_parameter(
            "log_outputscale", nn.Parameter(columns.outputscale.log().unsqueeze(-1))
        )
        self.register_prior(
            "lengthscale_prior",
            NormalPrior(columns.lengthscale.log(), columns.lengthscale_spread),
            "log_lengthscale",
        )
        self.register_parameter(
            "log_slopescale", nn.Parameter(torch.zeros_like(columns.outputscale).unsqueeze(-1))
        )
        self.register_parameter("log_blend", nn.Parameter(columns.blend.log().unsqueeze(-1)))
        self.register_prior(
            "blend_prior", columns.blend_prior, lambda kernel: kernel.log_blend.squeeze(-1)
        )
        self.register_prior(
            "outputscale_prior",
            columns.outputscale_prior,
            lambda kernel: kernel.log_outputscale.squeeze(-1),
        )
        self.register_prior(
            "slope_prior", columns.slope_prior, lambda kernel: kernel.log_slopescale.squeeze(-1)
        )

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: object) -> Tensor:
        """Covariance `... x B x n1 x n2` of inputs `... x B x n x C`."""
        first = self.scale(x1)
        second = first if x2 is x1 else self.scale(x2)
        if diag:
            r2 = (first.z - second.z).square().sum(dim=-1)
            linear = (first.phi * second.phi).sum(dim=-1)
            both = first.rates * second.rates
            blends = _pairs(both.sum(dim=-1), both.square().sum(dim=-1))
            smooth = first.residual * second.residual * matern52(r2)
            rough = matern52((first.raw - second.raw).square().sum(dim=-1))
            return linear + blends + smooth + self.columns.rough**2 * rough
        return self.covariance(first, second)

    def scale(self, x: Tensor) -> Scaled:
        """Inputs `... x B x n x C` in units of the hyper-parameters."""
        D, L = self.columns.n_distance, self.columns.slope.shape[-1]
        scale = math.sqrt(5.0) * torch.exp(-self.log_lengthscale)[..., self.columns.block]
        z = x[..., :D] * scale.unsqueeze(-2)
        raw = x[..., :1, :, :D] * (math.sqrt(5.0) / self.columns.rough_lengthscale)
        phi, rates = x[..., D : D + L], x[..., D + L : -1]
        blended = rates * (0.5 * self.log_blend).exp().unsqueeze(-1)
        own = phi * (self.columns.slope * self.log_slopescale.exp()).unsqueeze(-2)
        seeds = rates * self.expert_noise.sqrt()[:, None, None]
        linear = torch.cat([own, phi @ self.columns.shared, seeds], dim=-1)
        return Scaled(z, raw, linear, blended, x[..., -1] * self.log_outputscale.exp())

    def covariance(self, first: Scaled, second: Scaled) -> Tensor:
        """Covariance `... x B x n1 x n2` of scaled inputs."""
        smooth = matern52(squared_distances(first.z, second.z))
        smooth = first.residual.unsqueeze(-1) * smooth * second.residual.unsqueeze(-2)
        alone = first.rates.square() @ second.rates.square().mT
        blends = _pairs(first.rates @ second.rates.mT, alone)
        covariance = first.phi @ second.phi.mT + blends + smooth
        if self.columns.rough == 0.0:
            return covariance
        rough = matern52(squared_distances(first.raw, second.raw))
        return covariance + self.columns.rough**2 * rough

    def variance(self, x: Scaled) -> Tensor:
        """Prior variance `... x B x n` of scaled inputs."""
        squares = x.rates.square()
        blends = _pairs(squares.sum(dim=-1), squares.square().sum(dim=-1))
        return x.phi.square().sum(dim=-1) + blends + x.residual.square() + self.columns.rough**2


@dataclass(frozen=True)
class Scaled:
    """Inputs of the kernel, ready for products.

    Args:
        z: `... x B x n x D` distance columns in units of ``ℓ / sqrt 5``.
        raw: `... x 1 x n x D` the same in units of ``r / sqrt 5``; all processes have one.
        phi: `... x B x n x (2 L + K)` linear columns times the sd of their coefficients.
        rates: `... x B x n x K` rates times the root of ψ.
        residual: `... x B x n` sd of the residual.
    """

    z: Tensor
    raw: Tensor
    phi: Tensor
    rates: Tensor
    residual: Tensor


def _pairs(together: Tensor, alone: Tensor) -> Tensor:
    """``Σ_{j<k} 4a_j a_k 4b_j b_k`` of ``aᵀb`` and ``Σ a_j² b_j²``: each is 1 at an even blend."""
    return 8.0 * (together.square() - alone)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squares `... x n1 x n2` of the distances between rows of `... x n x D`."""
    norms = [x.square().sum(dim=-1, keepdim=True) for x in (a, b)]
    return norms[0] + norms[1].mT - 2.0 * a @ b.mT


def matern52(r2: Tensor) -> Tensor:
    """Matérn correlation ``(1 + r + r²/3) exp(-r)``, ν = 5/2, of squares r² = 5 |z - z'|² / ℓ²."""
    correlation: Tensor = _Matern52.apply(r2)
    return correlation


class _Matern52(torch.autograd.Function):
    """One step with its own derivative: half the time of a fit went into the single operations."""

    @staticmethod
    def forward(ctx: Any, r2: Tensor) -> Tensor:
        r = r2.clamp_min(0.0).sqrt_()
        decay = torch.exp(-r)
        slope = (r + 1.0).mul_(decay)
        ctx.save_for_backward(slope)
        return r.square_().mul_(decay).div_(3.0).add_(slope)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (slope,) = ctx.saved_tensors
        return gradients[0] * slope.div(-6.0)
