"""Fitting the surrogate: standard units, diverged runs, hyper-parameters.

Notation as in `surrogate`. Targets are in standard units, ``(Y - prior - centre) / scale`` with Y
as it is modelled (`warp`).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import gpytorch
import torch
from gpytorch.constraints import GreaterThan
from gpytorch.distributions import MultivariateNormal
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import MultivariateNormalPrior
from linear_operator import LinearOperator
from linear_operator.operators import DiagLinearOperator
from linear_operator.utils.cholesky import psd_safe_cholesky
from torch import Tensor

from optuna_mde.gp.features import Features
from optuna_mde.gp.kernel import ResidualKernel
from optuna_mde.gp.priors import SHARED, SHARED_MEAN, SHARED_TOLERANCE, columns_of, noise_of
from optuna_mde.gp.surrogate import ABSENT, Evidence, Runs, Surrogate, known_to_mde, stack_inputs
from optuna_mde.gp.warp import Warp, far_above

_NOISE_FLOOR = 1e-6

_ACCIDENT = 1.0  # an error of MDE, in spreads over mixtures, that only a broken run makes

# 20, 30, 60 predict alike (two recordings, 12 to 32 runs, 4 splits); 60 cost half as much again.
_FIT_STEPS = 25

# Natural logarithms between which a fit may look for the residual's sd, in standard units: a line
# search that leaps to e^230 finds no covariance that can be factorised, and the fit would be lost.
_OUTPUTSCALES = (-6.0, 5.0)


def fit(
    features: Features, runs: Runs, start: dict[str, Tensor] | None = None, steps: int = _FIT_STEPS
) -> Surrogate:
    """Fit the surrogate.

    Args:
        features: the lift of inputs.
        runs: finished runs; may be empty where every output has an MDE loss.
        start: hyper-parameters of another fit to start from.
        steps: L-BFGS-B steps at most; 0 keeps the starting hyper-parameters.

    Raises:
        botorch.exceptions.errors.ModelFittingError: if the fit comes upon a covariance that is not
            positive definite.
    """
    warp = Warp.of(runs.Y, ~features.has_mde)
    # -inf is no better than NaN
    modelled = replace(runs, Y=warp.latent(torch.where(runs.Y.isneginf(), torch.nan, runs.Y)))
    centre, scale = standards(features, modelled)
    shared = _shared_slopes(features, modelled, scale) if start is None else start["shared"]
    inputs, prior = stack_inputs(features, runs.X, shared)
    prior = prior + centre
    targets, extra = winsorise(features, (modelled.Y - prior) / scale)  # [n, M]
    present = targets.isfinite()
    slopes = [warp.slope(warp.losses(level)) for level in (centre, prior + targets * scale)]
    share = (slopes[0] / slopes[1]).square()
    evidence = Evidence(
        inputs,
        torch.where(present, targets, 0.0).mT.contiguous(),
        torch.where(present, share, 1.0).mT.contiguous(),
        torch.where(present, extra, ABSENT).mT.contiguous(),
    )
    kernel = ResidualKernel(columns_of(features))
    median_noise, spread_of_noise = noise_of(features)
    noise = median_noise
    if start is not None:
        with torch.no_grad():
            kernel.log_lengthscale.copy_(start["log_lengthscale"])
            kernel.log_outputscale.copy_(start["log_outputscale"])
        noise = start["noise"].clone()
    if steps > 0 and len(runs.X) >= 2:
        # GPyTorch adds a prior to the likelihood of each output: all of them together once.
        prior_of_noise = MultivariateNormalPrior(
            median_noise.log(), len(median_noise) * spread_of_noise
        )
        untold = torch.where(known_to_mde(features, runs), ABSENT, evidence.extra)
        others = replace(evidence, extra=untold)
        noise = _fit_hyperparameters(kernel, noise, prior_of_noise, others, steps)
    kernel.requires_grad_(False)
    return Surrogate(features, runs, evidence, kernel, noise, shared, prior, centre, scale, warp)


def _shared_slopes(features: Features, runs: Runs, scale: Tensor) -> Tensor:
    """Coefficients `[L]` that all outputs have in common, nats per token.

    What dilution costs, or how far MDE is off, is much the same for every validation set: with six
    runs the outputs together say it, where each alone cannot. A ridge regression over runs and
    outputs; each output departs from it within `priors.WITH_MDE`.
    """
    _, phi, prior = features.lift(runs.X)
    targets, doubt = winsorise(features, (runs.Y - prior) / scale)
    used = targets.isfinite() & (doubt == 0.0) & features.has_mde
    mean, sd = torch.tensor([SHARED_MEAN, SHARED], dtype=torch.float64)
    A = (phi * features.units / scale.unsqueeze(-1))[used] / SHARED_TOLERANCE  # [r, L]
    rest = targets[used] / SHARED_TOLERANCE - A @ mean
    return mean + torch.linalg.solve(A.mT @ A + torch.diag(sd**-2), A.mT @ rest)


def standards(features: Features, runs: Runs) -> tuple[Tensor, Tensor]:
    """Centre and scale `[M]` of each output's residual: MDE's own spread, else the data's."""
    M = len(features.outputs)
    centre = torch.zeros(M, dtype=torch.float64)
    scale = features.scale.clone()
    for i in range(M):
        if features.has_mde[i]:
            continue
        values = runs.Y[:, i][runs.Y[:, i].isfinite()]
        if len(values) == 0:
            scale[i] = 1.0
            continue
        centre[i] = values.median()
        low, high = torch.quantile(values, torch.tensor([0.16, 0.84], dtype=torch.float64))
        # Half the central range resists diverged runs; the sd serves where the range is empty.
        spread = float(high - low) / 2.0 or float(values.std(correction=0))
        scale[i] = spread if spread > 0 else 1.0
    return centre, scale


