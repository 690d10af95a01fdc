"""Processes that train, one run each at a time, and the runner's end of the wire to them.

Every worker has a pipe of its own: a killed process can then break nothing but its own pipe, where
a shared queue would stay locked for all. A worker that dies is replaced, and the runner is told
what it was working on.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna_mde_studies.runner.folder import StudyError, StudyFolder
from optuna_mde_studies.runner.messages import (
    Ended,
    Event,
    Lost,
    Noted,
    OnEvent,
    Order,
    Ready,
    Told,
    Trained,
)
from optuna_mde_studies.runner.sharing.owners import Owner, owner
from optuna_mde_studies.runner.signals import end_orderly

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess
    from types import TracebackType

    from optuna_mde_studies.definition.config import StudyConfig
    from optuna_mde_studies.runner.resources import Places
    from optuna_mde_studies.runner.worker import Worker

MAX_LOST = 3
"""Workers that may die one after the other, with nothing finished between, before we give up."""

GRACE_SECONDS = 10.0
"""How long workers have for a checkpoint on SIGTERM: Slurm and Kubernetes kill after 30 s."""

ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Two threads of one run beside another busy process can be 70 times slower than one."""


# --- the runner's side ---------------------------------------------------------------------------


@dataclass
class _Worker:
    index: int
    process: SpawnProcess
    connection: Connection
    order: Order | None = None
    ready: bool = False


@dataclass
class Pool:
    """Worker processes of one study; a context manager that leaves none behind."""

    folder: StudyFolder
    places: Places
    config: StudyConfig
    trains: bool = True
    """Whether workers load what training needs while they start; scoring needs less."""
    owners: set[str] = field(default_factory=set)
    """Ids of its processes, the dead ones too, as they stand on leases."""
    _workers: list[_Worker] = field(default_factory=list)
    _lost: int = 0

    def __enter__(self) -> Pool:
        self._workers = [self._start(index) for index in range(self.size)]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, SystemExit):  # a scheduler's, which gives some time
            self._terminate()
        for worker in self._workers:
            # Not terminate(): Lightning answers SIGTERM with an orderly end that can take long,
            # and a run is safe against SIGKILL anyway.
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()
        self._workers = []

    @property
    def size(self) -> int:
        """Workers in all."""
        return self.places.workers

    def _terminate(self) -> None:
        """Lets workers write checkpoints, for a while."""
        for worker in self._workers:
            worker.process.terminate()
        end = time.monotonic() + GRACE_SECONDS
        for worker in self._workers:
            worker.process.join(max(0.0, end - time.monotonic()))

    @property
    def num_busy(self) -> int:
        """Workers that have an order."""
        return sum(worker.order is not None for worker in self._workers)

    def run(self, next_order: Callable[[], Order | None], on_event: OnEvent) -> None:
        """Keeps the workers busy until there is no order left and none is at work.

        Args:
            next_order: the next order, or None if there is nothing to do at the moment; asked
                again whenever something has happened.
            on_event: hears the index of a worker and what happened to it.

        Raises:
            StudyError: if workers keep dying.
        """
        while True:
            dry = self._hand_out(next_order)
            if dry and not self.num_busy:
                return
            ends: list[Any] = [worker.connection for worker in self._workers]
            ends += [worker.process.sentinel for worker in self._workers]
            ended = set(wait(ends))
            for position, worker in enumerate(self._workers):
                alive = self._hear(worker, on_event) if worker.connection in ended else True
                if not alive or worker.process.sentinel in ended:
                    self._hear(worker, on_event)  # what it said before it died
                    self._workers[position] = self._replace(worker, on_event)

    def _hand_out(self, next_order: Callable[[], Order | None]) -> bool:
        """Gives every idle worker an order; says whether orders ran out."""
        for worker in self._workers:
            if not worker.ready or worker.order is not None:
                continue
            order = next_order()
            if order is None:
                return True
            worker.order = order
            with suppress(OSError):  # it died just now; its sentinel says so
                worker.connection.send(order)
        return False

    def _hear(self, worker: _Worker, on_event: OnEvent) -> bool:
        """Passes on what the worker has said; False once its end of the pipe is closed."""
        try:
            while worker.connection.poll():
                event = worker.connection.recv()
                if isinstance(event, Ready):
                    worker.ready = True
                    self.owners.add(event.owner)
                if isinstance(event, Ended):
                    worker.order = None
                if isinstance(event, Told | Trained):
                    self._lost = 0
                on_event(worker.index, event)
        except (EOFError, OSError):
            return False
        return True

    def _replace(self, worker: _Worker, on_event: OnEvent) -> _Worker:
        worker.process.kill()
        worker.process.join()
        worker.connection.close()
        on_event(worker.index, Lost(worker.order, worker.process.exitcode))
        self._lost += 1
        if self._lost >= MAX_LOST:
            log = log_file(self.folder, worker.index)
            raise StudyError(
                f"{self._lost} worker processes died one after the other (exit code "
                f"{worker.process.exitcode}{_killed_hint(worker.process.exitcode)}); "
                f"the last one's output is in {log}: {_last_line(log)}"
            )
        return self._start(worker.index)

    def _start(self, index: int) -> _Worker:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=work,
            args=(theirs, replace(self.folder, say=None), self.config, index, self.trains),
            name=f"worker-{index}",
            daemon=True,
        )
        with _variables(dict.fromkeys(ONE_THREAD, "1") | self.places.variables(index)):
            process.start()
        theirs.close()  # else its death would not close the pipe
        return _Worker(index, process, ours)


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Lets processes that are started here begin with variables; libraries read them on import."""
    before = {variable: os.environ.get(variable) for variable in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for variable, value in before.items():
            if value is None:
                del os.environ[variable]
            else:
                os.environ[variable] = value


def log_file(folder: StudyFolder, index: int) -> Path:
    """Where a worker's output goes; more than one machine may have its workers' here."""
    machine = f"{socket.gethostname()}-" if folder.url is not None else ""
    return folder.logs / f"worker-{machine}{index}.log"


def _killed_hint(exitcode: int | None) -> str:
    if exitcode == -signal.SIGKILL:
        return ": killed, most often for want of memory; try `--set launch.workers=1`"
    return ""


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return "(no output)"
    return next((line.strip() for line in reversed(lines) if line.strip()), "(no output)")


# --- the worker's side ---------------------------------------------------------------------------


def work(
    connection: Connection, folder: StudyFolder, config: StudyConfig, index: int, trains: bool
) -> None:
    """A worker process, from its start to the runner's end."""
    _end_with_runner()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the runner's to handle
    end_orderly()
    _write_to(log_file(folder, index))
    print(f"{datetime.now():%Y-%m-%d %H:%M:%S} worker process {os.getpid()}", flush=True)
    with owner() as me:
        worker = _worker(connection, folder, config, me, trains)
        while True:
            try:
                order = connection.recv()
            except EOFError:  # the runner is gone
                return
            worker.perform(order)


