"""How a run is started: in this process, in one of its own, or by a command of the user's.

This is the one place that knows it. A launcher gets a spec and gives what came of the run; between
them stands the run's folder, with `spec.json` and `result.json`.

A process of its own gives its memory back, and its crash is that of one run. It ends with the
process that started it, however that ends: `supervisor` sees to it.
"""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from filelock import FileLock
from optuna_mde_trainers.spec import (
    LOCK_FILE,
    RESULT_FILE,
    SPEC_FILE,
    RunResult,
    RunSpec,
    explain,
)
from pydantic import ValidationError

if TYPE_CHECKING:
    from optuna_mde_studies.definition.config import WorkersConfig

OnStep = Callable[[int, int], None]
OUTPUT_FILE = "output.log"
"""In the run's folder: what a process of its own has printed."""
OUR_TRAINER = (
    sys.executable,
    "-c",
    "from optuna_mde_studies.cli import main; main()",
    "train",
    "{spec}",
    "--runs",
    "{runs}",
)


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


def launcher(launch: WorkersConfig) -> Launcher:
    """The launcher that a definition asks for."""
    seconds = None if launch.time_limit is None else 60 * launch.time_limit
    if launch.command is not None:
        return CommandLauncher(tuple(shlex.split(launch.command)), seconds)
    if launch.launcher == "subprocess":
        return SubprocessLauncher(seconds)
    return InProcessLauncher()


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
        folder = _prepared(spec, runs)
        _perform(_filled(OUR_TRAINER, folder), folder, self.seconds)
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
        folder = _prepared(spec, runs)
        with FileLock(folder / LOCK_FILE):
            found = self.finished(spec, runs)
            if found is not None:
                return found
            (folder / RESULT_FILE).unlink(missing_ok=True)  # one that cannot be used
            began = time.monotonic()
            _perform(_filled(self.command, folder), folder, self.seconds)
            return _completed(folder / RESULT_FILE, spec, time.monotonic() - began, write=True)

    def finished(self, spec: RunSpec, runs: Path) -> RunResult | None:
        path = spec.folder(runs) / RESULT_FILE
        try:
            return _completed(path, spec, 0.0)
        except RunFailedError:
            return None

    def warm_up(self) -> None:
        """Nothing: the command does all."""


def _prepared(spec: RunSpec, runs: Path) -> Path:
    """The run's folder, with the spec in it; absolute, because the command may go elsewhere."""
    folder = spec.folder(runs).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    spec.write(folder / SPEC_FILE)
    return folder


def _filled(command: Sequence[str], folder: Path) -> list[str]:
    places = {
        "{spec}": str(folder / SPEC_FILE),
        "{out}": str(folder),
        "{runs}": str(folder.parent),
    }
    filled = []
    for part in command:
        for name, value in places.items():  # not format(): other braces are the command's
            part = part.replace(name, value)
        filled.append(part)
    return filled


def _perform(command: Sequence[str], folder: Path, seconds: float | None) -> None:
    """Runs a command to its end; its output goes to the run's folder.

    Raises:
        RunFailedError: if it cannot be started, takes too long or ends with another code than 0.
    """
    supervisor = Path(__file__).with_name("supervisor.py")
    log = folder / OUTPUT_FILE
    with ExitStack() as stack:
        output = stack.enter_context(log.open("ab"))
        began = output.tell()
        process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, str(supervisor), *command],
                stdin=subprocess.PIPE,  # its end tells the supervisor that we are gone
                stdout=output,
                stderr=output,
            )
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            _end(process)
            raise RunFailedError(
                f"took longer than launch.time_limit ({seconds / 60 if seconds else 0:g} minutes) "
                f"and was ended{_last_words(log, began)}"
            ) from None
        except BaseException:
            _end(process)
            raise
    if code:
        raise RunFailedError(f"{_ending(code)}{_last_words(log, began)}")


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


def _ending(code: int) -> str:
    """An exit code in words; the supervisor gives 128 + the signal, as shells do."""
    if code <= 128:
        return f"exit code {code}"
    number = code - 128
    name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
    hint = ", most often for want of memory" if name == "SIGKILL" else ""
    return f"ended by {name}{hint}"


def _last_words(log: Path, began: int) -> str:
    """The last line that was printed from a place on, and where the others are."""
    text = log.read_bytes()[began:].decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = f": {lines[-1][:300]}" if lines else ", without a word"
    return f"{said} (all of it in {log})"


def _completed(path: Path, spec: RunSpec, seconds: float, *, write: bool = False) -> RunResult:
    """A result of which only the losses need be given; the rest is what the spec says of it."""
    if not path.is_file():
        raise RunFailedError(f"the command has ended well, but left no {path}")
    training = spec.training
    try:
        found: Any = json.loads(path.read_bytes())
        if not isinstance(found, Mapping):
            raise ValueError("it is no mapping")
        block = _block_size(spec)
        known = {
            "bits_per_byte": {},
            "set_fingerprints": {},
            "train_loss": 0.0,
            "tokens": training.max_steps * training.global_batch_size * block,
            "parameters": 0,
            "realised": {},
            "seconds": seconds,
        }
        result = RunResult.model_validate({**known, **found})
    except ValidationError as error:
        raise RunFailedError(f"{path}: {explain(error)}") from None
    except ValueError as error:
        raise RunFailedError(f"{path} holds no result ({error})") from None
    if write and set(found) != set(result.model_dump()):
        result.write(path)
    return result


def _block_size(spec: RunSpec) -> int:
    from optuna_mde_trainers.corpus.blocks import Corpus

    return Corpus.load(spec.launch.corpus_folder).block_size
