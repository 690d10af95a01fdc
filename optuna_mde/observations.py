"""The table between studies and numbers: what the rooms of numbers may see of a study.

Notation: n rows, one for each point at which a run reports losses; d columns of inputs ``X``; M
outputs ``Y``, minimised; G goals. A run may have several rows, be a shorter or smaller one, or
lack outputs that were scored for others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt

from optuna_mde.objective import CONSTRAINT, Objective
from optuna_mde.simplex.projection import Array

VALUE = "value "  # public names of the objective's own values start so


class Kind(Enum):
    """What an output is."""

    LOSS = "loss"
    """Loss of a validation set, nats per token."""
    VALUE = "value"
    """One of the objective's own values, of a study whose runs report no losses."""
    CONSTRAINT = "constraint"
    """Value of `trial.set_constraint`, feasible at or below 0."""


@dataclass(frozen=True)
class Output:
    """One column of ``Y``."""

    name: str
    """As users know it: the validation set, ``value 0``…, ``constraint:<key>``."""
    kind: Kind = Kind.LOSS
    maximised: bool = False
    """Whether the study maximises it, so that ``Y`` holds it with its sign turned."""
    added: bool = False
    """Whether no run reported it itself: its losses were added later."""

    @property
    def label(self) -> str:
        """The set, or the key of a constraint as the user named it."""
        return self.name.removeprefix(CONSTRAINT)


@dataclass(frozen=True)
class ExpertFile:
    """Token log-probabilities of one expert."""

    domain: str
    url: str
    budget: float
    """Share of a full run that the expert trained."""
    number: int
    """Its trial; -1 for a file that was passed in."""
    of: str = field(default="", kw_only=True)
    """The domain that it trained, where that was revised and it stands for a missing expert."""
    losses: tuple[tuple[str, float], ...] = ()
    """(set, nats per token) that the same trial reported; a file that was passed in has none."""
    more: tuple[str, ...] = ()
    """URLs of the same expert's files on sets that the first lacks."""


@dataclass(frozen=True)
class Observations:
    """Everything the numeric rooms may see of a study."""

    columns: tuple[str, ...]
    """Names of the d columns: the rates of every mixture, then the other parameters."""
    X: Array
    """Inputs `[n, d]` of the rows, by trial number."""
    Y: Array
    """Outputs `[n, M]`, minimised; NaN where a row lacks one, infinities as they were."""
    targets: tuple[Output, ...]
    """The M outputs."""
    numbers: npt.NDArray[np.int64]
    """Trial numbers `[n]` of the rows' runs."""
    corner: npt.NDArray[np.bool_]
    """Whether the row's run `[n]` is an exact corner of the experts' mixture: an expert."""
    budget: Array
    """Share `[n]` of a full run that the row's run trained."""
    schedule: Array
    """Share `[n]` of the run's own learning-rate schedule done at the row: 1 at its end."""
    tokens: Array
    """Tokens `[n]` trained until then; NaN where the run does not say."""
    parameters: Array
    """Parameters `[n]` of the run's model; NaN where it does not say."""
    pending: Array
    """Inputs `[p, d]` of running and enqueued trials."""
    stalled: Array
    """Inputs `[s, d]` of running trials whose worker is probably gone: nothing is expected of
    them, and nobody repeats them."""
    experts: tuple[ExpertFile, ...]
    """Log-probability files that exist, the fullest of each domain first."""
    refused: dict[str, str] = field(default_factory=dict, kw_only=True)
    """{domain: reason} of files that do not exist or may not be opened."""
    block: slice | None
    """Columns of the mixture that the experts belong to."""
    domains: tuple[str, ...]
    """Its domains."""
    retired: tuple[str, ...] = field(default=(), kw_only=True)
    """R domains of older runs that have become others, and whose experts' files are there."""
    shares: Array = field(default_factory=lambda: np.zeros((0, 0)), kw_only=True)
    """Shares `[R, K]` of the domains in each of them; rows sum to 1."""
    held: Array = field(default_factory=lambda: np.zeros((0, 0)), kw_only=True)
    """Rates `[n, R]` that a row's run trained of them; ``X`` holds them by share."""
    untried: bool = field(default=False, kw_only=True)
    """Whether a domain was split of whose parts no mixture was run at shares of their own."""
    objective: Objective
    """Goals over the outputs, and limits on them."""
    left_out: dict[int, str] = field(default_factory=dict)
    """{trial number: reason} of the finished trials from which nothing is learned."""

    @property
    def seen(self) -> Array:
        """Inputs `[n + p + s, d]` of all trials, told or not: what is no proposal."""
        return np.concatenate([self.X, self.pending, self.stalled])

    def ingredients(self, rows: npt.NDArray[np.bool_]) -> Array:
        """Rates `[m, K + R]` of some rows by experts: what a run trained of a domain that has
        become others is that domain's."""
        rates = self.X[rows][:, self.block]
        if not self.retired:
            return rates
        held = self.held[rows]
        return np.hstack([np.maximum(rates - held @ self.shares, 0.0), held])

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the M outputs."""
        return tuple(target.name for target in self.targets)

    @property
    def losses(self) -> tuple[int, ...]:
        """Outputs that goals may weigh: losses or plain values, and no constraints."""
        return tuple(i for i, t in enumerate(self.targets) if t.kind is not Kind.CONSTRAINT)

    @property
    def is_plain(self) -> bool:
        """Whether the outputs are the objective's own values, for want of reported losses."""
        return any(target.kind is Kind.VALUE for target in self.targets)

    @property
    def weights(self) -> Array:
        """Weights `[G, M]` of the goals; rows sum to 1.

        Raises:
            ObjectiveError: if a goal names a set that is not among the outputs.
        """
        losses = list(self.losses)
        W = np.zeros((len(self.objective.goals), len(self.targets)))
        W[:, losses] = self.objective.weights([self.targets[i].name for i in losses])
        return W

    @property
    def signs(self) -> Array:
        """`[M]` -1 for outputs whose sign is turned, else 1."""
        return np.where([target.maximised for target in self.targets], -1.0, 1.0)

    @property
    def goal_signs(self) -> Array:
        """`[G]` -1 for goals over outputs whose sign is turned, else 1."""
        turned = self.signs < 0
        return np.where((self.weights[:, ~turned] == 0).all(axis=1) & turned.any(), -1.0, 1.0)

    @property
    def full(self) -> npt.NDArray[np.bool_]:
        """Rows `[n]` at the end of a full run: what the model learns from, so far."""
        full: npt.NDArray[np.bool_] = (self.budget >= 1.0) & (self.schedule >= 1.0)
        return full

    @property
    def mixed(self) -> npt.NDArray[np.bool_]:
        """Rows `[n]` of full runs that are no experts."""
        mixed: npt.NDArray[np.bool_] = self.full & ~self.corner
        return mixed

    @property
    def fullest(self) -> dict[str, ExpertFile]:
        """The fullest file of each domain that has one."""
        return {e.domain: e for e in reversed(self.experts)}  # which come first
