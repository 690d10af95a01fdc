"""Fitting the surrogate: evidence in standard units, what outputs share, hyper-parameters.

Notation as in `surrogate`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import gpytorch
import torch
from botorch.models import SingleTaskGP
from gpytorch.constraints import GreaterThan
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood
from gpytorch.mlls import ExactMarginalLogLikelihood
from linear_operator import LinearOperator
from linear_operator.operators import DiagLinearOperator
from linear_operator.utils.cholesky import psd_safe_cholesky
from torch import Tensor

from optuna_mde.gp import calibration
from optuna_mde.gp.accidents import pulled_in, weakly
from optuna_mde.gp.features import Features
from optuna_mde.gp.kernel import ResidualKernel
from optuna_mde.gp.priors import (
    SHARED,
    SHARED_MEAN,
    SHARED_TOLERANCE,
    WITH_MDE,
    columns_of,
    noise_of,
)
from optuna_mde.gp.process import ABSENT, Evidence, Process
from optuna_mde.gp.shared import SharedSlopes, shared_slopes
from optuna_mde.gp.surrogate import (
    Hyperparameters,
    Runs,
    Surrogate,
    known_to_mde,
    residual_correlation,
    stack_inputs,
)
from optuna_mde.gp.tails import HeavyTailed
from optuna_mde.gp.units import StandardUnits
from optuna_mde.gp.warp import far_above

_NOISE_FLOOR = 1e-6

# L-BFGS-B steps: more predict alike (`python -m benchmarks.prediction`, `benchmarks.worlds`).
_STEPS_WITH_MDE, _STEPS_WITHOUT = 12, 25

# Natural logarithms between which a fit may look for scales, in standard units: a line search that
# leaps to e^230 finds no covariance that can be factorised, and the fit would be lost.
_SCALES = (-6.0, 5.0)

# As a climb starts: noise and residual as shares of the variance that is left, length-scales
# without MDE as one of their medians (`python -m benchmarks.worlds`).
_NOISE_OF_THE_REST, _RESIDUAL_OF_THE_REST, _SHORT = 0.1, 0.5, 0.25

_LEAST_SPREAD = 1.0  # standard units that the half spread of an output's runs counts as at least


def fit(
    features: Features,
    runs: Runs,
    start: Hyperparameters | None = None,
    steps: int | None = None,
) -> Surrogate:
    """Fit the surrogate.

    Args:
        features: the lift of inputs.
        runs: finished runs; may be empty where every output has an MDE loss.
        start: what another fit has learned, to start from.
        steps: L-BFGS-B steps at most, by default as many as are of use; 0 keeps the starting
            hyper-parameters.

    Raises:
        botorch.exceptions.errors.ModelFittingError: if the fit comes upon a covariance that is not
            positive definite.
    """
    if steps is None:
        steps = _STEPS_WITHOUT if features.coreset is None else _STEPS_WITH_MDE
    Y, diverged = pulled_in(runs.Y)
    features = features.with_spread(_left(features, replace(runs, Y=Y)))
    units = StandardUnits.of(features, Y)
    if start is None:
        shared = _shared_slopes(features, replace(runs, Y=Y), units, diverged)
    else:
        shared = start.shared
    inputs, prior = stack_inputs(features, runs.X, shared, runs.corner)
    evidence = _evidence(features, inputs, units, Y, prior, diverged)
    kernel = ResidualKernel(columns_of(features, shared))
    prior_of_noise = noise_of(features)
    noise = prior_of_noise.median.exp()
    climbs = steps > 0 and len(runs.X) >= 2
    if start is None and climbs:
        noise = _begin(kernel, noise, shared)
    elif start is not None:
        with torch.no_grad():
            kernel.log_lengthscale.copy_(start.lengthscale)
            kernel.log_outputscale.copy_(start.outputscale)
            kernel.log_slopescale.copy_(start.slopescale)
            kernel.log_blend.copy_(start.blend)
        noise = start.noise.clone()
    if climbs:
        untold = torch.where(known_to_mde(features, runs), ABSENT, evidence.extra)
        others = replace(evidence, extra=untold)
        noise = _fit_hyperparameters(kernel, noise, prior_of_noise, others, steps)
    kernel.requires_grad_(False)
    if features.coreset is not None:
        kernel.expert_noise = noise
    process = Process(kernel, noise, evidence)
    present = evidence.present.double().sum(dim=-1)
    widening = calibration.of_the_posterior(features, present)
    correlation = residual_correlation(features, runs, process, widening)
    return Surrogate(features, runs, prior, units, process, shared, widening, correlation)


def _begin(kernel: ResidualKernel, noise: Tensor, shared: SharedSlopes | None) -> Tensor:
    """Where a climb starts; returns the noise `[M]`.

    With MDE, blends and the residual have most of what is left: from the prior's medians, when
    these are far below, a climb ends where no noise is; with half of the rest as noise it ends,
    after few runs, where nothing else is. Without MDE, from length-scales as long as their medians
    it takes a landscape for noise.
    """
    with torch.no_grad():
        if shared is None:
            kernel.log_lengthscale += math.log(_SHORT)
            return noise
        rest = math.log(shared.rest)
        kernel.log_outputscale.clamp_min_(rest + 0.5 * math.log(_RESIDUAL_OF_THE_REST))
        kernel.log_blend.clamp_min_(rest)
    return noise.clamp_min(_NOISE_OF_THE_REST * shared.rest**2)


def _left(features: Features, runs: Runs) -> Tensor:
    """Half spread `[M]` of what MDE leaves of the runs, nats per token; 0 where it has no say.

    Experts' files that are nearly the same would make a unit of next to nothing, of which the
    noise of a run were hundreds, where priors hold it to be a twentieth.
    """
    if features.coreset is None or len(runs.X) == 0:
        return torch.zeros(len(features.outputs), dtype=torch.float64)
    left = runs.Y - features.lift(runs.X)[-1]
    left = torch.where(known_to_mde(features, runs).mT | ~left.isfinite(), torch.nan, left)
    # below the median: a broken run is above it
    low, middle = left.nanquantile(left.new_tensor([0.16, 0.5]), dim=0)
    return (middle - low).nan_to_num(nan=0.0)


def _evidence(
    features: Features,
    inputs: Tensor,
    units: StandardUnits,
    Y: Tensor,
    prior: Tensor,
    diverged: Tensor,
) -> Evidence:
    targets, extra = winsorise(features, units.standard(Y, prior))  # [n, M]
    extra = extra + weakly(targets, diverged)
    there = units.unit(units.losses(targets, prior))
    share = (units.central / there).square()
    present = targets.isfinite()
    return Evidence(
        inputs,
        torch.where(present, targets, 0.0).mT.contiguous(),
        torch.where(present, share, 1.0).mT.contiguous(),
        torch.where(present, extra, ABSENT).mT.contiguous(),
    )


def _shared_slopes(
    features: Features, runs: Runs, units: StandardUnits, diverged: Tensor
) -> SharedSlopes | None:
    """What all outputs have in common of the coefficients; None without MDE losses."""
    if features.coreset is None:
        return None
    _, phi, prior = features.lift(runs.X)
    targets, doubt = winsorise(features, units.standard(runs.Y, prior))
    told = features.has_mde & features.known_whole
    used = targets.isfinite() & (doubt == 0.0) & told & ~diverged.unsqueeze(-1)
    per = (features.units / units.scale.unsqueeze(-1)).nan_to_num(nan=0.0)
    own = torch.tensor(WITH_MDE, dtype=torch.float64)
    own_sd = torch.where(per > 0, own / per.clamp_min(1e-12), 0.0)
    mean, sd = torch.tensor([SHARED_MEAN, SHARED], dtype=torch.float64)
    return shared_slopes(phi * per, targets, used.double(), mean, sd, own_sd, SHARED_TOLERANCE)


def winsorise(features: Features, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Pull in single losses that are far above those of the other runs.

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
        values = column[column.isfinite()]
        if len(values) == 0:
            targets[:, i] = torch.nan
            continue
        middle, high = values.median(), far_above(values, least=_LEAST_SPREAD)
        if features.has_mde[i]:
            # It may tell of its neighbourhood, but weakly.
            doubt[:, i] = torch.where(column > high, (high - middle).square(), 0.0)
        targets[:, i] = torch.where(column.isnan(), column, column.clamp_max(high))
    return targets, doubt


def _fit_hyperparameters(
    kernel: ResidualKernel,
    noise: Tensor,
    prior_of_noise: HeavyTailed,
    evidence: Evidence,
    steps: int,
) -> Tensor:
    """Maximise the posterior of the kernel's parameters in place; returns the noise `[M]`."""
    from botorch.fit import fit_gpytorch_mll
    from botorch.optim.closures import get_loss_closure_with_grads
    from botorch.optim.utils import get_parameters
    from gpytorch.means import ZeroMean

    batch = torch.Size([len(noise)])
    likelihood = SeedNoise(evidence)
    likelihood.second_noise = noise.unsqueeze(-1)
    likelihood.register_prior(
        "noise_prior", prior_of_noise, lambda known: known.second_noise.squeeze(-1).log()
    )
    model = DenseGP(
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
            "bounds": {
                "model.covar_module.log_outputscale": _SCALES,
                "model.covar_module.log_slopescale": _SCALES,
                "model.covar_module.log_blend": _SCALES,
            },
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

    @property
    def variances(self) -> Tensor:
        """Noise variances `M x n` of the runs."""
        return self.noise_covar.noise + self.share * self.second_noise

    def _shaped_noise_covar(self, *args: Any, **kwargs: Any) -> LinearOperator:
        return DiagLinearOperator(self.variances)


class DenseGP(SingleTaskGP):
    """BoTorch's model, which answers a fit with the covariance `M x n x n` of its runs.

    GPyTorch's distributions ask torch for the common shape of two tensors, for which it loads
    SymPy: a second, and 35 MB, of a process's first ask.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Covariance of inputs `M x n x C`, noise not included."""
        covariance: Tensor = self.covar_module.forward(x, x)
        return covariance


class DenseMarginalLogLikelihood(ExactMarginalLogLikelihood):
    """GPyTorch's, of mean 0, by one Cholesky factor of a dense covariance.

    At a hundred runs most of GPyTorch's time goes into its lazy operators and their derivatives.
    """

    def forward(self, covariance: Tensor, target: Tensor, *params: Any, **kwargs: Any) -> Tensor:
        """Log marginal likelihood `batch_shape` and log priors, per run."""
        noise = torch.diag_embed(self.likelihood.variances)
        density = log_density(target, covariance + noise)
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
