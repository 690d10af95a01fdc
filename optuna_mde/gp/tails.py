"""A prior for logarithms of scales that every output has: alike, unless the runs say otherwise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from gpytorch.priors import Prior
from torch import Tensor

_FREEDOM = 4.0  # of the Student t: a factor of ten costs a few nats of evidence, not dozens


@dataclass(frozen=True)
class Tails:
    """Scales of a `HeavyTailed` prior, in units of the logarithm.

    Args:
        above: of what all outputs share, above the median: how soon runs may say more.
        below: the same below it: few runs must not take a scale for nothing.
        own: of an output's departure from that.
    """

    above: float
    below: float
    own: float


class HeavyTailed(Prior):
    """Logarithms `[M]` around their medians: a level that all share, and departures from it.

    Both are Student t, so that a few outputs, or all of them, may lie far from what is usual.

    Args:
        median: `[M]` usual logarithms: the mode, and the median where both tails are alike.
        tails: how far they may be from it.
    """

    def __init__(self, median: Tensor, tails: Tails) -> None:
        torch.nn.Module.__init__(self)
        torch.distributions.Distribution.__init__(self, median.shape, validate_args=False)
        self.median, self.tails = median, tails

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density but for a constant, as terms `[M]` that add up to it."""
        away = value - self.median
        level = away.mean(dim=-1, keepdim=True)
        shared = torch.where(level < 0, level / self.tails.below, level / self.tails.above)
        return log_t((away - level) / self.tails.own) + log_t(shared) / away.shape[-1]


def log_t(t: Tensor, freedom: float = _FREEDOM) -> Tensor:
    """Log-density of Student's t, but for a constant."""
    return -0.5 * (freedom + 1.0) * torch.log1p(t.square() / freedom)