def _worker(
    connection: Connection, folder: StudyFolder, config: StudyConfig, me: Owner, trains: bool
) -> Worker:
    import optuna
    from optuna_mde_studies.runner.experiment import Experiment
    from optuna_mde_studies.runner.launchers import launcher
    from optuna_mde_studies.runner.worker import Worker
    from tqdm import tqdm  # type: ignore[import-untyped]

    def say(event: Event) -> None:
        try:
            connection.send(event)
        except OSError:  # the runner is gone: no fault of the run's
            os._exit(1)

    # Its default lock is a semaphore between processes, which a killed one leaves behind.
    tqdm.set_lock(threading.RLock())
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if trains:
        launcher(config.launch).warm_up()
    say(Ready(me.id))
    waits = replace(folder, say=lambda text: say(Noted(text)))
    # The corpus is made while the workers start.
    return Worker(lambda: Experiment.open(waits, config), me, say, sys.stderr)


def _end_with_runner() -> None:
    """Ends this process when the runner ends, however it does: nobody would tell its trial."""
    runner = parent_process()
    assert runner is not None, "a worker is started by its runner"

    def watch(sentinels: Iterable[Any]) -> None:
        wait(list(sentinels))
        os._exit(1)

    threading.Thread(target=watch, args=([runner.sentinel],), daemon=True).start()


def _write_to(path: Path) -> None:
    """Sends the output of this process, libraries' included, to a file: the terminal is live."""
    path.parent.mkdir(exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with path.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
