"""Copies here of what machines share at a URL, and what is new here brought there.

A study whose `runs` is a URL (of anything that fsspec opens: s3, gs, sftp, …) works in its own
folder, like that of one machine alone; this room moves files between the two. `.copies/` in the
folder has a note for each file that lies at both places: size and time of the one here, and what
the file system there said of the other. So it is known, without reading either, which of them has
changed since. Of a folder's files, the one that says that it is whole is moved last.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from optuna_mde_studies.runner.sharing.patience import Say, is_full, patiently
from optuna_mde_studies.wording import shown
from optuna_mde_trainers.corpus.blocks import CORPUS_FILE
from optuna_mde_trainers.spec import CHECKPOINT_FILE, RESULT_FILE, write_atomic

NOTES = ".copies"
LAST = (RESULT_FILE, CORPUS_FILE)
"""Written last by whoever makes a folder, and so moved last."""
LOOK_SECONDS = 10.0
"""Between two looks for a new checkpoint of a run; an upload that takes longer waits as long."""
REST_SECONDS = 2.0
"""A file that was written to so lately may not be whole."""
AT_ONCE = 8
"""Files that are moved side by side, where the file system allows it."""

# What fsspec's file systems call that which a file written anew has another of; the best first.
_VERSIONS = (
    *("ETag", "etag", "md5Hash", "content_md5", "LastModified", "last_modified", "updated"),
    *("mtime", "modify", "modified", "created"),
)
_TURN = threading.RLock()  # of a connection that takes one request at a time

Answer = TypeVar("Answer")


class RemoteError(RuntimeError):
    """A URL that cannot be read or written; the message names it and says why."""


@dataclass(frozen=True)
class Mirror:
    """A folder here, and the one at a URL that it shares files with.

    Names are relative to both, with `/` between parts; each is of a file, or of a folder with all
    that lies below it. Hidden files and locks stay where they are.
    """

    url: str
    folder: Path
    say: Say | None = None
    """Hears that the URL does not answer and is waited for. None: it is not waited for."""

    def pull(self, *names: str, only: Callable[[str], bool] = lambda name: True) -> None:
        """Brings over what is not here yet, or is another one there by now.

        Args:
            names: what may be there.
            only: which of the files below them are wanted.

        Raises:
            RemoteError: if the URL does not answer.
        """
        self._reached(lambda files, root: self._pull(files, root, names, only))

    def push(self, *names: str, removes: bool = False) -> None:
        """Brings there what is new here, or has changed.

        Args:
            names: what may be here.
            removes: whether files that were at both places and are gone here go there too.

        Raises:
            RemoteError: if the URL does not answer.
        """
        self._reached(lambda files, root: self._push(files, root, names))
        if removes:
            self._reached(lambda files, root: self._remove(files, root, names))

    def read(self, name: str) -> bytes | None:
        """A small file there; None where there is none.

        Raises:
            RemoteError: if the URL does not answer.
        """

        def act(files: Any, root: str) -> bytes | None:
            files.invalidate_cache()
            try:
                return files.cat_file(f"{root}/{name}")
            except FileNotFoundError:
                return None

        return self._reached(act)

    def try_out(self) -> None:
        """Writes a file there and takes it away.

        Raises:
            RemoteError: if that cannot be done.
        """

        def act(files: Any, root: str) -> None:
            path = f"{root}/.probe-{uuid.uuid4().hex}"
            if not files.async_impl:
                files.makedirs(root, exist_ok=True)
            files.pipe_file(path, b"optuna-mde")
            files.rm_file(path)

        self._reached(act)

    @contextmanager
    def following(self, name: str) -> Iterator[None]:
        """Brings there, until the end of the block, what is written in a folder meanwhile: a
        run's checkpoint, which another machine may have to go on from."""
        ends, hasty = threading.Event(), replace(self, say=None)

        def follow() -> None:
            pause = LOOK_SECONDS
            while not ends.wait(pause):
                began = time.monotonic()
                with suppress(Exception):  # the next look may succeed, and the end waits for it
                    hasty._reached(lambda files, root: self._push(files, root, (name,), _rests))
                pause = max(LOOK_SECONDS, time.monotonic() - began)

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ends.set()
            thread.join()

    def _reached(self, act: Callable[[Any, str], Answer]) -> Answer:
        """What `act` gives of the file system and the folder in it."""

        def attempt() -> Answer:
            from fsspec.core import url_to_fs

            files, root = url_to_fs(self.url)
            with nullcontext() if files.async_impl else _TURN:
                try:
                    return act(files, root.rstrip("/"))
                except Exception:
                    type(files).clear_instance_cache()  # its connection may be a broken one
                    raise

        try:
            if self.say is None:
                return attempt()
            told = shown(self.url)
            words = (f"{told} does not answer", f"{told} answers again")
            return patiently(attempt, self.say, _passes, words)
        except Exception as error:  # what stands behind a URL raises errors of its own
            said = " ".join(str(error).split())[:200] or type(error).__name__
            raise RemoteError(f"{shown(self.url)}: {said}") from error

    def _pull(
        self, files: Any, root: str, names: Iterable[str], only: Callable[[str], bool]
    ) -> None:
        found = {k: v for name in names for k, v in _listed(files, root, name).items()}

        def get(name: str) -> None:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
            try:
                files.get_file(f"{root}/{name}", str(beside))
                os.replace(beside, path)
            except FileNotFoundError:  # somebody has just removed it
                return
            finally:
                beside.unlink(missing_ok=True)
            self._note(name, _state(path), found[name])

        wanted = [name for name in found if only(name) and self._is_new(name, found[name])]
        _in_turn(files, get, wanted)

    def _push(
        self,
        files: Any,
        root: str,
        names: Iterable[str],
        is_ready: Callable[[Path], bool] = lambda path: True,
    ) -> None:
        files.invalidate_cache()

        def put(name: str) -> None:
            there = f"{root}/{name}"
            try:
                state = _state(self.folder / name)  # before: what is written meanwhile is new
                _put(files, self.folder / name, there)
            except FileNotFoundError:
                if (self.folder / name).exists():
                    raise
                return
            self._note(name, state, _version(files.info(there)))

        held = [name for given in names for name in _held(self.folder, given)]
        _in_turn(
            files, put, [n for n in held if self._is_changed(n) and is_ready(self.folder / n)]
        )

    def _remove(self, files: Any, root: str, names: Iterable[str]) -> None:
        notes = self.folder / NOTES
        for name in [note for given in names for note in _held(notes, given)]:
            if not (self.folder / name).exists():
                with suppress(FileNotFoundError):
                    files.rm_file(f"{root}/{name}")
                (notes / name).unlink(missing_ok=True)

    def _is_new(self, name: str, version: str) -> bool:
        return not (self.folder / name).is_file() or self._noted(name)[1] != version

    def _is_changed(self, name: str) -> bool:
        try:
            return self._noted(name)[0] != _state(self.folder / name)
        except FileNotFoundError:
            return False

    def _noted(self, name: str) -> tuple[list[int], str]:
        """State of the file here and version of the one there, when they were the same."""
        try:
            state, version = json.loads((self.folder / NOTES / name).read_bytes())
        except (OSError, ValueError, TypeError):
            return [], ""
        return state, version

    def _note(self, name: str, state: list[int], version: str) -> None:
        path = self.folder / NOTES / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps([state, version]))


