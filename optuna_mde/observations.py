"""What the rooms of numbers may see of a study: inputs, losses, pending runs, experts' files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optuna_mde.objective import Objective
from optuna_mde.simplex.projection import Array

VALUE = "value "  # prefix of outputs that are the objective's own values


@dataclass(frozen=True)
class ExpertFile:
    """Token log-probabilities of one expert."""

    domain: str
    url: str
    budget: float
    """Share of a full run that the expert trained."""
    number: int
    """Its trial; -1 for a file that was passed in."""


@dataclass(frozen=True)
class Observations:
    """Everything the numeric rooms may see of a study. n runs, d columns, M outputs."""

    space_dim: int
    X: Array
    """Inputs `[n, d]` of the finished runs, by trial number; cheap experts among them."""
    Y: Array
    """Losses `[n, M]`, minimised; NaN where a run lacks an output, infinities as they were."""
    outputs: tuple[str, ...]
    """Validation sets, or "value 0"... where no run reports any; then "constraint:<key>"."""
    numbers: npt.NDArray[np.int64]
    """Trial numbers `[n]`."""
    corner: npt.NDArray[np.bool_]
    """Whether the run `[n]` is an exact corner of the experts' mixture."""
    budget: Array
    """Share `[n]` of a full run that was trained."""
    pending: Array
    """Inputs `[p, d]` of running and enqueued trials."""
    experts: tuple[ExpertFile, ...]
    block: slice | None
    """Columns of the mixture that the experts belong to."""
    domains: tuple[str, ...]
    """Its domains."""
    objective: Objective
    n_told: int
    """Number of finished runs that count."""

    @property
    def fullest(self) -> dict[str, ExpertFile]:
        """The fullest file of each domain that has one."""
        return {e.domain: e for e in reversed(self.experts)}  # which come first


def is_plain(observations: Observations) -> bool:
    """Whether the outputs are the objective's own values, in the absence of reported losses."""
    return observations.outputs[:1] == (VALUE + "0",)
