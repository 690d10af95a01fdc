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
from optuna_mde.forms import Form
from optuna_mde.kernel import ResidualKernel

# A run that lacks an output (or a corner, for the mean form) stays in the batch with this noise
# variance in standardised units, which is to say that it is not there.
ABSENT = 1e6

_BELIEVED = 1e-6  # noise variance of a pending run that counts at its predicted value

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
    """Posterior of every output, see the module's text. Made by `fitting.fit`."""

    def __init__(
        self,
        features: Features,
        runs: Runs,
        forms: tuple[Form, ...],
        kernel: ResidualKernel,
        noise: Tensor,
        inputs: Tensor,
        targets: Tensor,
        extra: Tensor,
        prior: Tensor,
        centre: Tensor,
        scale: Tensor,
    ) -> None:
        self.features = features
        self.runs = runs
        self.forms = forms
        self.centre, self.scale = centre, scale  # [M]
        self._prior = (
            prior + centre
        )  # [n, M]: what every run's loss was expected to be, nats per token
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
            means = (cross @ self._alpha.unsqueeze(-1)).squeeze(-1)  # [B, p]
            # All forms believe the same, else their disagreement would stay as doubt.
            agreed, _ = self._combine(means, torch.zeros_like(means))
            means = agreed.repeat(len(self.forms), 1)
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
            mean and sd (noise included), both `n x M`, nats per token. Where an output was absent
            they are plain predictions.
        """
        mean, variance = self._combine(*self._leave_one_out())
        return self._prior + mean.mT * self.scale, variance.mT.sqrt() * self.scale

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
        variance = 1.0 / inverse - self._extra * (self._extra < ABSENT)
        # A run that is absent from an output has its huge noise in `1 / inverse`.
        absent = self._extra >= ABSENT
        variance = torch.where(absent, 1.0 / inverse - self._extra, variance).clamp_min(1e-12)
        return self._targets - self._alpha / inverse, variance

    def _evidence(self) -> Tensor:
        F, B = len(self.forms), len(self._noise)
        if F == 1:
            return torch.ones(1, B, dtype=torch.float64)
        mean, variance = self._leave_one_out()
        # Judge all forms on the runs that every one of them learns from.
        shared = (self._extra.reshape(F, B // F, -1) < ABSENT).all(dim=0)
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
        present = (self._extra < ABSENT).reshape(len(self.forms), M, -1).all(dim=0)  # [M, n]
        error, variance = self._combine(self._targets - mean, variance)
        standard = torch.where(present, error / variance.sqrt(), 0.0)
        standard = standard.clamp(-3.0, 3.0)
        both = present.double() @ present.double().mT  # [M, M] runs that have both outputs
        size = (standard.square() @ present.double().mT).clamp_min(1e-12)
        correlation = (standard @ standard.mT) / (size * size.mT).sqrt()
        mixed = (both * correlation + _PRIOR_RUNS * prior) / (both + _PRIOR_RUNS)
        mixed.fill_diagonal_(1.0)
        return mixed


def stack_inputs(features: Features, X: Tensor, n_forms: int) -> tuple[Tensor, Tensor]:
    """Inputs `[B, n, D + L]` of the batch of processes, and the prior `[n, M]`."""
    z, phi, prior = features.lift(X)
    M = len(features.outputs)
    own = torch.cat([z.unsqueeze(0).expand(M, -1, -1), phi.permute(1, 0, 2)], dim=-1)
    return own.repeat(n_forms, 1, 1), prior


def psd_cholesky(covariance: Tensor) -> Tensor:
    """Cholesky factor with as little jitter as it takes."""
    from linear_operator.utils.cholesky import psd_safe_cholesky

    return psd_safe_cholesky(covariance)
