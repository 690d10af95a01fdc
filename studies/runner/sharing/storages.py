"""Storages by their URLs, as Optuna has them, and the lock that the workers of a study share.

| URL | storage | the lock |
|---|---|---|
| `sqlite:///study.db` | a file, for one machine | a file beside it |
| `postgresql+psycopg://…`, `mysql+pymysql://…` | a database | the database's own |
| `journal:study.log` | a file on a disk that machines share | a file beside it |
| `grpc://host:port` | Optuna's proxy before one of these | a file among the shared runs |
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from optuna_mde_studies.runner.sharing.patience import reason
from optuna_mde_studies.wording import shown

if TYPE_CHECKING:
    from optuna.storages import BaseStorage, RDBStorage
    from sqlalchemy import Engine

WAIT_SECONDS = 120.0
"""How long a writer waits for the others. SQLite's default of 5 is short on a loaded machine."""

DRIVERS = {"MySQLdb": "mysqlclient", "psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary"}
"""Packages of drivers that are imported under other names."""
PROXY_SECONDS = 10.0
"""For a gRPC proxy to answer when it is asked first."""


class StorageError(ValueError):
    """A storage that cannot be opened; the message says why."""


def kind(url: str) -> str:
    """`sqlite`, `postgresql`, `mysql`, `journal` or `grpc`.

    Raises:
        StorageError: if it is none of these.
    """
    scheme, colon, _ = url.partition(":")
    name = scheme.partition("+")[0]
    if colon and name in ("sqlite", "postgresql", "mysql", "journal", "grpc"):
        return name
    raise StorageError(
        f"{shown(url)!r} is no storage; write sqlite:///study.db, "
        "postgresql+psycopg://user:password@host/database, mysql+pymysql://…, journal:study.log "
        "or grpc://host:port"
    )


def open_storage(url: str, shared: Path) -> BaseStorage:
    """The storage, ready for several writing processes; its tables are made by one of them.

    Raises:
        StorageError: if it cannot be opened.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        # Optuna looks for its tables and then makes them: of eight processes that begin at once
        # on an empty SQLite file, one lives.
        with lock(url, shared, "tables"):
            return _opened(url)
    except ModuleNotFoundError as error:
        package = DRIVERS.get(str(error.name), error.name)
        raise StorageError(
            f"it needs the package {package}, which is not installed: pip install '{package}'"
        ) from error
    except (SQLAlchemyError, StorageInternalError, RuntimeError, ImportError, OSError) as error:
        raise StorageError(reason(error)) from error


def lock(
    url: str, shared: Path, name: str, seconds: float = WAIT_SECONDS
) -> AbstractContextManager[Any]:
    """What one process at a time holds, of all that share the storage; given up with its process.

    Args:
        url: the storage's.
        shared: folder of what machines share, where the storage has no lock of its own.
        name: of the lock.
        seconds: how long it is waited for. Entered later than that, it raises what `is_away` takes
            for a storage that does not answer.
    """
    match kind(url):
        case "postgresql":
            return _postgresql(url, name, seconds)
        case "mysql":
            return _mysql(url, name, seconds)
        case "grpc":
            beside = shared / f".{name}.lock"
        case _:
            path = file_of(url)
            beside = path.with_name(f".{path.name}.{name}.lock")
    beside.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(beside, timeout=seconds)


def file_of(url: str) -> Path:
    """The file of a `sqlite` or `journal` storage."""
    if kind(url) == "journal":
        return Path(url.partition(":")[2].removeprefix("//")).absolute()
    from sqlalchemy.engine import make_url

    return Path(make_url(url).database or "study.db").absolute()


def is_there(url: str) -> bool:
    """Whether the file of a storage is there; a server is not asked."""
    return kind(url) not in ("sqlite", "journal") or file_of(url).is_file()


def _opened(url: str) -> BaseStorage:
    import optuna
    from optuna.storages import get_storage

    match kind(url):
        case "journal":
            from optuna_mde_studies.runner.sharing.journal import MendedJournal

            file_of(url).parent.mkdir(parents=True, exist_ok=True)
            return optuna.storages.JournalStorage(MendedJournal(str(file_of(url))))
        case "grpc":
            host, _, port = url.partition("://")[2].rstrip("/").rpartition(":")
            if not host or not port.isdecimal():
                raise StorageError(f"{url}: write grpc://host:port")
            return _proxy(host, int(port))
        case _:
            return get_storage(database(url))


def _proxy(host: str, port: int) -> BaseStorage:
    import optuna

    proxy = optuna.storages.GrpcStorageProxy(host=host, port=port)
    try:
        proxy.wait_server_ready(timeout=PROXY_SECONDS)
    except ConnectionError as error:
        raise StorageError(
            f"no proxy answers at {host}:{port} within {PROXY_SECONDS:g} s; start it with "
            "optuna.storages.run_grpc_proxy_server"
        ) from error
    return proxy


def database(url: str, *, is_made: bool = True) -> RDBStorage:
    """A database, or a file of SQLite.

    Args:
        url: the storage's.
        is_made: whether tables that are not there are made.
    """
    from optuna.storages import RDBStorage

    # Connections outlive a server that restarts.
    engine: dict[str, Any] = {"pool_pre_ping": True}
    if kind(url) == "sqlite":
        engine = {"connect_args": {"timeout": WAIT_SECONDS}}
    # Optuna formats the URL (for `{SCHEMA_VERSION}`), so braces of a path are doubled.
    text = url.replace("{", "{{").replace("}", "}}")
    return RDBStorage(text, engine_kwargs=engine, skip_table_creation=not is_made)


# --- locks of databases --------------------------------------------------------------------------


@lru_cache(maxsize=4)
def _engine(url: str) -> Engine:
    from sqlalchemy import NullPool, create_engine

    return create_engine(url, poolclass=NullPool)  # a fork would share pooled connections


@contextmanager
def _postgresql(url: str, name: str, seconds: float) -> Iterator[None]:
    from sqlalchemy import text

    key = int.from_bytes(
        hashlib.blake2b(f"optuna-mde {name}".encode(), digest_size=8).digest(), signed=True
    )
    with _engine(url).connect() as connection:
        # A machine that is cut off holds it no longer than this.
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 120000"))
        connection.execute(text(f"SET LOCAL lock_timeout = {round(1000 * seconds)}"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
        try:
            yield
        finally:
            with suppress(Exception):  # what was done is done
                connection.rollback()


@contextmanager
def _mysql(url: str, name: str, seconds: float) -> Iterator[None]:
    from sqlalchemy import text
    from sqlalchemy.exc import TimeoutError as NoLock

    key = "optuna-mde " + hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
    with _engine(url).connect() as connection:
        asked = text("SELECT GET_LOCK(:key, :seconds)")
        if connection.execute(asked, {"key": key, "seconds": seconds}).scalar() != 1:
            raise NoLock(f"no lock within {seconds:g} s")
        try:
            yield
        finally:
            with suppress(Exception):
                connection.execute(text("SELECT RELEASE_LOCK(:key)"), {"key": key})
