"""From nats per token to the standard units in which runs are modelled, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from optuna_mde.gp.features import Features
from optuna_mde.gp.warp import Warp


@dataclass(frozen=True)
class StandardUnits:
    """``(latent loss - prior - centre) / scale`` of every output.

    Args:
        centre: `[M]` of what is modelled (`warp`), beside the prior.
        scale: `[M]` a standard unit of that: MDE's own spread over mixtures, else the data's.
        warp: from nats per token to what is modelled.
    """

    centre: Tensor
    scale: Tensor
    warp: Warp

    @classmethod
    def of(cls, features: Features, Y: Tensor) -> StandardUnits:
        """The units for losses `n x M` of finished runs."""
        warp = Warp.of(Y, ~features.has_mde)
        latent = warp.latent(Y)
        centre = torch.zeros(len(features.outputs), dtype=torch.float64)
        scale = features.scale.clone()
        for i in (~features.has_mde).nonzero()[:, 0].tolist():
            centre[i], scale[i] = _middle_and_spread(latent[:, i][latent[:, i].isfinite()])
        return cls(centre, scale, warp)

    def standard(self, Y: Tensor, prior: Tensor) -> Tensor:
        """Standard units `n x M` of losses and priors `n x M`; NaN where a loss is absent."""
        # -inf is no better than NaN
        latent = self.warp.latent(torch.where(Y.isneginf(), torch.nan, Y))
        return (latent - prior - self.centre) / self.scale

    def losses(self, standard: Tensor, prior: Tensor) -> Tensor:
        """Losses `n x M`, nats per token."""
        return self.warp.losses(prior + self.centre + standard * self.scale)

    def unit(self, losses: Tensor) -> Tensor:
        """Nats per token of a standard unit, `n x M`, at losses `n x M`."""
        return self.scale * self.warp.slope(losses)

    @property
    def central(self) -> Tensor:
        """Nats per token of a standard unit `[M]` at the centre."""
        return self.unit(self.warp.losses(self.centre))


def _middle_and_spread(values: Tensor) -> tuple[float, float]:
    """Of an output's finite latent losses `[n]`."""
    if len(values) == 0:
        return 0.0, 1.0
    low, high = torch.quantile(values, torch.tensor([0.16, 0.84], dtype=torch.float64))
    # Half the central range resists diverged runs; the sd serves where the range is empty.
    spread = float(high - low) / 2.0 or float(values.std(correction=0))
    return float(values.median()), spread if spread > 0 else 1.0
