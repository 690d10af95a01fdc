"""Final figures: the fitted surrogate on MDE losses over every token, in place of the coreset's.

The search looks at thousands of mixtures, and a coreset is within its bound of the losses there.
The few that are told to people deserve all tokens, where that takes seconds.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor, from_numpy

from optuna_mde.gp.fitting import fit
from optuna_mde.gp.surrogate import Surrogate
from optuna_mde.mde.coreset import Coreset
from optuna_mde.mde.experts import ExpertTable


class EveryToken(Coreset):
    """MDE losses over every token where a coreset is expected; without gradients."""

    def __init__(self, table: ExpertTable) -> None:
        self.domains, self.sets = table.domains, table.sets
        self.rms_error = np.zeros(len(table.sets))
        self._table = table

    def losses(self, rates: Tensor) -> Tensor:
        """MDE losses `batch_shape x M` of mixtures `batch_shape x K`, nats per token."""
        return from_numpy(self._table.losses(rates.detach().numpy()))


def on_every_token(surrogate: Surrogate, table: ExpertTable) -> Surrogate:
    """The surrogate with its runs and hyper-parameters, on exact MDE losses.

    Args:
        surrogate: one that was fitted on the table's coreset.
        table: the experts' table.

    Returns:
        A surrogate whose posterior has no gradients.
    """
    features = surrogate.features.on(EveryToken(table))
    return fit(features, surrogate.runs, surrogate.state(), steps=0)
