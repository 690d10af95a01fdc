"""What training and scoring ask of a model."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn


class LanguageNet(nn.Module):
    """From token ids `[b, t]` to logits `[b, t, V]`, by a backbone and an output projection."""

    lm_head: nn.Module
    """The output projection, `[…, D]` -> `[…, V]`."""

    draws_at_random = False
    """Whether a training step may draw from torch's generators, as dropout does."""

    @property
    @abstractmethod
    def backbone(self) -> nn.Module:
        """All but the output projection: what is compiled."""

    @property
    def projects_linearly(self) -> bool:
        """Whether the logits are `lm_head(hidden(ids))`, and that a linear function."""
        return True

    @abstractmethod
    def hidden(self, ids: Tensor) -> Tensor:
        """What the output projection sees: `[b, t]` -> `[b, t, D]`."""

    @abstractmethod
    def recompute_activations(self) -> None:
        """Keep the inputs of layers only, and compute the rest again for the gradient."""
