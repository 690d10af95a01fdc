"""The surrogate: a Gaussian process for every validation set, around its MDE loss.

Notation: ``X`` `[n, d]` inputs, ``Y`` `[n, M]` losses (nats per token, minimised, NaN where a
run lacks a set), ``f_i = prior_i + scale_i · g_i`` with ``g_i`` a GP in standardised units. Each
output is modelled in up to two *forms*:

* **mean**: MDE is the mean, corrected by an offset, a slope and a learned exponent of the rates,
  plus a residual over the rates. An expert's loss *is* its MDE value, noise included, so corners
  teach this form nothing and are left out of it.
* **kernel**: the residual also lives over all MDE losses, and corners are data.

The mean form is safer with few runs, the kernel form better with more; they are mixed by the
evidence of leave-one-out prediction. The engine is BoTorch's `SingleTaskGP`, all outputs and forms
in one batch of ``B = forms x M``. Without experts there is one form, over the rates alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from optuna_mde.features import Features
from optuna_mde.forms import Form, forms_for, layout
from optuna_mde.kernel import ResidualKernel

# A run that lacks an output (or a corner, for the mean form) stays in the batch with this noise
# variance in standardised units, which is to say that it is not there.
_ABSENT = 1e6

# Prior of the seed noise: median sd .05 of the spread over mixtures, within a factor of e.
_NOISE_MEDIAN, _NOISE_SPREAD = 2.5e-3, 1.0
_NOISE_FLOOR = 1e-6
_BELIEVED = 1e-6  # noise variance of a pending run that counts at its predicted value

_FIT_STEPS = 50

# Correlation of residuals across validation sets: that of the leave-one-out residuals, shrunk
# to this value with the weight of this many runs.
_PRIOR_CORRELATION, _PRIOR_RUNS = 0.3, 10.0

# Fewer runs than this say nothing about which form is better.
_RUNS_FOR_EVIDENCE = 4


@dataclass(frozen=True)
class Runs:
    """Finished runs, as arrays.

    Args:
        X: `[n, d]` inputs, float64.
        Y: `[n, M]` losses, nats per token, NaN where absent.
        corner: `[n]` true for experts, whose losses the MDE table already holds.
    """

    X: Tensor
    Y: Tensor
    corner: Tensor


class Surrogate:
    """Posterior of every output, see the module's text. Made by `fit`."""

    def __init__(
        self,
        features: Features,
        forms: tuple[Form, ...],
        kernel: ResidualKernel,
        noise: Tensor,
        inputs: Tensor,
        targets: Tensor,
        extra: Tensor,
        centre: Tensor,
        scale: Tensor,
    ) -> None:
        self.features = features
        self.forms = forms
        self.centre, self.scale = centre, scale  # [M]
        self._kernel, self._noise = kernel, noise  # noise: [B]
        self._inputs, self._targets, self._extra = (
            inputs,
            targets,
            extra,
        )  # [B, n, D+L], [B, n] x 2
        with torch.no_grad():
            covariance = kernel.forward(inputs, inputs)
            covariance = covariance + torch.diag_embed(extra + noise.unsqueeze(-1))
            self._cholesky = psd_cholesky(covariance)
            self._alpha = torch.cholesky_solve(targets.unsqueeze(-1), self._cholesky).squeeze(-1)
        self._weights = self._evidence()  # [F, M]
        self.correlation = self._residual_correlation()  # [M, M]

    @property
    def noise_sd(self) -> Tensor:
        """`[M]` sd of a single run's loss around the noise-free one, nats per token."""
        variance = self._noise.reshape(len(self.forms), -1)
        return (self._weights * variance).sum(dim=0).sqrt() * self.scale

    def posterior(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Noise-free losses.

        Args:
            X: `n x d` inputs, float64; differentiable.

        Returns:
            mean and sd, both `n x M`, nats per token.
        """
        inputs, prior = stack_inputs(self.features, X, len(self.forms))
        cross = self._kernel.forward(inputs, self._inputs)  # [B, b, n]
        mean = (cross @ self._alpha.unsqueeze(-1)).squeeze(-1)
        solved = torch.linalg.solve_triangular(self._cholesky, cross.mT, upper=False)
        variance = self._kernel.forward(inputs, inputs, diag=True) - solved.square().sum(dim=-2)
        mean, variance = self._combine(mean, variance.clamp_min(1e-12))
        return prior + self.centre + mean.mT * self.scale, variance.mT.sqrt() * self.scale

    def goals(self, X: Tensor, W: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted sums of the noise-free losses, residuals of sets being correlated.

        Args:
            X: `n x d` inputs.
            W: `G x M` weights.

        Returns:
            mean and sd, both `n x G`.
        """
        mean, sd = self.posterior(X)
        return mean @ W.mT, self.spread(sd, W)

    def joint_goals(self, X: Tensor, W: Tensor) -> tuple[Tensor, Tensor]:
        """Joint posterior of weighted sums over several points.

        Args:
            X: `b x q x d` inputs.
            W: `G x M` weights.

        Returns:
            mean `b x q x G` and covariance over the points `b x G x q x q`. Correlation across
            outputs enters as one factor for each goal, that of its variance at the first point.
        """
        shape = X.shape[:-2]
        X = X.reshape(-1, *X.shape[-2:])
        b, q, d = X.shape
        F, M = len(self.forms), W.shape[1]
        mean, sd = self.posterior(X.reshape(b * q, d))
        inputs, _ = stack_inputs(self.features, X.reshape(b * q, d), F)
        B, n = inputs.shape[0], self._inputs.shape[-2]
        cross = self._kernel.forward(inputs, self._inputs)
        solved = torch.linalg.solve_triangular(self._cholesky, cross.mT, upper=False)
        solved = solved.reshape(B, n, b, q).permute(2, 0, 3, 1)  # [b, B, q, n]
        points = inputs.reshape(B, b, q, -1).transpose(0, 1)
        covariance = self._kernel.forward(points, points) - solved @ solved.mT  # [b, B, q, q]
        covariance = covariance.reshape(b, F, M, q, q)
        covariance = (covariance * self._weights[:, :, None, None]).sum(dim=1)  # [b, M, q, q]
        covariance = covariance * self.scale.square()[:, None, None]
        goals = torch.einsum("gm,bmqr->bgqr", W.square(), covariance)
        alone = (sd.square() @ W.square().mT).clamp_min(1e-24)
        factor = (self.spread(sd, W).square() / alone).reshape(b, q, -1)[:, 0]  # [b, G]
        goals = goals * factor[..., None, None]
        mean = (mean @ W.mT).reshape(*shape, q, -1)
        return mean, goals.reshape(*shape, *goals.shape[1:])

    def spread(self, sd: Tensor, W: Tensor) -> Tensor:
        """Sd `[n, G]` of weighted sums of outputs with sd `[n, M]`."""
        weighted = sd.unsqueeze(-2) * W  # [n, G, M]
        return ((weighted @ self.correlation) * weighted).sum(dim=-1).clamp_min(1e-24).sqrt()

    def believe(self, X: Tensor) -> Surrogate:
        """The surrogate as if runs at ``X`` `[p, d]` had ended at their predicted losses."""
        if len(X) == 0:
            return self
        with torch.no_grad():
            inputs, _ = stack_inputs(self.features, X, len(self.forms))
            cross = self._kernel.forward(inputs, self._inputs)
            means = (cross @ self._alpha.unsqueeze(-1)).squeeze(-1)  # [B, p], every form its own
            believed = (_BELIEVED - self._noise).unsqueeze(-1).expand_as(means)
            other = Surrogate.__new__(Surrogate)
            other.__dict__.update(self.__dict__)
            other._inputs = torch.cat([self._inputs, inputs], dim=-2)
            other._targets = torch.cat([self._targets, means], dim=-1)
            other._extra = torch.cat([self._extra, believed], dim=-1)
            covariance = self._kernel.forward(other._inputs, other._inputs)
            covariance = covariance + torch.diag_embed(other._extra + self._noise.unsqueeze(-1))
            other._cholesky = psd_cholesky(covariance)
            other._alpha = torch.cholesky_solve(
                other._targets.unsqueeze(-1), other._cholesky
            ).squeeze(-1)
        return other

    def leave_one_out(self) -> tuple[Tensor, Tensor]:
        """Prediction of every run from all the others, hyper-parameters held (Rasmussen and
        Williams 2006, eq. 5.12).

        Returns:
            mean and sd (noise included), both `n x M`, nats per token, relative to the prior and
            centre for means: ``Y - prior - centre`` is what they predict. Where an output was
            absent they are plain predictions.
        """
        mean, variance = self._leave_one_out()
        mean, variance = self._combine(mean, variance)
        return mean.mT * self.scale, variance.mT.sqrt() * self.scale

    def state(self) -> dict[str, Tensor]:
        """Hyper-parameters, for a warm start of the next fit."""
        return {
            "log_lengthscale": self._kernel.log_lengthscale.detach().clone(),
            "log_outputscale": self._kernel.log_outputscale.detach().clone(),
            "noise": self._noise.detach().clone(),
        }

    def _combine(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Moments `[B, b]` of the forms to those of their mixture, `[M, b]`."""
        F = len(self.forms)
        mean, variance = (t.reshape(F, -1, t.shape[-1]) for t in (mean, variance))
        w = self._weights.unsqueeze(-1)
        centre = (w * mean).sum(dim=0)
        return centre, (w * (variance + (mean - centre).square())).sum(dim=0)

    def _leave_one_out(self) -> tuple[Tensor, Tensor]:
        inverse = torch.cholesky_inverse(self._cholesky).diagonal(dim1=-2, dim2=-1)  # [B, n]
        variance = 1.0 / inverse - self._extra * (self._extra < _ABSENT)
        # A run that is absent from an output has its huge noise in `1 / inverse`.
        absent = self._extra >= _ABSENT
        variance = torch.where(absent, 1.0 / inverse - self._extra, variance).clamp_min(1e-12)
        return self._targets - self._alpha / inverse, variance

    def _evidence(self) -> Tensor:
        F, B = len(self.forms), len(self._noise)
        if F == 1:
            return torch.ones(1, B, dtype=torch.float64)
        mean, variance = self._leave_one_out()
        # Judge all forms on the runs that every one of them learns from.
        shared = (self._extra.reshape(F, B // F, -1) < _ABSENT).all(dim=0)
        error2 = (self._targets - mean).square().reshape(F, B // F, -1)
        spread2 = variance.reshape(F, B // F, -1)
        density = -0.5 * (error2 / spread2 + spread2.log())
        n = shared.sum(dim=-1)
        own = torch.where(shared, density, 0.0).sum(dim=-1)  # [F, M]
        # Outputs see the same runs, so that their evidence is shared, not independent.
        log_weight = 0.5 * (own + own.mean(dim=-1, keepdim=True))
        log_weight = torch.where(n >= _RUNS_FOR_EVIDENCE, log_weight, 0.0)
        return torch.softmax(log_weight, dim=0)

    def _residual_correlation(self) -> Tensor:
        M = len(self.features.outputs)
        prior = torch.full((M, M), _PRIOR_CORRELATION, dtype=torch.float64)
        prior.fill_diagonal_(1.0)
        mean, variance = self._leave_one_out()
        present = (self._extra < _ABSENT).reshape(len(self.forms), M, -1).all(dim=0)  # [M, n]
        error, variance = self._combine(self._targets - mean, variance)
        standard = torch.where(present, error / variance.sqrt(), 0.0)
        standard = standard.clamp(-3.0, 3.0)
        both = present.double() @ present.double().mT  # [M, M] runs that have both outputs
        size = (standard.square() @ present.double().mT).clamp_min(1e-12)
        correlation = (standard @ standard.mT) / (size * size.mT).sqrt()
        mixed = (both * correlation + _PRIOR_RUNS * prior) / (both + _PRIOR_RUNS)
        mixed.fill_diagonal_(1.0)
        return mixed


def fit(
    features: Features, runs: Runs, warm: dict[str, Tensor] | None = None, steps: int = _FIT_STEPS
) -> Surrogate:
    """Fit the surrogate.

    Args:
        features: the lift of inputs.
        runs: finished runs; may be empty where every output has an MDE loss.
        warm: hyper-parameters of an earlier fit to start from.
        steps: L-BFGS-B steps at most; 0 keeps the starting hyper-parameters.

    Raises:
        botorch.exceptions.errors.ModelFittingError: if no attempt ends in a positive definite
            covariance.
    """
    forms = forms_for(features)
    M = len(features.outputs)
    centre, scale = standards(features, runs)
    inputs, prior = stack_inputs(features, runs.X, len(forms))
    targets = (winsorise(features, runs, prior, scale) - prior - centre) / scale  # [n, M]
    present = targets.isfinite()
    targets = torch.where(present, targets, 0.0)
    extra = torch.stack(
        [
            torch.where(present & (form.uses_corners | ~runs.corner.unsqueeze(-1)), 0.0, _ABSENT)
            for form in forms
        ]
    )  # [F, n, M]
    extra = extra.permute(0, 2, 1).reshape(len(forms) * M, -1)
    targets = targets.mT.repeat(len(forms), 1)
    kernel = ResidualKernel(layout(features, forms))
    noise = torch.full((len(forms) * M,), _NOISE_MEDIAN, dtype=torch.float64)
    if warm is not None and warm["log_lengthscale"].shape == kernel.log_lengthscale.shape:
        with torch.no_grad():
            kernel.log_lengthscale.copy_(warm["log_lengthscale"])
            kernel.log_outputscale.copy_(warm["log_outputscale"])
            noise = warm["noise"].clone()
    if steps > 0 and len(runs.X) >= 2:
        noise = _fit_hyperparameters(kernel, noise, inputs, targets, extra, steps)
    kernel.requires_grad_(False)
    return Surrogate(features, forms, kernel, noise, inputs, targets, extra, centre, scale)


def stack_inputs(features: Features, X: Tensor, n_forms: int) -> tuple[Tensor, Tensor]:
    """Inputs `[B, n, D + L]` of the batch of processes, and the prior `[n, M]`."""
    z, phi, prior = features.lift(X)
    M = len(features.outputs)
    own = torch.cat([z.unsqueeze(0).expand(M, -1, -1), phi.permute(1, 0, 2)], dim=-1)
    return own.repeat(n_forms, 1, 1), prior


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


def winsorise(features: Features, runs: Runs, prior: Tensor, scale: Tensor) -> Tensor:
    """Losses `[n, M]` with diverged runs pulled in: one loss of 11 nats would otherwise cost every
    prediction a factor of six. ``-inf`` is as bad as ``inf`` and becomes absent."""
    Y = runs.Y.clone()
    Y[torch.isneginf(Y)] = torch.nan
    for i in range(Y.shape[1]):
        values = Y[:, i][Y[:, i].isfinite()]
        if len(values) == 0:
            Y[:, i] = torch.nan
            continue
        middle = values.median()
        limit = middle + 4.0 * (middle - torch.quantile(values, 0.16)).clamp_min(scale[i])
        if features.has_mde[i]:
            # Convexity: no MDE loss exceeds the worst expert's.
            limit = torch.maximum(limit, prior[:, i].max() + scale[i])
        Y[:, i] = torch.where(Y[:, i].isnan(), Y[:, i], Y[:, i].clamp_max(limit))
    return Y


def psd_cholesky(covariance: Tensor) -> Tensor:
    """Cholesky factor with as little jitter as it takes."""
    from linear_operator.utils.cholesky import psd_safe_cholesky

    return psd_safe_cholesky(covariance)


def _fit_hyperparameters(
    kernel: ResidualKernel,
    noise: Tensor,
    inputs: Tensor,
    targets: Tensor,
    extra: Tensor,
    steps: int,
) -> Tensor:
    """Maximise the posterior of the kernel's parameters in place; returns the noise `[B]`."""
    import gpytorch
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from gpytorch.constraints import GreaterThan
    from gpytorch.likelihoods import FixedNoiseGaussianLikelihood
    from gpytorch.means import ZeroMean
    from gpytorch.mlls import ExactMarginalLogLikelihood
    from gpytorch.priors import LogNormalPrior

    B = len(noise)
    with gpytorch.settings.min_fixed_noise(double_value=0.0):  # the learned noise comes on top
        likelihood = FixedNoiseGaussianLikelihood(
            noise=extra,
            learn_additional_noise=True,
            batch_shape=torch.Size([B]),
            noise_prior=LogNormalPrior(
                torch.tensor(_NOISE_MEDIAN, dtype=torch.float64).log(), _NOISE_SPREAD
            ),
            noise_constraint=GreaterThan(_NOISE_FLOOR),
        ).double()
    likelihood.second_noise = noise.unsqueeze(-1)
    model = SingleTaskGP(
        inputs,
        targets.unsqueeze(-1),
        likelihood=likelihood,
        covar_module=kernel,
        mean_module=ZeroMean(batch_shape=torch.Size([B])),
        outcome_transform=None,
    )
    fit_gpytorch_mll(
        ExactMarginalLogLikelihood(likelihood, model),
        optimizer_kwargs={"options": {"maxiter": steps}},
    )
    return likelihood.second_noise.detach().squeeze(-1)
