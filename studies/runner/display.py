"""What the runner needs of whoever shows how far it is."""

from __future__ import annotations

from typing import Protocol

from optuna_mde_studies.runner.messages import Event


class Display(Protocol):
    """Shows a start of a study: stages, lines that stay, what every worker does."""

    total: int
    """Runs of this start, the confirming ones included, those found finished too."""
    done: int
    """How many of them are finished."""
    workers: int
    """How many are at work on the study, on all machines, when last looked."""
    best: str
    """What has been found so far, one line."""

    def counting(self, what: str, done: int, total: int) -> None:
        """From now on runs of this kind are counted, of which so many are done already."""

    def stage(self, text: str) -> None:
        """A new stage begins: `training the experts`."""

    def line(self, text: str) -> None:
        """A line that stays."""

    def finished(self, text: str) -> None:
        """A run has been told: one line with what came of it."""

    def event(self, worker: int, event: Event) -> None:
        """Follows what a worker does."""

    def start_workers(self, number: int) -> None:
        """So many workers are starting now."""
