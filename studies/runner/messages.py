"""Orders and events: all that the runner and its workers say to each other.

The runner hands out *orders* (ask the study for a trial and run it; run this spec) and hears
*events*.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna_mde_trainers.spec import RunResult, RunSpec


@dataclass(frozen=True)
class SearchOrder:
    """Ask the study for a trial, run it and tell it."""


@dataclass(frozen=True)
class RunOrder:
    """Train one spec that belongs to no trial."""

    name: str
    """What the run is, for people: `natural, seed 2`."""
    spec: RunSpec


Order = SearchOrder | RunOrder


@dataclass(frozen=True)
class Ready:
    """The worker has started."""


@dataclass(frozen=True)
class Asked:
    """A trial is this worker's now; its mixture is being proposed."""

    number: int


@dataclass(frozen=True)
class Training:
    """A run begins."""

    name: str
    mixture: dict[str, float]


@dataclass(frozen=True)
class Step:
    step: int
    total: int


@dataclass(frozen=True)
class Told:
    """A trial is finished and told."""

    number: int


@dataclass(frozen=True)
class Trained:
    """A run that belongs to no trial is finished."""

    order: RunOrder
    result: RunResult


@dataclass(frozen=True)
class Failed:
    """An order came to nothing; the worker lives on."""

    order: Order
    message: str


@dataclass(frozen=True)
class Lost:
    """The worker died, whatever the reason; another one takes its place."""

    order: Order | None
    exitcode: int | None


Event = Ready | Asked | Training | Step | Told | Trained | Failed | Lost
OnEvent = Callable[[int, Event], None]
