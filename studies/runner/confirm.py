"""Whether the recommended mixture is truly better: fresh seeds, the same ones for every mixture.

The search has looked at its runs and picked what looked best, so its own figures flatter. Here the
mixtures that matter are trained again with seeds that nothing was chosen by, and compared seed by
seed: with weights and data order in common, half of the noise of a difference goes away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna_mde_studies.runner.experiment import accuracies, same_mixture
from optuna_mde_studies.runner.folder import StudyError
from optuna_mde_studies.runner.messages import RunOrder
from optuna_mde_studies.wording import listed
from optuna_mde_trainers.spec import (
    SUM_TOLERANCE,
    RunResult,
    ScoreSpec,
    explain,
    write_atomic,
)
from pydantic import BaseModel, ConfigDict, ValidationError
from scipy.special import stdtrit  # not scipy.stats, whose import takes as long as all others

from optuna_mde.answers.intervals import Interval
from optuna_mde.objective import Objective

if TYPE_CHECKING:
    from pathlib import Path

    from optuna_mde_studies.runner.experiment import Experiment

RECOMMENDED = "recommended"

FRESH_SEEDS = 10_000
"""Added to the seed of the search: far above the seeds of its own repeats."""


@dataclass(frozen=True)
class Difference:
    """Recommended minus another mixture, nats per token: below zero is better."""

    other: str
    mean: float
    low: float
    high: float

    @property
    def interval(self) -> Interval:
        """Mean and ends alone."""
        return Interval(self.mean, self.low, self.high)

    @property
    def is_better(self) -> bool:
        """Whether the interval lies below zero."""
        return self.high < 0

    @property
    def is_worse(self) -> bool:
        """Whether the interval lies above zero."""
        return self.low > 0


def paired_differences(
    values: Mapping[str, Sequence[float]], level: float = 0.95
) -> tuple[Difference, ...]:
    """Differences between the first mixture and each of the others, paired by seed.

    The variance of a difference is pooled over all pairs of mixtures. With m mixtures and s seeds
    that is twice the residual mean square of the two-way layout (mixture + seed), which has
    (m - 1)(s - 1) degrees of freedom, so that Student's t holds exactly for normal noise of one
    size. For two mixtures it is the paired t-test.

    Args:
        values: mixture -> one objective value a seed, in the same order of seeds; the first one
            is what the others are compared with.
        level: coverage of every interval.
    """
    names = list(values)
    Y = np.array([values[name] for name in names], dtype=float)  # [m, s]
    m, s = Y.shape
    residuals = Y - Y.mean(1, keepdims=True) - Y.mean(0, keepdims=True) + Y.mean()
    freedom = (m - 1) * (s - 1)
    variance = 2 * (residuals**2).sum() / freedom
    half = float(stdtrit(freedom, 0.5 + level / 2) * np.sqrt(variance / s))
    means = Y[0].mean() - Y[1:].mean(1)
    return tuple(
        Difference(name, float(mean), float(mean) - half, float(mean) + half)
        for name, mean in zip(names[1:], means, strict=True)
    )


@dataclass(frozen=True)
class FreshRun:
    """What a run of the recommended mixture with yet another seed is to reach."""

    mean: float
    """Mean over the fresh seeds so far."""
    low: float
    high: float


def fresh_run(values: Mapping[str, Sequence[float]], level: float = 0.9) -> FreshRun:
    """Interval of one more run of the first mixture, with a seed that no run has used.

    The variance between seeds is pooled over the mixtures. These share their seeds, so that it is
    credited no more degrees of freedom than one of them has.

    Args:
        values: mixture -> one objective value a seed.
        level: coverage of the interval.
    """
    Y = np.array(list(values.values()), dtype=float)  # [m, s]
    s = Y.shape[1]
    half = float(stdtrit(s - 1, 0.5 + level / 2))
    half *= float(np.sqrt(Y.var(axis=1, ddof=1).mean() * (1 + 1 / s)))
    mean = float(Y[0].mean())
    return FreshRun(mean, mean - half, mean + half)


class Confirmation(BaseModel):
    """Runs with fresh seeds, as they are kept beside the study."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    version: int = 1
    told: int
    """Finished trials of the study when it was asked what to recommend."""
    objective: str | None = None
    """What it minimised then, as `Objective.to_json` writes it."""
    seeds: list[int]
    mixtures: dict[str, dict[str, float]]
    """What is compared, the recommended mixture first: name -> domain -> rate."""
    losses: dict[str, list[dict[str, float]]] = {}
    """Name -> for every seed, validation set -> nats per token."""
    accuracy: dict[str, list[dict[str, float]]] = {}
    """Name -> for every seed, end task -> share of right choices; empty without end tasks."""
    tokens: int | None = None
    """Training tokens of all of its runs."""
    flops: float | None = None
    """Floating-point operations of their training."""
    device_seconds: float | None = None
    """Seconds of their training steps times devices."""

    @classmethod
    def read(cls, path: Path) -> Confirmation | None:
        """What was kept, if anything was.

        Raises:
            StudyError: if the file holds something else.
        """
        if not path.is_file():
            return None
        try:
            found = cls.model_validate_json(path.read_bytes())
            found._check_whole()
        except (OSError, ValueError) as error:
            reason = explain(error) if isinstance(error, ValidationError) else str(error)
            raise StudyError(
                f"{path} holds no confirmation ({reason}); delete it and confirm again: "
                "the runs are kept, and nothing is trained twice"
            ) from None
        return found

    def _check_whole(self) -> None:
        """Whether every mixture has a run of every seed, and all runs the same sets.

        Raises:
            ValueError: if not.
        """
        if len(self.seeds) < 2 or not self.mixtures:
            raise ValueError("it needs two seeds and a mixture")
        for name, rates in self.mixtures.items():
            if min(rates.values(), default=-1) < 0 or abs(sum(rates.values()) - 1) > SUM_TOLERANCE:
                raise ValueError(f"mixtures.{name}: no rates that sum to 1")
        sets = {frozenset(run) for runs in self.losses.values() for run in runs}
        if self.losses.keys() != self.mixtures.keys() or len(sets) != 1 or not all(sets):
            raise ValueError("losses: all sets of all mixtures are needed")
        for field in ("losses", "accuracy"):
            for name, runs in getattr(self, field).items():
                if len(runs) != len(self.seeds):
                    raise ValueError(
                        f"{field}.{name}: {len(runs)} runs of {len(self.seeds)} seeds"
                    )

    def write(self, path: Path) -> None:
        """Keeps it, atomically."""
        write_atomic(path, self.model_dump_json(indent=1) + "\n")

    def covers(self, objective: Objective) -> bool:
        """Whether its runs have a loss of every set that an objective weighs."""
        runs = [losses for found in self.losses.values() for losses in found]
        return all(name in losses for losses in runs for name in objective.sets)

    def named(self, mixture: Mapping[str, float]) -> str | None:
        """Under which name it compares a mixture, if it does."""
        names = (name for name, own in self.mixtures.items() if same_mixture(own, mixture))
        return next(names, None)

    def is_of(self, objective: str | None, sets: Sequence[str]) -> bool:
        """Whether it was made for an objective.

        Args:
            objective: as `Objective.to_json` writes it.
            sets: what a mean is over.
        """
        if self.objective is None or objective is None:
            return self.objective == objective
        one, other = (Objective.from_json(text) for text in (self.objective, objective))
        return one.averaging(sets).weighs_as(other.averaging(sets))

    def values(self, objective: Objective) -> dict[str, dict[str, list[float]]]:
        """Goal -> name -> objective value of every seed."""
        goals: dict[str, dict[str, list[float]]] = {goal: {} for goal in objective.names}
        for name, runs in self.losses.items():
            for goal, column in zip(
                goals, zip(*map(objective.values, runs), strict=True), strict=True
            ):
                goals[goal][name] = list(column)
        return goals

    def differences(self, objective: Objective) -> dict[str, tuple[Difference, ...]]:
        """Goal -> recommended minus each of the others, with 95 % intervals."""
        return {
            goal: paired_differences(values) for goal, values in self.values(objective).items()
        }

    def fresh_runs(self, objective: Objective) -> dict[str, FreshRun]:
        """Goal -> what a run of the recommended mixture with another seed is to reach."""
        return {goal: fresh_run(values) for goal, values in self.values(objective).items()}


