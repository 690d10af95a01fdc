"""What a launcher is to those who have runs performed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from optuna_mde_trainers.spec import LaunchSpec, RunResult, RunSpec

OnStep = Callable[[int, int], None]


class RunFailedError(RuntimeError):
    """A run came to nothing; the message says how it ended, and its last words."""


class Launcher(Protocol):
    """Performs runs."""

    def run(self, spec: RunSpec, runs: Path, on_step: OnStep) -> RunResult:
        """Trains and scores, or takes the result of a run that is finished already.

        Args:
            spec: the run.
            runs: folder of all runs; this one's is `spec.folder(runs)`.
            on_step: called with the steps done and all steps, by a launcher that knows.

        Raises:
            RunFailedError: if its process failed, or left no result that can be used.
            RunError, DivergedError: as our trainer raises them, in this process.
        """

    def finished(self, spec: RunSpec, runs: Path) -> RunResult | None:
        """What a finished run has left; None if it is not finished."""

    def warm_up(self) -> None:
        """Whatever takes seconds and serves every run: better now than inside the first."""


class Place(Protocol):
    """Where a process of its own runs."""

    def perform(self, command: Sequence[str], folder: Path, launch: LaunchSpec) -> None:
        """Runs a command to its end; its output goes to the run's folder.

        Args:
            command: as `folders.filled` gives it.
            folder: the run's, absolute.
            launch: the devices that the run needs.

        Raises:
            RunFailedError: if it cannot be started, takes too long or ends with a code but 0.
        """
