"""Columns of numbers that grow on disk, and go on where a killed process stopped.

A store is a folder: one file of raw numbers a column, and `journal.jsonl`, a line each time that
everything before it is on disk. What stands behind the last line is cut off when the store is
opened again. A line with `"finished"` ends it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

JOURNAL = "journal.jsonl"
JOURNAL_SECONDS = 2.0  # of work that a kill loses, at most


class Store:
    """A store that is being written.

    Args:
        folder: where; what is there already is gone on with.
        columns: name -> type of its numbers.
    """

    def __init__(self, folder: Path, columns: Mapping[str, np.dtype[Any]]) -> None:
        self.folder = folder
        self.columns = dict(columns)
        folder.mkdir(parents=True, exist_ok=True)
        last = _last_line(folder)
        self.chunks: int = last.get("chunks", 0)
        """Chunks that are in the store."""
        self.notes: dict[str, Any] = last.get("notes", {})
        """What belongs to the store as a whole; written with each line of the journal."""
        lengths = last.get("lengths", {})
        self._files: dict[str, IO[bytes]] = {}
        for name, dtype in self.columns.items():
            file = open(folder / name, "ab")  # noqa: SIM115 - closed by `close`
            file.truncate(lengths.get(name, 0) * dtype.itemsize)
            file.seek(0, os.SEEK_END)
            self._files[name] = file
        self._written = time.monotonic()

    def append(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Adds what one chunk gave."""
        for name, array in arrays.items():
            self._files[name].write(np.ascontiguousarray(array, self.columns[name]).tobytes())
        self.chunks += 1
        if time.monotonic() - self._written > JOURNAL_SECONDS:
            self.flush()

    def flush(self, *, finished: bool = False) -> None:
        """Makes sure that what has been added will be there after a kill."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        lengths = {
            name: self._files[name].tell() // dtype.itemsize
            for name, dtype in self.columns.items()
        }
        line = {"chunks": self.chunks, "lengths": lengths, "notes": self.notes}
        if finished:
            line["finished"] = True
        with open(self.folder / JOURNAL, "a", encoding="utf-8") as journal:
            # a line that a kill has cut short ends before this one begins
            journal.write("\n" + json.dumps(line, ensure_ascii=False) + "\n")
            journal.flush()
            os.fsync(journal.fileno())
        self._written = time.monotonic()

    def close(self) -> None:
        """Closes the files; what has not been flushed may be lost."""
        for file in self._files.values():
            file.close()


@contextmanager
def one_writer(folder: Path) -> Iterator[bool]:
    """Keeps others from a store; gives whether there is still something to do.

    Another process that prepares the same text waits, and finds the store finished.
    """
    from filelock import FileLock

    if is_finished(folder):  # also in a cache that can be read alone
        yield False
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        yield not is_finished(folder)


def is_finished(folder: Path) -> bool:
    """Whether a store holds all that it was made for."""
    return bool(_last_line(folder).get("finished"))


def notes(folder: Path) -> dict[str, Any]:
    """What belongs to a store as a whole."""
    found: dict[str, Any] = _last_line(folder).get("notes", {})
    return found


def column(folder: Path, name: str, dtype: np.dtype[Any]) -> np.ndarray:
    """A column of a finished store, read from disk as it is used."""
    path = folder / name
    if path.stat().st_size == 0:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, mode="r")


def _last_line(folder: Path) -> dict[str, Any]:
    """The last whole line of the journal; a kill may have cut one short."""
    try:
        text = (folder / JOURNAL).read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    for line in reversed(text.splitlines()):
        try:
            found: dict[str, Any] = json.loads(line)
        except ValueError:
            continue
        return found
    return {}