def distinct(mixtures: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """The mixtures without those that another one before them is already."""
    kept: dict[str, dict[str, float]] = {}
    for name, mixture in mixtures.items():
        if not any(same_mixture(mixture, other) for other in kept.values()):
            kept[name] = dict(mixture)
    return kept


def fresh_seeds(search_seed: int, count: int) -> list[int]:
    """Seeds that no run of the search has used."""
    return [search_seed + FRESH_SEEDS + i for i in range(count)]


def orders(experiment: Experiment, confirmation: Confirmation) -> list[RunOrder]:
    """The runs of a confirmation, seed by seed, so that an early end leaves whole pairs."""
    return [
        RunOrder(
            f"{name}, seed {number}",
            experiment.launched(experiment.training(mixture, seed=seed), ScoreSpec()),
        )
        for number, seed in enumerate(confirmation.seeds, 1)
        for name, mixture in confirmation.mixtures.items()
    ]


def gather(confirmation: Confirmation, results: Sequence[RunResult]) -> Confirmation:
    """The confirmation with its losses and costs; `results` in the order of `orders`."""
    names = list(confirmation.mixtures)
    losses: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    accuracy: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for position, result in enumerate(results):
        losses[names[position % len(names)]].append(result.losses)
        accuracy[names[position % len(names)]].append(accuracies(result))
    ledgers = [result.ledger for result in results if result.ledger is not None]
    flops = [ledger.flops for ledger in ledgers if ledger.flops is not None]
    seconds = [ledger.device_seconds for ledger in ledgers if ledger.device_seconds is not None]
    cost: dict[str, Any] = {
        "tokens": sum(result.tokens for result in results),
        "flops": sum(flops) if flops else None,
        "device_seconds": sum(seconds) if seconds else sum(r.seconds for r in results),
    }
    if any(any(runs) for runs in accuracy.values()):
        cost["accuracy"] = accuracy
    return confirmation.model_copy(update={"losses": losses, **cost})


def verdict(differences: Sequence[Difference], n_seeds: int) -> str:
    """One sentence: what the recommended mixture is better than, beyond noise."""
    if not differences:
        return "The recommended mixture is the only one there is to compare."
    better = [d.other for d in differences if d.is_better]
    worse = [d.other for d in differences if d.is_worse]
    level = [d.other for d in differences if not d.is_better and not d.is_worse]
    if worse:
        return f"The recommended mixture is worse than {listed(worse)}: do not use it."
    if not better:
        return (
            f"Nothing is better than the noise: with {n_seeds} seeds no difference between the "
            f"recommended mixture and {listed(level)} can be told from zero."
        )
    sentence = f"The recommended mixture is better than {listed(better)}, beyond noise"
    return sentence + (f"; against {listed(level)} it is level within noise." if level else ".")
