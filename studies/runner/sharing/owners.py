"""Processes that hold trials, and whether they still live.

A process of this machine is known by a file that it keeps locked for as long as it lives: the
system gives the lock up with the process, however that ends. Of a process elsewhere nothing is
known but what it writes on its leases.
"""

from __future__ import annotations

import os
import re
import socket
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout


@dataclass(frozen=True)
class Owner:
    """A process that may hold trials."""

    id: str
    """Drawn at random; 32 hexadecimal digits."""
    place: str
    """`host:pid`, for people."""


@contextmanager
def owner() -> Iterator[Owner]:
    """Makes this process one that others can see to be alive, until the end of the block."""
    found = Owner(uuid.uuid4().hex, f"{socket.gethostname()}:{os.getpid()}")
    folder = _folder()
    if folder is None:
        yield found
        return
    path = folder / found.id
    with FileLock(path):
        yield found
    path.unlink(missing_ok=True)


def has_died(owner: str) -> bool:
    """Whether the process is known to be dead; False of one that was never on this machine."""
    folder = _folder()
    if folder is None or not re.fullmatch("[0-9a-f]{32}", owner):  # it comes from the storage
        return False
    path = folder / owner
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return True
    except Timeout:
        return False


def forget(owner: str) -> None:
    """Removes what a dead process has left here, once nothing is held by it any more."""
    folder = _folder()
    if folder is not None and has_died(owner):
        (folder / owner).unlink(missing_ok=True)


def _folder() -> Path | None:
    """This user's, on this machine alone; None where somebody else has it."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"optuna-mde-{user}"
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        if not hasattr(os, "getuid") or folder.stat().st_uid == user:
            return folder
    return None