def _passes(error: BaseException) -> bool:
    """Whether a file system's error may be over by and by; a full disk here is others' to see."""
    if isinstance(error, FileNotFoundError) or is_full(error):
        return False
    return isinstance(error, OSError | EOFError) or type(error).__module__ != "builtins"


def _rests(path: Path) -> bool:
    """Whether a file of an unfinished run is whole; our trainer's checkpoint always is."""
    is_old = time.time() - path.stat().st_mtime > REST_SECONDS
    return path.name == CHECKPOINT_FILE or (path.name not in LAST and is_old)


def _state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _version(facts: dict[str, Any]) -> str:
    """What changes when a file is written anew, by what a listing says of it."""
    found = next((facts[key] for key in _VERSIONS if facts.get(key) is not None), None)
    return f"{found} {facts.get('size')}"


def _listed(files: Any, root: str, name: str) -> dict[str, str]:
    """Name -> version of a file there, or of all below a folder; empty where there is none."""
    files.invalidate_cache()
    try:
        facts = files.info(f"{root}/{name}")
    except FileNotFoundError:
        return {}
    if facts["type"] == "file":
        return {name: _version(facts)}
    found = files.find(f"{root}/{name}", detail=True)
    below = {key.removeprefix(f"{root}/"): _version(facts) for key, facts in found.items()}
    return {key: value for key, value in below.items() if _is_moved(key, name)}


def _held(folder: Path, name: str) -> list[str]:
    """Names of a file here, or of all below a folder."""
    path = folder / name
    below = path.rglob("*") if path.is_dir() else [path]
    found = [each for each in below if each.is_file() and not each.is_symlink()]
    names = sorted(each.relative_to(folder).as_posix() for each in found)
    return [each for each in names if _is_moved(each, name)]


def _is_moved(name: str, below: str) -> bool:
    """Whether a file is one of those that are shared. Names there may be anybody's: none leads
    out of the folder."""
    parts = name.split("/")
    if any(part in ("", "..") or part.startswith(".") or "\\" in part for part in parts):
        return False
    is_below = name == below or name.startswith(f"{below}/")
    return is_below and PurePosixPath(name).suffix not in (".lock", ".part") and "\0" not in name


def _put(files: Any, here: Path, there: str) -> None:
    """Writes a file of which no reader finds half."""
    if files.async_impl:  # object stores: a file is there as a whole, or not at all
        files.put_file(str(here), there)
        return
    parent, _, name = there.rpartition("/")
    files.makedirs(parent, exist_ok=True)
    beside = f"{parent}/.{name}.{uuid.uuid4().hex}"
    files.put_file(str(here), beside)
    files.mv(beside, there)


def _in_turn(files: Any, move: Callable[[str], None], names: Sequence[str]) -> None:
    """Moves files, those that make a folder whole after all others."""
    ends = [name for name in names if PurePosixPath(name).name in LAST]
    for group in ([name for name in names if name not in ends], ends):
        if not files.async_impl:
            for name in group:
                move(name)
            continue
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(move, group))
