"""Who performs runs: our trainer, here or in a process of its own, or a command of the user's."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from optuna_mde_studies.runner.launchers.contract import OnStep, Place, RunFailedError
from optuna_mde_studies.runner.launchers.folders import completed, filled, prepared
from optuna_mde_studies.runner.launchers.processes import HERE, OUTPUT_FILE, PYTHON
from optuna_mde_trainers.spec import (
    RESULT_FILE,
    UNUSABLE_FILE,
    CheckpointWarning,
    RunResult,
    RunSpec,
)

COMMAND_LOCK = "command.lock"
"""Held while a command is at work; not our trainer's, which the command may start."""
OUR_TRAINER = (
    PYTHON,
    "-c",
    "from optuna_mde_studies.cli import main; main()",
    "train",
    "{spec}",
    "--runs",
    "{runs}",
)


class InProcessLauncher:
    """Our trainer, here."""

    def run(self, spec: RunSpec, runs: Path, on_step: OnStep) -> RunResult:
        from optuna_mde_trainers.run import train

        return train(spec, runs, on_step=on_step)

    def finished(self, spec: RunSpec, runs: Path) -> RunResult | None:
        path = spec.folder(runs) / RESULT_FILE
        return RunResult.read(path) if path.is_file() else None

    def warm_up(self) -> None:
        import optuna_mde_trainers.training.fit  # noqa: F401


@dataclass(frozen=True)
class SubprocessLauncher(InProcessLauncher):
    """Our trainer, in a process for every run."""

    place: Place = HERE
    command: tuple[str, ...] = OUR_TRAINER

    def run(self, spec: RunSpec, runs: Path, on_step: OnStep) -> RunResult:
        folder = prepared(spec, runs)
        aside, before = folder / UNUSABLE_FILE, _written(folder / UNUSABLE_FILE)
        self.place.perform(filled(self.command, folder), folder, spec.launch)
        if _written(aside) != before:  # it has said so to its log alone
            warnings.warn(CheckpointWarning(folder, f"see {OUTPUT_FILE} beside it"), stacklevel=2)
        return RunResult.read(folder / RESULT_FILE)

    def warm_up(self) -> None:
        """Nothing: every process has imports of its own."""


def _written(path: Path) -> int | None:
    """When a file was written; a new one has been, too."""
    return path.stat().st_mtime_ns if path.exists() else None


def under_torchrun(processes: int) -> tuple[str, ...]:
    """Our trainer, with the ranks of a run started by torchrun."""
    options = ("--standalone", f"--nproc-per-node={processes}", "--no-python")
    return (PYTHON, "-m", "torch.distributed.run", *options, *OUR_TRAINER)


@dataclass(frozen=True)
class CommandLauncher:
    """Any trainer: a command that reads a spec and leaves a `result.json` with losses.

    The command is split as a shell would, and run without one. `{spec}` stands for the spec's
    file, `{out}` for the run's folder, `{runs}` for that of all runs.
    """

    command: tuple[str, ...]
    place: Place = HERE

    def run(self, spec: RunSpec, runs: Path, on_step: OnStep) -> RunResult:
        folder = prepared(spec, runs)
        with FileLock(folder / COMMAND_LOCK):
            found = _left(spec, runs)
            if found is not None:
                return found
            (folder / RESULT_FILE).unlink(missing_ok=True)  # one that cannot be used
            began = time.monotonic()
            self.place.perform(filled(self.command, folder), folder, spec.launch)
            return completed(folder / RESULT_FILE, spec, time.monotonic() - began, write=True)

    def finished(self, spec: RunSpec, runs: Path) -> RunResult | None:
        found = _left(spec, runs)
        # A program that ends is not over yet: what it leaves unsaid is written by who started it.
        return None if found is not None and _is_at_work(spec.folder(runs)) else found

    def warm_up(self) -> None:
        """Nothing: the command does all."""


def _left(spec: RunSpec, runs: Path) -> RunResult | None:
    """What a command has left, if it can be used."""
    try:
        return completed(spec.folder(runs) / RESULT_FILE, spec, 0.0)
    except RunFailedError:
        return None


def _is_at_work(folder: Path) -> bool:
    """Whether a process holds the run of a folder."""
    try:
        with FileLock(folder / COMMAND_LOCK, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a folder to read alone
        return False
