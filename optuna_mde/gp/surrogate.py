"""The surrogate: a Gaussian process for every validation set, around its MDE loss.

Notation: ``X`` `[n, d]` inputs, ``Y`` `[n, M]` losses (nats per token, minimised, NaN where a
run lacks a set). Output i is ``prior_i + centre_i + scale_i · g_i`` with ``g_i`` a GP in standard
units (`units`, `process`): the prior is MDE at tempered rates; regressors with Gaussian
coefficients, partly shared by all outputs (`shared`), correct its offset, slope, exponent and what
dilution costs; a Matérn residual lives over the rates *and* all MDE losses (`kernel`, `priors`).
How far MDE is believed is learned. The logarithm of an output without MDE loss is modelled
(`warp`), and its posterior in nats is that of the tangent at the mean. docs/model.md has it whole.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from optuna_mde.gp.features import Features
from optuna_mde.gp.process import Process, Solved
from optuna_mde.gp.shared import SharedSlopes
from optuna_mde.gp.units import StandardUnits

# Correlation of residuals across validation sets: that of the leave-one-out residuals, shrunk with
# the weight of `_PRIOR_RUNS` runs to _SHARED + _ALIKE times the correlation of the sets' MDE
# losses, or to _UNKNOWN without them (`python -m benchmarks.calibration`).
_SHARED, _ALIKE, _UNKNOWN, _PRIOR_RUNS = 0.1, 0.3, 0.3, 10.0
_CUT = 3.0  # sd that a residual counts as there at most


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
class Hyperparameters:
    """What a fit has learned, for `fitting.fit` to start from.

    Args:
        lengthscale: `M x J` logarithms.
        outputscale: `M x 1` logarithms.
        slopescale: `M x 1` logarithms.
        blend: `M x 1` logarithms.
        noise: `[M]` variances in standard units.
        shared: what all outputs have in common; None without MDE losses.
    """

    lengthscale: Tensor
    outputscale: Tensor
    slopescale: Tensor
    blend: Tensor
    noise: Tensor
    shared: SharedSlopes | None


@dataclass(frozen=True)
class Look:
    """Inputs as the runs see them.

    Args:
        solved: in standard units.
        mean: `n x M` of the noise-free losses, nats per token.
        sd: `n x M` of them, too.
        unit: `n x M` nats per token of a standard unit.
    """

    solved: Solved
    mean: Tensor
    sd: Tensor
    unit: Tensor


@dataclass(frozen=True, eq=False)
class Surrogate:
    """Posterior of every output, see the module's text. Made by `fitting.fit`."""

    features: Features
    """The lift of inputs."""
    runs: Runs
    """What it stands on."""
    prior: Tensor
    """Prior `n x M` of every run, as modelled."""
    units: StandardUnits
    process: Process
    shared: SharedSlopes | None
    """What all outputs have in common of the regressors' coefficients; None without MDE losses."""
    widening: Tensor
    """Factors `[M]` of the posterior's sd, see `calibration`."""
    correlation: Tensor
    """Correlation `M x M` of the outputs' residuals."""

    @property
    def noise_sd(self) -> Tensor:
        """`[M]` sd of a single run's loss around the noise-free one, nats per token."""
        return self.process.noise.sqrt() * self.units.central

    @property
    def denies_mde(self) -> bool:
        """Whether the runs say that MDE is wrong, see `shared`."""
        return self.shared is not None and self.shared.strain > 1.0

    def posterior(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Noise-free losses.

        Args:
            X: `n x d` inputs, float64; differentiable.

        Returns:
            mean and sd, both `n x M`, nats per token.
        """
        look = self._look(*stack_inputs(self.features, X, self.shared))
        return look.mean, look.sd

    def look(self, x: Tensor) -> Look:
        """One input `[d]`, ready for many calls of `posterior_beside`."""
        return self._look(*stack_inputs(self.features, x.unsqueeze(0), self.shared))

    def posterior_beside(self, X: Tensor, there: Look) -> tuple[Tensor, Tensor, Tensor]:
        """`posterior` of X, and covariances `n x M` of its losses with those of one `look`."""
        look = self._look(*stack_inputs(self.features, X, self.shared))
        covariance = self.process.covariance(look.solved, there.solved).squeeze(-1)  # [M, n]
        return look.mean, look.sd, covariance.mT * look.unit * there.unit

    def means(self, X: Tensor) -> Tensor:
        """Expected losses `n x M` at inputs `n x d`, nats per token: `posterior` without its sd,
        whose cost is square in the number of runs."""
        inputs, prior = stack_inputs(self.features, X, self.shared)
        return self.units.losses(self.process.means(inputs).mT, prior)

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
        inputs, prior = stack_inputs(self.features, flat, self.shared)
        look = self._look(inputs, prior)
        mean, sd = look.mean @ W.mT, self.spread(look.sd, W)
        root = look.solved.root
        root = root.reshape(*root.shape[:2], b, q).permute(2, 0, 3, 1)
        points = inputs.reshape(len(inputs), b, q, -1).transpose(0, 1)
        covariance = self.process.kernel.forward(points, points) - root @ root.mT  # [b, M, q, q]
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
            inputs, _ = stack_inputs(self.features, X, self.shared)
        return replace(self, process=self.process.believe(inputs))

    def leave_one_out(self) -> tuple[Tensor, Tensor]:
        """Prediction of every run from all the others, hyper-parameters held.

        Returns:
            mean and sd (noise included), both `n x M`, nats per token. Where an output was absent
            they are plain predictions.
        """
        mean, variance = self.process.leave_one_out(self.widening)
        losses = self.units.losses(mean.mT, self.prior)
        return losses, variance.mT.sqrt() * self.units.unit(losses)

    def state(self) -> Hyperparameters:
        """What the fit has learned."""
        kernel = self.process.kernel
        return Hyperparameters(
            lengthscale=kernel.log_lengthscale.detach().clone(),
            outputscale=kernel.log_outputscale.detach().clone(),
            slopescale=kernel.log_slopescale.detach().clone(),
            blend=kernel.log_blend.detach().clone(),
            noise=self.process.noise.clone(),
            shared=self.shared,
        )

    def _look(self, inputs: Tensor, prior: Tensor) -> Look:
        solved = self.process.solve(inputs)
        mean = self.units.losses(solved.mean.mT, prior)
        unit = self.widening * self.units.unit(mean)
        return Look(solved, mean, solved.variance.sqrt().mT * unit, unit)


def residual_correlation(
    features: Features, runs: Runs, process: Process, widening: Tensor
) -> Tensor:
    """Correlation `M x M` of the outputs' residuals."""
    prior = (_SHARED + _ALIKE * features.likeness).nan_to_num(nan=_UNKNOWN)
    mean, variance = process.leave_one_out(widening)
    present = process.evidence.present & ~known_to_mde(features, runs)
    standard = ((process.evidence.targets - mean) / variance.sqrt()).clamp(-_CUT, _CUT)
    standard = torch.where(present, standard, 0.0)
    both = present.double() @ present.double().mT  # runs that have both outputs
    size = (standard.square() @ present.double().mT).clamp_min(1e-12)
    correlation = (standard @ standard.mT) / (size * size.mT).sqrt()
    mixed = (both * correlation + _PRIOR_RUNS * prior) / (both + _PRIOR_RUNS)
    doubt = _PRIOR_RUNS / (float(both.max()) + _PRIOR_RUNS)
    return _positive(mixed.fill_diagonal_(1.0), (1.0 - _SHARED - _ALIKE) * doubt)


def _positive(correlation: Tensor, least: float) -> Tensor:
    """A correlation `M x M` whose eigenvalues are at least ``least``, shrunk to 0 if need be.

    Pairs of outputs that different runs speak for may contradict each other, and a weighted sum of
    outputs then has a negative variance. Of outputs that all runs speak for, ``least`` is what the
    prior's share leaves, and nothing is shrunk.
    """
    lowest = float(torch.linalg.eigvalsh(correlation)[0])
    share = min(1.0, (1.0 - least) / (1.0 - lowest)) if lowest < least else 1.0
    return (share * correlation).fill_diagonal_(1.0)


def known_to_mde(features: Features, runs: Runs) -> Tensor:
    """`M x n` whether a run is an expert whose loss of an output is its MDE loss, noise included.

    Nothing remains there, which says little of how much remains elsewhere, and of what errors have
    in common.
    """
    return (runs.corner.unsqueeze(-1) & features.has_mde).mT


def stack_inputs(
    features: Features, X: Tensor, shared: SharedSlopes | None, corner: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Inputs of the batch, and priors.

    Args:
        features: the lift.
        X: `n x d` inputs.
        shared: what all outputs have in common of the coefficients.
        corner: `[n]` true for experts, whose own noise is in their MDE losses.

    Returns:
        Inputs `M x n x C`, see `kernel`, and the prior `n x M` in nats per token.
    """
    z, phi, prior = features.lift(X)
    if shared is not None:
        prior = prior + (phi * features.units) @ shared.mean
    rates = features.blended(X)
    if corner is not None:  # where no domains are blended
        rates = torch.where(corner.unsqueeze(-1), 0.0, rates)
    every = (len(features.outputs), -1, -1)
    beside = torch.cat([rates, features.amplitude(X)], dim=-1).expand(every)
    return torch.cat([z.expand(every), phi.permute(1, 0, 2), beside], dim=-1), prior
