"""The surrogate: a Gaussian process for every validation set, around its MDE loss.

Notation: ``X`` `[n, d]` inputs, ``Y`` `[n, M]` losses (nats per token, minimised, NaN where a
run lacks a set). Output i is ``prior_i + centre_i + scale_i · g_i`` with ``g_i`` a GP in standard
units: the prior is MDE at tempered rates; regressors with Gaussian coefficients, partly shared by
all outputs, correct its offset, slope, exponent and what dilution costs; a Matérn residual lives
over the rates *and* all MDE losses (`kernel`, `priors`). The logarithm of an output without MDE
loss is modelled (`warp`), and its posterior in nats is that of the tangent at the mean. The M
processes are one batch of a BoTorch `SingleTaskGP`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from linear_operator.utils.cholesky import psd_safe_cholesky
from torch import Tensor

from optuna_mde.gp import calibration
from optuna_mde.gp.features import Features
from optuna_mde.gp.kernel import ResidualKernel, Scaled
from optuna_mde.gp.warp import Warp

# A run that does not speak for an output stays in the batch with this noise variance, in standard
# units, which is to say that it is not there.
ABSENT = 1e6

_BELIEVED = 1e-6  # noise variance of a pending run that counts at its predicted value

# Correlation of residuals across validation sets: that of the leave-one-out residuals, shrunk with
# the weight of this many runs to .1 + .3 times the correlation of the sets' MDE losses, or to .3
# without them. Noise-free errors of predictions, in units of their sd, on emulators of three
# recordings at 12 and 32 runs: .08 + .36 and .09 + .26 times it, .02 + .29 and .04 + .31, .14 +
# .34 and .18 + .24 with full experts, much the same with half ones; they follow it with a
# correlation of .4 to .8.
_SHARED, _ALIKE, _UNKNOWN, _PRIOR_RUNS = 0.1, 0.3, 0.3, 10.0


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


@dataclass(frozen=True)
class Evidence:
    """Runs in standard units, as the batch of M processes takes them.

    Args:
        inputs: `M x n x (D + L + 1)`, see `kernel`.
        targets: `M x n`, 0 where absent.
        share: `M x n` variance of the seed noise over that of a run at the centre. Seed noise is
            much the same in nats, so that it is larger in logarithms where the loss is low.
        extra: `M x n` noise variance of a run beside that of its seed; ``ABSENT`` where it does
            not count.
    """

    inputs: Tensor
    targets: Tensor
    share: Tensor
    extra: Tensor


@dataclass(frozen=True)
class Look:
    """Inputs as the runs see them.

    Args:
        scaled: inputs of the kernel.
        solved: `M x N x n` covariances with the N runs, in units of the runs' own.
        mean: `n x M` of the noise-free losses, nats per token.
        sd: `n x M` of them, too.
        unit: `n x M` nats per token of a standard unit.
    """

    scaled: Scaled
    solved: Tensor
    mean: Tensor
    sd: Tensor
    unit: Tensor


class Surrogate:
    """Posterior of every output, see the module's text. Made by `fitting.fit`.

    Args:
        features: the lift of inputs.
        runs: what it stands on.
        evidence: the same in standard units.
        kernel: covariance with its hyper-parameters.
        noise: `[M]` noise variances in standard units.
        shared: `[L]` what all outputs have in common of the regressors' coefficients.
        prior: `n x M` prior and centre of every run, as modelled.
        centre: `[M]` and
        scale: `[M]`, from standard units to what is modelled.
        warp: from that to nats per token.
    """

    def __init__(
        self,
        features: Features,
        runs: Runs,
        evidence: Evidence,
        kernel: ResidualKernel,
        noise: Tensor,
        shared: Tensor,
        prior: Tensor,
        centre: Tensor,
        scale: Tensor,
        warp: Warp,
    ) -> None:
        self.features, self.runs = features, runs
        self._shared = shared
        self.centre, self.scale = centre, scale
        self._kernel, self._noise, self._prior = kernel, noise, prior
        self.warp = warp
        present = (evidence.extra < ABSENT).double().sum(dim=-1)
        self._widening = calibration.of_the_posterior(features, present)
        self._set_evidence(evidence)
        self.correlation = self._residual_correlation()

    @property
    def noise_sd(self) -> Tensor:
        """`[M]` sd of a single run's loss around the noise-free one, nats per token."""
        return self._noise.sqrt() * self.scale * self.warp.slope(self.warp.losses(self.centre))

    def posterior(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Noise-free losses.

        Args:
            X: `n x d` inputs, float64; differentiable.

        Returns:
            mean and sd, both `n x M`, nats per token.
        """
        look = self._look(*stack_inputs(self.features, X, self._shared))
        return look.mean, look.sd

    def look(self, x: Tensor) -> Look:
        """One input `[d]`, ready for many calls of `posterior_beside`."""
        return self._look(*stack_inputs(self.features, x.unsqueeze(0), self._shared))

    def posterior_beside(self, X: Tensor, there: Look) -> tuple[Tensor, Tensor, Tensor]:
        """`posterior` of X, and covariances `n x M` of its losses with those of one `look`."""
        look = self._look(*stack_inputs(self.features, X, self._shared))
        covariance = self._kernel.covariance(look.scaled, there.scaled)
        covariance = (covariance - look.solved.mT @ there.solved).squeeze(-1)  # [M, n]
        return look.mean, look.sd, covariance.mT * look.unit * there.unit

    def _look(self, inputs: Tensor, prior: Tensor) -> Look:
        scaled = self._kernel.scale(inputs)
        cross = self._kernel.covariance(scaled, self._scaled)
        solved = torch.linalg.solve_triangular(self._cholesky, cross.mT, upper=False)
        variance = self._kernel.variance(scaled) - solved.square().sum(dim=-2)
        mean = self._losses(prior, cross)
        unit = self._widening * self.scale * self.warp.slope(mean)
        return Look(scaled, solved, mean, variance.clamp_min(1e-12).sqrt().mT * unit, unit)

    def means(self, X: Tensor) -> Tensor:
        """Expected losses `n x M` at inputs `n x d`, nats per token: `posterior` without its sd,
        whose cost is square in the number of runs."""
        inputs, prior = stack_inputs(self.features, X, self._shared)
        return self._losses(
            prior, self._kernel.covariance(self._kernel.scale(inputs), self._scaled)
        )

    def _losses(self, prior: Tensor, cross: Tensor) -> Tensor:
        """Means `n x M` from the covariances `M x n x N` with the runs."""
        standard = (cross @ self._alpha.unsqueeze(-1)).squeeze(-1)
        return self.warp.losses(prior + self.centre + standard.mT * self.scale)

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

    def spread(self, sd: Tensor, W: Tensor) -> Tensor:
        """Sd `[n, G]` of weighted sums of outputs with sd `[n, M]`."""
        weighted = sd.unsqueeze(-2) * W  # [n, G, M]
        return ((weighted @ self.correlation) * weighted).sum(dim=-1).clamp_min(1e-24).sqrt()

    def joint_goals(self, X: Tensor, W: Tensor) -> tuple[Tensor, Tensor]:
        """Joint posterior of weighted sums over several points.

        Args:
            X: `b x q x d` inputs.
            W: `G x M` weights.

        Returns:
            mean `b x q x G` and covariance over the points `b x G x q x q`. Correlation across
            outputs enters as one factor for each goal, that of its variance at the first point.
        """
        shape, (q, d) = X.shape[:-2], X.shape[-2:]
        flat = X.reshape(-1, d)
        b = len(flat) // q
        inputs, prior = stack_inputs(self.features, flat, self._shared)
        look = self._look(inputs, prior)
        mean, sd = look.mean @ W.mT, self.spread(look.sd, W)
        solved = look.solved.reshape(*look.solved.shape[:2], b, q).permute(2, 0, 3, 1)
        points = inputs.reshape(len(inputs), b, q, -1).transpose(0, 1)
        covariance = self._kernel.forward(points, points) - solved @ solved.mT  # [b, M, q, q]
        unit = look.unit.reshape(b, q, -1).mT  # [b, M, q]
        covariance = covariance * unit.unsqueeze(-1) * unit.unsqueeze(-2)
        goals = torch.einsum("gm,bmqr->bgqr", W.square(), covariance)
        alone = goals.diagonal(dim1=-2, dim2=-1)[..., 0].clamp_min(1e-24)  # [b, G]
        factor = sd.reshape(b, q, -1)[:, 0].square() / alone
        goals = goals * factor[..., None, None]
        return mean.reshape(*shape, q, -1), goals.reshape(*shape, *goals.shape[1:])

    def believe(self, X: Tensor) -> Surrogate:
        """The surrogate as if runs at ``X`` `[p, d]` had ended at their predicted losses."""
        if len(X) == 0:
            return self
        with torch.no_grad():
            inputs, _ = stack_inputs(self.features, X, self._shared)
            cross = self._kernel.covariance(self._kernel.scale(inputs), self._scaled)
            means = (cross @ self._alpha.unsqueeze(-1)).squeeze(-1)  # [M, p]
        believed = (_BELIEVED - self._noise).unsqueeze(-1).expand_as(means)
        known = self._evidence
        other = Surrogate.__new__(Surrogate)
        other.__dict__.update(self.__dict__)
        other._set_evidence(
            Evidence(
                torch.cat([known.inputs, inputs], dim=-2),
                torch.cat([known.targets, means], dim=-1),
                torch.cat([known.share, torch.ones_like(means)], dim=-1),
                torch.cat([known.extra, believed], dim=-1),
            )
        )
        return other

    def leave_one_out(self) -> tuple[Tensor, Tensor]:
        """Prediction of every run from all the others, hyper-parameters held (Rasmussen and
        Williams 2006, eq. 5.12).

        Returns:
            mean and sd (noise included), both `n x M`, nats per token. Where an output was absent
            they are plain predictions.
        """
        mean, variance = self._leave_one_out()
        losses = self.warp.losses(self._prior + mean.mT * self.scale)
        return losses, variance.mT.sqrt() * self.scale * self.warp.slope(losses)

    def state(self) -> dict[str, Tensor]:
        """Hyper-parameters, for `fitting.fit` to start from."""
        return {
            "log_lengthscale": self._kernel.log_lengthscale.detach().clone(),
            "log_outputscale": self._kernel.log_outputscale.detach().clone(),
            "noise": self._noise.detach().clone(),
            "shared": self._shared.clone(),
        }

    def _set_evidence(self, evidence: Evidence) -> None:
        self._evidence = evidence
        with torch.no_grad():
            self._scaled = self._kernel.scale(evidence.inputs)
            covariance = self._kernel.covariance(self._scaled, self._scaled)
            noise = evidence.extra + evidence.share * self._noise.unsqueeze(-1)
            self._cholesky = psd_safe_cholesky(covariance + torch.diag_embed(noise))
            targets = evidence.targets.unsqueeze(-1)
            self._alpha = torch.cholesky_solve(targets, self._cholesky).squeeze(-1)

    def _leave_one_out(self) -> tuple[Tensor, Tensor]:
        """Means and variances `[M, n]` in standard units."""
        inverse = torch.cholesky_inverse(self._cholesky).diagonal(dim1=-2, dim2=-1)
        # A run's extra noise is its own; the prediction is of a run like the others.
        variance = (1.0 / inverse - self._evidence.extra).clamp_min(1e-12)
        seed = self._evidence.share * self._noise.unsqueeze(-1)
        variance = seed + (variance - seed).clamp_min(0.0) * self._widening.square().unsqueeze(-1)
        return self._evidence.targets - self._alpha / inverse, variance

    def _residual_correlation(self) -> Tensor:
        """Correlation `[M, M]` of the outputs' residuals."""
        prior = (_SHARED + _ALIKE * self.features.likeness).nan_to_num(nan=_UNKNOWN)
        mean, variance = self._leave_one_out()
        present = (self._evidence.extra < ABSENT) & ~known_to_mde(self.features, self.runs)
        standard = ((self._evidence.targets - mean) / variance.sqrt()).clamp(-3.0, 3.0)
        standard = torch.where(present, standard, 0.0)
        both = present.double() @ present.double().mT  # runs that have both outputs
        size = (standard.square() @ present.double().mT).clamp_min(1e-12)
        correlation = (standard @ standard.mT) / (size * size.mT).sqrt()
        mixed = (both * correlation + _PRIOR_RUNS * prior) / (both + _PRIOR_RUNS)
        return mixed.fill_diagonal_(1.0)


def known_to_mde(features: Features, runs: Runs) -> Tensor:
    """`M x n` whether a run is an expert whose loss of an output is its MDE loss, noise included.

    Nothing remains there, which says little of how much remains elsewhere, and of what errors have
    in common.
    """
    return (runs.corner.unsqueeze(-1) & features.has_mde).mT


def stack_inputs(features: Features, X: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs `M x n x (D + L + 1)` of the batch, and the prior `n x M` in nats per token."""
    z, phi, prior = features.lift(X)
    every = (len(features.outputs), -1, -1)
    prior = prior + (phi * features.units) @ shared
    parts = (z.expand(every), phi.permute(1, 0, 2), features.amplitude(X).expand(every))
    return torch.cat(parts, dim=-1), prior
