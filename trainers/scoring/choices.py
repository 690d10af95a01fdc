"""What a model makes of an end-task set: each example's loss, and if the right choice wins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from optuna_mde_trainers.spec import TaskResult

if TYPE_CHECKING:
    import datasets
    import numpy.typing as npt

COLUMNS = ("example", "is_right", "target_tokens", "target_bytes")


@dataclass(frozen=True)
class ChoiceScores:
    """Every choice of every example, `[rows]` each, in the order of the set's rows."""

    logprob: npt.NDArray[np.float32]
    """Sum over the choice's tokens, nats."""
    example: npt.NDArray[np.int32]
    """Place of the example, ascending."""
    is_right: npt.NDArray[np.bool_]
    target_tokens: npt.NDArray[np.int32]
    target_bytes: npt.NDArray[np.int32]
    """Of UTF-8."""

    @classmethod
    def of(cls, rows: datasets.Dataset, logprobs: list[np.ndarray]) -> ChoiceScores:
        """From a set's rows and the log-probabilities of their targets."""
        table = rows.with_format("numpy")
        sums = np.array([values.sum(dtype=np.float64) for values in logprobs], np.float32)
        return cls(sums, *(np.asarray(table[name]) for name in COLUMNS))

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Name -> array, all of them."""
        return {"logprob": self.logprob, **{name: getattr(self, name) for name in COLUMNS}}

    @property
    def losses(self) -> npt.NDArray[np.float64]:
        """`[examples]` mean loss of the right choice, nats per target token."""
        right = self.is_right
        return -self.logprob[right].astype(np.float64) / self.target_tokens[right]

    def accuracy(self, lengths: npt.NDArray[np.int32] | None = None) -> float | None:
        """Share of the examples whose right choice has the largest log-probability.

        Args:
            lengths: what each is divided by first; None: by nothing.

        Returns:
            None where no example has a choice.
        """
        if len(self.example) == self.is_right.sum():
            return None
        values = self.logprob if lengths is None else self.logprob / lengths
        starts = np.flatnonzero(np.diff(self.example, prepend=-1))
        best = np.maximum.reduceat(np.where(self.is_right, -np.inf, values), starts)
        return float((values[self.is_right] > best).mean())

    @property
    def summary(self) -> TaskResult:
        """What the run's result says of it."""
        return TaskResult(
            examples=int(self.is_right.sum()),
            example_loss=float(self.losses.mean()),
            accuracy=self.accuracy(),
            accuracy_norm=self.accuracy(self.target_bytes),
        )
