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

    owner: str
    """Its id on the leases of its trials."""


@dataclass(frozen=True)
class Asked:
    """A trial is this worker's now; its mixture is being proposed."""

    number: int


@dataclass(frozen=True)
class TakenUp:
    """A trial that nobody worked on any more was brought to an end, or queued again."""

    number: int
    place: str
    """`host:pid` of the process that left it, as far as is known."""


@dataclass(frozen=True)
class Noted:
    """Something to know that is no trial's: the storage is away."""

    text: str


@dataclass(frozen=True)
class Waiting:
    """All trials that are wanted are at work elsewhere; the worker waits for their end."""


@dataclass(frozen=True)
class Exhausted:
    """As many trials are finished as are wanted."""


@dataclass(frozen=True)
class Superseded:
    """A trial of this worker's was brought to an end by another one meanwhile."""

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
    again: bool = False
    """Whether the run is queued again."""


@dataclass(frozen=True)
class Lost:
    """The worker died, whatever the reason; another one takes its place."""

    order: Order | None
    exitcode: int | None


Ended = Told | Trained | Failed | Exhausted | Superseded
"""After one of these the worker has no order any more."""
Event = Ready | Asked | TakenUp | Noted | Waiting | Training | Step | Ended | Lost
OnEvent = Callable[[int, Event], None]
