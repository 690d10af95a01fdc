"""Storages by their URLs: made once, locked, waited for, mended."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
import pytest
from filelock import Timeout
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna_mde_studies.runner.sharing import storages
from optuna_mde_studies.runner.sharing.journal import MendedJournal
from optuna_mde_studies.runner.sharing.patience import is_away, patient
from optuna_mde_studies.runner.sharing.storages import StorageError, lock, open_storage
from optuna_mde_studies.wording import shown
from sqlalchemy.exc import OperationalError

from tests.servers import postgresql_server

FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgresql_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "journal", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("server"))
    return {"sqlite": f"sqlite:///{tmp_path}/study.db", "journal": f"journal:{tmp_path}/log"}[
        request.param
    ]


def at_once(number: int, act: Any, *arguments: Any) -> list[int | None]:
    """Exit codes of so many processes that do something in the same instant."""
    begin = FORK.Barrier(number)

    def wait_and_act() -> None:
        begin.wait()
        act(*arguments)

    processes = [FORK.Process(target=wait_and_act) for _ in range(number)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def begin(url: str, folder: Path) -> None:
    storage = open_storage(url, folder)
    optuna.create_study(study_name="s", storage=storage, load_if_exists=True)


def test_eight_processes_begin_at_once_on_an_empty_storage(url: str, tmp_path: Path) -> None:
    assert at_once(8, begin, url, tmp_path) == [0] * 8
    assert optuna.get_all_study_names(open_storage(url, tmp_path)) == ["s"]


def add_one(url: str, folder: Path, path: Path) -> None:
    for _ in range(5):
        with lock(url, folder, "ask"):
            number = int(path.read_text())
            time.sleep(0.002)
            path.write_text(str(number + 1))


def test_one_process_at_a_time_holds_the_lock(url: str, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    assert at_once(6, add_one, url, tmp_path, counter) == [0] * 6
    assert counter.read_text() == "30"


def hold_and_die(url: str, folder: Path) -> None:
    lock(url, folder, "ask").__enter__()
    os._exit(7)


def test_a_dead_process_holds_no_lock(url: str, tmp_path: Path) -> None:
    assert at_once(1, hold_and_die, url, tmp_path) == [7]
    began = time.monotonic()
    with lock(url, tmp_path, "ask"):
        pass
    assert time.monotonic() - began < 5


def test_a_lock_that_others_hold_is_waited_for_so_long(url: str, tmp_path: Path) -> None:
    with lock(url, tmp_path, "ask"):
        with lock(url, tmp_path, "turn"):  # another name, another lock
            pass
        began = time.monotonic()
        late = pytest.raises((Timeout, OperationalError))
        with late as raised, lock(url, tmp_path, "ask", seconds=0.2):
            pass
        assert is_away(raised.value)
        assert 0.15 < time.monotonic() - began < 10


@pytest.mark.parametrize(
    "url", ["study.db", "redis://localhost", "http://localhost", "", "grpc://host"]
)
def test_what_is_no_storage_is_said(url: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="write"):
        open_storage(url, tmp_path)


def test_the_package_of_a_driver_is_named(tmp_path: Path) -> None:
    for scheme, module, package in (
        ("mysql+pymysql", "pymysql", "pymysql"),
        ("mysql", "MySQLdb", "mysqlclient"),
        ("postgresql+psycopg2", "psycopg2", "psycopg2-binary"),
    ):
        if find_spec(module) is None:
            with pytest.raises(StorageError, match=f"not installed: pip install '{package}'"):
                open_storage(f"{scheme}://me@host/db", tmp_path)


def test_a_proxy_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("grpc")
    monkeypatch.setattr(storages, "PROXY_SECONDS", 0.2)
    with pytest.raises(StorageError, match=r"no proxy answers at 127\.0\.0\.1:1 .*; start it"):
        open_storage("grpc://127.0.0.1:1", tmp_path)


def test_passwords_are_not_shown() -> None:
    assert shown("postgresql://me:se:cr@et@host/db") == "postgresql://me:***@host/db"
    assert shown("postgresql://me@host/db") == "postgresql://me@host/db"
    assert shown("mysql://host/db?user=me&password=secret&a=b").endswith("&password=***&a=b")
    assert shown("sqlite:///a@b:c.db") == "sqlite:///a@b:c.db"


def journal(path: Path) -> JournalStorage:
    return JournalStorage(MendedJournal(str(path)))


def test_a_journals_cut_last_line_is_survived(tmp_path: Path) -> None:
    path = tmp_path / "log"
    study = optuna.create_study(study_name="s", storage=journal(path))
    study.set_user_attr("a", 1)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":2,"worker_id":"killed while it')
    assert optuna.load_study(study_name="s", storage=journal(path)).user_attrs == {"a": 1}
    study.set_user_attr("b", 2)
    plain = JournalStorage(JournalFileBackend(str(path)))  # Optuna's own reads on
    assert optuna.load_study(study_name="s", storage=plain).user_attrs == {"a": 1, "b": 2}
    assert [json.loads(line) for line in path.read_bytes().splitlines()]


def die_with_the_journals_lock(path: Path) -> None:
    MendedJournal(str(path))._lock.acquire()
    os._exit(7)


def test_a_dead_writer_stalls_nobody(tmp_path: Path) -> None:
    path = tmp_path / "log"
    study = optuna.create_study(study_name="s", storage=journal(path))
    assert at_once(1, die_with_the_journals_lock, path) == [7]
    assert (tmp_path / "log.lock").is_symlink()
    began = time.monotonic()
    study.set_user_attr("a", 1)
    assert time.monotonic() - began < 5  # Optuna's own waits for 30
    assert study.user_attrs == {"a": 1}


def test_optunas_own_lock_is_respected(tmp_path: Path) -> None:
    path = tmp_path / "log"
    study = optuna.create_study(study_name="s", storage=journal(path))
    theirs = JournalFileBackend(str(path))._lock
    theirs.acquire()
    writes = threading.Thread(target=study.set_user_attr, args=("a", 1))
    writes.start()
    writes.join(0.2)
    assert writes.is_alive()
    theirs.release()
    writes.join(10)
    assert not writes.is_alive()


def test_a_storage_that_is_away_is_waited_for(tmp_path: Path) -> None:
    path, away = tmp_path / "log", tmp_path / "away"
    said: list[str] = []
    storage = patient(journal(path), said.append)
    study = optuna.create_study(study_name="s", storage=storage)
    path.rename(away)
    back = threading.Timer(1.0, away.rename, args=(path,))
    back.start()
    study.set_user_attr("a", 1)
    back.join()
    assert study.user_attrs == {"a": 1}
    assert len(said) == 2
    assert "the storage does not answer (" in said[0]
    assert said[1] == "the storage answers again"


def test_a_mistake_is_not_waited_for(tmp_path: Path) -> None:
    storage = patient(open_storage(f"sqlite:///{tmp_path}/s.db", tmp_path), print)
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    study.tell(trial, 1.0)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        trial.set_user_attr("a", 1)
    with pytest.raises(KeyError):
        optuna.load_study(study_name="none", storage=storage)


def test_a_server_that_is_not_there_is_away() -> None:
    with pytest.raises(StorageError) as raised:
        open_storage("postgresql+psycopg://me@127.0.0.1:1/db", Path())
    assert is_away(raised.value)
    assert storages.kind("mysql+pymysql://me@host/db") == "mysql"
