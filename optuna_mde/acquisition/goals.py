"""What acquisitions of one goal and of many have in common: weighted outputs, limits.

Notation: ``X`` `[n, d]` candidates, ``W`` `[G, M]` weights of the goals, minimised; ``μ, σ``
`[n, G]` posterior mean and sd of the noise-free goals. Every function of this wing is a BoTorch
acquisition (`b x 1 x d -> b`, larger is better, logarithmic) and reads the surrogate's closed-form
posterior of all candidates at once.

The incumbent of an improvement is the best *posterior mean*, never the best observed draw: a
lucky seed is no target.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from botorch.acquisition.acquisition import AcquisitionFunction
from torch import Tensor

from optuna_mde.gp.surrogate import Surrogate

_SOFT = 1e-3  # units over which the corner of an excess is rounded, for gradients


class Limits:
    """Upper limits on outputs, as a log-probability that they are kept.

    Args:
        limits: (index of the output, limit in nats per token).
    """

    def __init__(self, limits: Sequence[tuple[int, float]]) -> None:
        self.outputs = [i for i, _ in limits]
        self.values = torch.tensor([v for _, v in limits], dtype=torch.float64)

    def log_probability(self, mean: Tensor, sd: Tensor) -> Tensor:
        """`[n]` log-probability that all limits are kept, outputs taken as independent."""
        if not self.outputs:
            return mean.new_zeros(mean.shape[:-1])
        z = (self.values - mean[..., self.outputs]) / sd[..., self.outputs]
        return torch.special.log_ndtr(z).sum(dim=-1)

    def excess(self, values: Tensor, scale: Tensor) -> Tensor:
        """`[n]` how far losses `[n, M]` are above the limits, in units `[M]`, summed over the
        limits; differentiable, and above its value by `_SOFT` for each limit at most."""
        above = (values[..., self.outputs] - self.values) / scale[self.outputs]
        return _SOFT * torch.nn.functional.softplus(above / _SOFT).sum(dim=-1)

    def kept(self, means: Tensor) -> Tensor:
        """`[n]` whether losses of these means `[n, M]` keep every limit rather than not."""
        return (means[..., self.outputs] <= self.values).all(dim=-1)


class GoalAcquisition(AcquisitionFunction):
    """Base of the acquisitions that read the posterior of weighted outputs in closed form.

    Args:
        surrogate: posterior of the outputs.
        W: `G x M` weights of the goals.
        limits: upper limits of outputs.
    """

    def __init__(self, surrogate: Surrogate, W: Tensor, limits: Limits) -> None:
        torch.nn.Module.__init__(self)
        self.surrogate, self.W, self.limits = surrogate, W, limits
