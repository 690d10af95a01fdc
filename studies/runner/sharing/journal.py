"""Optuna's journal in a file, with what a process that is killed leaves of it mended.

A process may die in the middle of a line, which would spoil the next one for every reader, and
while it holds the journal's lock, which then stalls everybody for half a minute.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.storages.journal._file import BaseJournalFileLock, get_lock_file


class MendedJournal(JournalFileBackend):
    """Optuna's file, to be shared with Optuna's own backend.

    Args:
        path: The journal's file, made if it is not there.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path, lock_obj=_Lock(path))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with get_lock_file(self._lock), open(self._file_path, "rb+") as file:
            file.seek(_whole(self._file_path))
            file.truncate()
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())


def _whole(path: str) -> int:
    """Bytes of a journal that are whole lines; nobody was told of the rest, or has read it."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        end = size
        while end:
            begin = max(0, end - 4096)
            file.seek(begin)
            line = file.read(end - begin).rfind(b"\n")
            if line >= 0:
                return begin + line + 1
            end = begin
    return 0


class _Lock(BaseJournalFileLock):
    """Optuna's lock, a symbolic link, behind one that the system gives up with its process.

    So whoever finds the link knows by its text whether one of ours has made it, and that this one
    is dead.
    """

    def __init__(self, path: str) -> None:
        self._link = Path(path + ".lock")
        self._ours = FileLock(path + ".turn")
        self._optunas = JournalFileSymlinkLock(path)
        # Another way to write the path that Optuna's own links have: both lead to the journal.
        self._text = os.path.join(".", os.path.basename(path))

    def acquire(self) -> bool:
        self._ours.acquire()
        try:
            with suppress(OSError):
                if os.readlink(self._link) == self._text:
                    self._link.unlink()
            self._optunas._lock_target_file = self._text
            return self._optunas.acquire()
        except BaseException:
            self._ours.release()
            raise

    def release(self) -> None:
        try:
            self._optunas.release()
        finally:
            self._ours.release()
