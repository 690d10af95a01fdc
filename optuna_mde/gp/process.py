"""M exact Gaussian processes in standard units, given their runs.

Notation as in `surrogate`; the covariance is `kernel`'s. Nothing here knows nats per token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from linear_operator.utils.cholesky import psd_safe_cholesky
from torch import Tensor

from optuna_mde.gp.kernel import ResidualKernel, Scaled

# A run that does not speak for an output stays in the batch with this noise variance, in standard
# units, which is to say that it is not there.
ABSENT = 1e6

_BELIEVED = 1e-6  # noise variance of a pending run that counts at its predicted value


@dataclass(frozen=True)
class Evidence:
    """Runs in standard units, as the batch of M processes takes them.

    Args:
        inputs: `M x n x C`, see `kernel`.
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

    @property
    def present(self) -> Tensor:
        """`M x n` whether a run speaks for an output."""
        return self.extra < ABSENT

    def noise(self, seed: Tensor) -> Tensor:
        """Noise variances `M x n`, from those of a seed at the centre `[M]`."""
        return self.extra + self.share * seed.unsqueeze(-1)


@dataclass(frozen=True)
class Solved:
    """Inputs as the runs see them.

    Args:
        scaled: inputs of the kernel.
        root: `M x N x n` covariances with the N runs, in units of the runs' own.
        mean: `M x n` and
        variance: `M x n` of the noise-free values.
    """

    scaled: Scaled
    root: Tensor
    mean: Tensor
    variance: Tensor


class Process:
    """Posterior of M processes.

    Args:
        kernel: covariance with its hyper-parameters.
        noise: `[M]` variance of a seed at the centre.
        evidence: the runs.
    """

    def __init__(self, kernel: ResidualKernel, noise: Tensor, evidence: Evidence) -> None:
        self.kernel, self.noise, self.evidence = kernel, noise, evidence
        with torch.no_grad():
            self._scaled = kernel.scale(evidence.inputs)
            covariance = kernel.covariance(self._scaled, self._scaled)
            covariance = covariance + torch.diag_embed(evidence.noise(noise))
            self._cholesky = psd_safe_cholesky(covariance)
            targets = evidence.targets.unsqueeze(-1)
            self._alpha = torch.cholesky_solve(targets, self._cholesky)  # [M, N, 1]

    def means(self, inputs: Tensor) -> Tensor:
        """Expected values `M x n` at inputs `M x n x C`."""
        cross = self.kernel.covariance(self.kernel.scale(inputs), self._scaled)
        return (cross @ self._alpha).squeeze(-1)

    def solve(self, inputs: Tensor) -> Solved:
        """Mean and variance at inputs `M x n x C`, and what covariances are made of."""
        scaled = self.kernel.scale(inputs)
        cross = self.kernel.covariance(scaled, self._scaled)
        root = torch.linalg.solve_triangular(self._cholesky, cross.mT, upper=False)
        variance = self.kernel.variance(scaled) - root.square().sum(dim=-2)
        return Solved(scaled, root, (cross @ self._alpha).squeeze(-1), variance.clamp_min(1e-12))

    def covariance(self, here: Solved, there: Solved) -> Tensor:
        """Covariance `M x n1 x n2` of the noise-free values at two sets of inputs."""
        return self.kernel.covariance(here.scaled, there.scaled) - here.root.mT @ there.root

    def believe(self, inputs: Tensor) -> Process:
        """As if runs at inputs `M x p x C` had ended at their predicted values."""
        with torch.no_grad():
            means = self.means(inputs)
        known = self.evidence
        believed = (_BELIEVED - self.noise).unsqueeze(-1).expand_as(means)
        evidence = Evidence(
            torch.cat([known.inputs, inputs], dim=-2),
            torch.cat([known.targets, means], dim=-1),
            torch.cat([known.share, torch.ones_like(means)], dim=-1),
            torch.cat([known.extra, believed], dim=-1),
        )
        return Process(self.kernel, self.noise, evidence)

    def leave_one_out(self, widening: Tensor) -> tuple[Tensor, Tensor]:
        """Means and variances `M x n` of every run, noise included, from all the others.

        Hyper-parameters are held [Rasmussen and Williams 2006, eq. 5.12].

        Args:
            widening: `[M]` factors of the sd of the noise-free values.
        """
        inverse = torch.cholesky_inverse(self._cholesky).diagonal(dim1=-2, dim2=-1)
        # A run's extra noise is its own; the prediction is of a run like the others.
        variance = (1.0 / inverse - self.evidence.extra).clamp_min(1e-12)
        seed = self.evidence.share * self.noise.unsqueeze(-1)
        free = (variance - seed).clamp_min(0.0) * widening.square().unsqueeze(-1)
        return self.evidence.targets - self._alpha.squeeze(-1) / inverse, seed + free
