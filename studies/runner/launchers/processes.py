"""A process of its own for a run: it gives its memory back, and its crash is that of one run.

It ends with the process that started it, however that ends: `supervisor` sees to it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from optuna_mde_studies.runner.launchers.contract import RunFailedError

if TYPE_CHECKING:
    from optuna_mde_trainers.spec import LaunchSpec

TORCHRUN = "torch/distributed/elastic"
"""In what torchrun says itself."""
PYTHON = "{python}"
"""In a command of ours: the interpreter of the machine that runs it."""
CHECKPOINT_SECONDS = 8.0
"""What a command has for a checkpoint on SIGTERM: less than the worker that waits for it has."""
OUTPUT_FILE = "output.log"
"""In the run's folder: what a process of its own has printed."""


@dataclass(frozen=True)
class Here:
    """On this machine, with the devices that this process may see."""

    seconds: float | None = None
    """Longest time of a run; None: no limit."""

    def perform(self, command: Sequence[str], folder: Path, launch: LaunchSpec) -> None:
        perform(command, folder, self.seconds)


HERE = Here()


def attempt(command: Sequence[str], folder: Path, seconds: float | None) -> str:
    """What another machine is told to do: `perform`, with what went wrong as a text."""
    if not folder.is_dir():
        return (
            f"{socket.gethostname()} does not see {folder}: the study's folder must lie on a disk "
            "that all machines share"
        )
    try:
        perform(command, folder, seconds)
    except RunFailedError as error:
        return str(error)
    return ""


def perform(command: Sequence[str], folder: Path, seconds: float | None) -> None:
    """Runs a command to its end; its output goes to the run's folder.

    Raises:
        RunFailedError: if it cannot be started, takes too long or ends with another code than 0.
    """
    command = [sys.executable if part == PYTHON else part for part in command]
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
        except SystemExit:  # SIGTERM: whoever sent it gives some time
            _ask_to_end(process)
            _end(process)
            raise
        except BaseException:
            _end(process)
            raise
    if code:
        raise RunFailedError(f"{_ending(code)}{_last_words(log, began)}")


def _ask_to_end(process: subprocess.Popen[bytes]) -> None:
    """Lets a command write a checkpoint, for a while."""
    assert process.stdin is not None
    with suppress(OSError, subprocess.TimeoutExpired):  # it has just ended; it goes on
        os.write(process.stdin.fileno(), b"t")
        process.wait(CHECKPOINT_SECONDS)


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
    agent = next((n for n, line in enumerate(lines) if TORCHRUN in line), None)
    if agent is not None:  # the first rank's words come before those that lost it, and torchrun's
        lines = [line for line in lines[:agent] if not line.startswith("[rank")] or lines[:agent]
    said = f": {lines[-1][:300]}" if lines else ", without a word"
    return f"{said} (all of it in {log})"
