"""The answer of a study, and its text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from optuna_mde.answers.bounds import Bound
from optuna_mde.answers.differences import Against
from optuna_mde.answers.intervals import Interval
from optuna_mde.answers.rows import Row
from optuna_mde.answers.seeds import FreshSeed
from optuna_mde.answers.tables import held_by, rates_text, text_of
from optuna_mde.answers.trust import Trust


@dataclass(frozen=True)
class Recommendation:
    """The answer of a study. ``print`` it for a table."""

    mixture: dict[str, float]
    """Recommended rates, {domain: rate}."""
    params: dict[str, Any]
    """Recommended values of the other parameters."""
    objective: Interval
    """Predicted objective of the recommended mixture, see `Row.objective`. For the training seed
    that the runs share."""
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
    its loss is known but for the noise of a run; nats per token. Of several plain objective values
    the mean of all, each in units of its spread over the runs."""
    noise_sd: float
    """Sd of a single run around its noise-free value, in the same unit."""
    signal: bool
    """Whether mixtures differ by more than the noise of a run."""
    notes: tuple[str, ...]
    """What the reader should know beside the figures, `warnings` first."""
    pareto: tuple[Row, ...] = ()
    """For several goals: predicted non-dominated mixtures."""

    goals: tuple[str, ...] = ()
    """Names of several goals, in the order of `Row.goals`."""
    fresh_seed: FreshSeed | None = None
    """What to expect of a run with another training seed, where repeated runs tell."""
    against: Against | None = None
    """The recommended mixture minus the natural one, or the uniform one where that is unknown."""
    bounds: tuple[Bound, ...] = ()
    """Floors, caps, linear constraints and limits that hold the recommended mixture, those that
    are worth most first."""
    limits: dict[str, float] = field(default_factory=dict)
    """Limits in force: validation set -> nats per token that its loss must not exceed."""
    warnings: tuple[str, ...] = ()
    """Those of the notes that no program should act without: figures that are a guess, a limit
    that is not kept, an expert's file that is left out."""
    weights: dict[str, dict[str, float]] = field(default_factory=dict)
    """What was minimised: goal -> {validation set (or objective value): weight}, 0 left out."""

    @property
    def on_seeds(self) -> str:
        """Which training seed the intervals are for, in a sentence or two."""
        if self.fresh_seed is None:
            return (
                "Intervals are for the training seed that these runs share: another seed shifts "
                "all losses, by how much is not known without repeated runs."
            )
        found = self.fresh_seed.interval
        return (
            f"Intervals are for the training seed that most of these runs share. With a fresh "
            f"seed, a run of the recommended mixture lies in {found.low:.4f} … {found.high:.4f} "
            f"(90 %, by {self.fresh_seed.repeats} repeated runs)."
        )

    def __str__(self) -> str:
        head = "Recommended: " + rates_text(self.mixture)
        if self.params:
            head += "; " + ", ".join(
                f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}"
                for k, v in self.params.items()
            )
        if not self.signal:
            head += " (a guess: no winner stands out from the noise)"
        lines = [head, "", *text_of((*self.rows, *self.pareto), self.goals), "", self.on_seeds]
        if self.bounds:
            lines.append(f"Held by: {held_by(self.bounds)}.")
        lines.append(f"Trust: {self.trust}.")
        lines.append(
            f"One more run is expected to gain {self.expected_gain:.4f} "
            f"(noise of a single run: {self.noise_sd:.4f})."
        )
        return "\n".join([*lines, *self.notes])
