"""What a loss without MDE is modelled as: the logarithm of its distance from a floor.

Laws of loss against data are ``floor + exp(…)`` [Ye2024]_, and no run reaches the floor. In nats,
the few mixtures that leave a set without its domain decide how rough the rest is thought to be. An
output with an MDE loss has that shape in its prior, and stays in nats per token.

.. [Ye2024] Ye et al., Data Mixing Laws, arXiv 2403.16952, eq. 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Of the range of an output's losses, how far the floor lies below the lowest
# (`python -m benchmarks.prediction`, `benchmarks.search`).
_MARGIN = 0.5

# Half spreads above the median beyond which a loss counts no further. In nats, mixtures that leave
# a set without its domain are far (`python -m benchmarks.prediction`).
_FAR = 6.0


@dataclass(frozen=True)
class Warp:
    """Losses to what is modelled, and back.

    Args:
        floor: `[M]` the floor of every output, nats per token; -inf where losses stay as they are.
    """

    floor: Tensor

    @classmethod
    def of(cls, Y: Tensor, warped: Tensor) -> Warp:
        """Floors for losses `n x M` of finished runs, of the outputs `[M]` that are warped."""
        floor = torch.full(warped.shape, -torch.inf, dtype=torch.float64)
        for i in warped.nonzero()[:, 0].tolist():
            floor[i] = _floor(Y[:, i][Y[:, i].isfinite()])
        return cls(floor)

    def latent(self, losses: Tensor) -> Tensor:
        """What is modelled, `... x M`, of losses `... x M`; NaN below the floor."""
        return torch.where(self._same, losses, self.slope(losses).log())

    def losses(self, latent: Tensor) -> Tensor:
        """Losses `... x M` of what is modelled."""
        grown = torch.where(self._same, 0.0, latent).exp()
        return torch.where(self._same, latent, self.floor + grown)

    def slope(self, losses: Tensor) -> Tensor:
        """Nats per token of a unit of what is modelled, `... x M`, at losses `... x M`."""
        return torch.where(self._same, 1.0, losses - self.floor)

    @property
    def _same(self) -> Tensor:
        return self.floor.isneginf()


def far_above(values: Tensor, least: float = 0.0) -> Tensor:
    """Beyond this, values of `[n]` count no further; their half spread is taken as at least so."""
    middle = values.median()
    return middle + _FAR * (middle - torch.quantile(values, 0.16)).clamp_min(least)


def _floor(values: Tensor) -> Tensor:
    """The floor below an output's finite losses `[n]`."""
    if len(values) == 0:
        return torch.tensor(0.0, dtype=torch.float64)
    low = values.min()
    span = torch.minimum(values.max(), far_above(values)) - low
    level = low.abs()
    # All alike, but for rounding: far enough below that nothing is bent.
    return low - (_MARGIN * span if span > 1e-9 * level else level.clamp_min(1.0))
