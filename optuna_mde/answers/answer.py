"""The answer of a study, and its text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from optuna_mde.answers.intervals import Interval
from optuna_mde.answers.rows import Row
from optuna_mde.answers.tables import rates_text, table_of
from optuna_mde.answers.trust import Trust


@dataclass(frozen=True)
class Recommendation:
    """The answer of a study. ``print`` it for a table."""

    mixture: dict[str, float]
    """Recommended rates, {domain: rate}."""
    params: dict[str, Any]
    """Recommended values of the other parameters."""
    objective: Interval
    """Predicted objective of the recommended mixture."""
    losses: dict[str, Interval]
    """Predicted losses of the recommended mixture, by validation set."""
    rows: tuple[Row, ...]
    """Recommended, natural, uniform, best expert, best seen: those that exist, in this order."""
    best_seen: Row | None
    """The best run so far."""
    trust: Trust
    """How well the surrogate predicts runs that it has not seen."""
    expected_gain: float
    """What the most promising other mixture is expected to improve on the recommended one, once
    its loss is known but for the noise of a run; nats per token."""
    noise_sd: float
    """Sd of a single run's objective around its noise-free value."""
    signal: bool
    """Whether mixtures differ by more than the noise of a run."""
    notes: tuple[str, ...]
    """What the reader should know beside the figures."""
    pareto: tuple[Row, ...] = ()
    """For several goals: predicted non-dominated mixtures."""

    def __str__(self) -> str:
        head = "Recommended: " + rates_text(self.mixture)
        if self.params:
            head += "; " + ", ".join(
                f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}"
                for k, v in self.params.items()
            )
        lines = [head, "", *table_of((*self.rows, *self.pareto)), ""]
        lines.append(f"Trust: {self.trust}.")
        lines.append(
            f"One more run is expected to gain {self.expected_gain:.4f} "
            f"(noise of a single run: {self.noise_sd:.4f})."
        )
        return "\n".join([*lines, *self.notes])