def winsorise(features: Features, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Pull diverged runs in: one loss of 11 nats would cost every prediction a factor of twenty.

    Args:
        features: tell which outputs have an MDE loss.
        targets: `[n, M]` losses in standard units.

    Returns:
        Targets `[n, M]`, and the noise variance `[n, M]` that is added to what was pulled in.
    """
    targets = targets.clone()
    doubt = torch.zeros_like(targets)
    for i in range(targets.shape[1]):
        column = targets[:, i]
        if features.has_mde[i]:
            # MDE is never wrong by this share of the whole spread: such a loss is an accident,
            # which may tell of its neighbourhood, but weakly.
            high = torch.tensor(_ACCIDENT, dtype=torch.float64)
            doubt[:, i] = torch.where(column > high, _ACCIDENT**2, 0.0)
        else:
            values = column[column.isfinite()]
            if len(values) == 0:
                targets[:, i] = torch.nan
                continue
            high = far_above(values, least=1.0)
        targets[:, i] = torch.where(column.isnan(), column, column.clamp_max(high))
    return targets, doubt


def _fit_hyperparameters(
    kernel: ResidualKernel,
    noise: Tensor,
    prior_of_noise: MultivariateNormalPrior,
    evidence: Evidence,
    steps: int,
) -> Tensor:
    """Maximise the posterior of the kernel's parameters in place; returns the noise `[M]`."""
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from botorch.optim.closures import get_loss_closure_with_grads
    from botorch.optim.utils import get_parameters
    from gpytorch.means import ZeroMean

    batch = torch.Size([len(noise)])
    likelihood = SeedNoise(evidence)
    likelihood.second_noise = noise.unsqueeze(-1)
    likelihood.register_prior(
        "noise_prior", prior_of_noise, lambda known: known.second_noise.squeeze(-1).log()
    )
    model = SingleTaskGP(
        evidence.inputs,
        evidence.targets.unsqueeze(-1),
        likelihood=likelihood,
        covar_module=kernel,
        mean_module=ZeroMean(batch_shape=batch),
        outcome_transform=None,
    )
    marginal = DenseMarginalLogLikelihood(likelihood, model).train()
    parameters = get_parameters(marginal, requires_grad=True)
    fit_gpytorch_mll(
        marginal,
        # With a closure of ours BoTorch climbs the sum over outputs. Else it climbs each alone by
        # slopes of the sum, in which what they have in common counts for more than in the values.
        closure=get_loss_closure_with_grads(marginal, parameters),
        optimizer_kwargs={
            "bounds": {"model.covar_module.log_outputscale": _OUTPUTSCALES},
            "options": {"maxiter": steps},
        },
        # However the climb ends, it has not gone down; and BoTorch starts a second attempt from a
        # draw of the priors, which that of the noise does not allow.
        warning_handler=lambda _: True,
        max_attempts=1,
    )
    return likelihood.second_noise.detach().squeeze(-1)


class SeedNoise(FixedNoiseGaussianLikelihood):
    """Learned noise that differs between runs by a known factor, and known noise beside it."""

    def __init__(self, evidence: Evidence) -> None:
        with gpytorch.settings.min_fixed_noise(double_value=0.0):  # the learned noise comes on top
            super().__init__(
                noise=evidence.extra,
                learn_additional_noise=True,
                batch_shape=evidence.extra.shape[:1],
                noise_constraint=GreaterThan(_NOISE_FLOOR),
            )
        self.double()
        self.share = evidence.share

    def _shaped_noise_covar(self, *args: Any, **kwargs: Any) -> LinearOperator:
        return DiagLinearOperator(self.noise_covar.noise + self.share * self.second_noise)


class DenseMarginalLogLikelihood(ExactMarginalLogLikelihood):
    """GPyTorch's, by one Cholesky factor of a dense covariance.

    At a hundred runs most of GPyTorch's time goes into its lazy operators and their derivatives:
    .71 and .42 s for a fit of 11 outputs to 96 runs, with the same hyper-parameters to 1e-9.
    """

    def forward(
        self, function_dist: MultivariateNormal, target: Tensor, *params: Any, **kwargs: Any
    ) -> Tensor:
        """Log marginal likelihood `batch_shape` and log priors, per run."""
        output = self.likelihood(function_dist, *params, **kwargs)
        covariance = output.lazy_covariance_matrix.to_dense()
        density = log_density(target - output.mean, covariance)
        return self._add_other_terms(density, params) / target.shape[-1]


def log_density(residual: Tensor, covariance: Tensor) -> Tensor:
    """Log-density `batch_shape` of `batch_shape x n` under N(0, `batch_shape x n x n`)."""
    value: Tensor = _LogDensity.apply(residual, covariance)
    return value


class _LogDensity(torch.autograd.Function):
    """Its derivative is (α αᵀ - C⁻¹) / 2 with α = C⁻¹ r [Rasmussen and Williams 2006, eq. 5.9]."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, covariance: Tensor) -> Tensor:
        cholesky = psd_safe_cholesky(covariance)
        alpha = torch.cholesky_solve(residual.unsqueeze(-1), cholesky)
        ctx.save_for_backward(cholesky, alpha)
        fit = (alpha.squeeze(-1) * residual).sum(dim=-1)
        volume = 2.0 * cholesky.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
        return -0.5 * (fit + volume + residual.shape[-1] * math.log(2.0 * math.pi))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        cholesky, alpha = ctx.saved_tensors
        (gradient,) = gradients
        slope = alpha @ alpha.mT - torch.cholesky_inverse(cholesky)
        return -gradient[..., None] * alpha.squeeze(-1), 0.5 * gradient[..., None, None] * slope
