"""Runs on this machine: in this process, in one of its own, by a command of the user's."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from optuna_mde_studies.runner.launchers.contract import OnStep, RunFailedError
from optuna_mde_studies.runner.launchers.folders import completed, filled, prepared
from optuna_mde_studies.runner.launchers.processes import perform
from optuna_mde_trainers.spec import LOCK_FILE, RESULT_FILE, RunResult, RunSpec

OUR_TRAINER = (
    sys.executable,
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

    seconds: float | None = None
    """Longest time of a run; None: no limit."""

    def run(self, spec: RunSpec, runs: Path, on_step: OnStep) -> RunResult:
        folder = prepared(spec, runs)
        perform(filled(OUR_TRAINER, folder), folder, self.seconds)
        return RunResult.read(folder / RESULT_FILE)

    def warm_up(self) -> None:
        """Nothing: every process has imports of its own."""


@dataclass(frozen=True)
class CommandLauncher:
    """Any trainer: a command that reads a spec and leaves a `result.json` with losses.

    The command is split as a shell would, and run without one. `{spec}` stands for the spec's
    file, `{out}` for the run's folder, `{runs}` for that of all runs.
    """

    command: tuple[str, ...]
    seconds: float | None = None

    def run(self, spec: RunSpec, runs: Path, on_step: OnStep) -> RunResult:
        folder = prepared(spec, runs)
        with FileLock(folder / LOCK_FILE):
            found = self.finished(spec, runs)
            if found is not None:
                return found
            (folder / RESULT_FILE).unlink(missing_ok=True)  # one that cannot be used
            began = time.monotonic()
            perform(filled(self.command, folder), folder, self.seconds)
            return completed(folder / RESULT_FILE, spec, time.monotonic() - began, write=True)

    def finished(self, spec: RunSpec, runs: Path) -> RunResult | None:
        path = spec.folder(runs) / RESULT_FILE
        try:
            return completed(path, spec, 0.0)
        except RunFailedError:
            return None

    def warm_up(self) -> None:
        """Nothing: the command does all."""
