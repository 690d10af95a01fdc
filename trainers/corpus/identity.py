"""What files are, by their content: never by their time of change.

Reading a terabyte to see that it is the same takes long, so a hash is kept with the inode, size
and both times of its file. The time of the inode's change (ctime) cannot be set by a program: a
file that was replaced under its old time of change (`touch -r`, `tar`, Nix, Bazel) is read again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from pathlib import Path

from optuna_mde_trainers.corpus import cache
from optuna_mde_trainers.corpus.builtin import environment
from optuna_mde_trainers.corpus.documents import CorpusError, digest
from optuna_mde_trainers.corpus.reading.files import named_files
from optuna_mde_trainers.corpus.sources import DomainSource

READ_BYTES = 2**22
SETTLED_SECONDS = 2.0  # after which a clock tells two changes of a file apart


def content(file: str) -> str:
    """Identity of a local file or URL in words: size and hash, or what its server says.

    Raises:
        CorpusError: it cannot be read.
    """
    try:
        if "://" in file:
            return _remote(file)
        return _local(file)
    except OSError as error:
        raise CorpusError(f"{file} cannot be read ({error})") from error


def _local(file: str) -> str:
    before = os.stat(file)
    memo = cache.folder() / "files" / f"{digest(os.path.abspath(file))}.json"
    stamp = [
        before.st_dev, before.st_ino, before.st_size, before.st_mtime_ns, before.st_ctime_ns
    ]  # fmt: skip
    known = _read(memo)
    if known.get("stamp") == stamp:
        return str(known["content"])
    found = f"{before.st_size:,} bytes, {hash_of(file)}"
    changed = max(before.st_ctime, before.st_mtime)
    if os.stat(file) == before and time.time() - changed > SETTLED_SECONDS:
        _keep(memo, {"file": os.path.abspath(file), "stamp": stamp, "content": found})
    return found


def hash_of(file: str) -> str:
    """BLAKE2 of a local file's bytes."""
    state = hashlib.blake2b(digest_size=16)
    with open(file, "rb") as opened:
        while data := opened.read(READ_BYTES):
            state.update(data)
    return state.hexdigest()


def _read(memo: Path) -> dict[str, object]:
    try:
        found: dict[str, object] = json.loads(memo.read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError):
        return {}


def _keep(memo: Path, held: dict[str, object]) -> None:
    try:
        cache.write_whole(memo, json.dumps(held))
    except OSError:
        return  # a cache that cannot be written makes the next start slower, no more


def _remote(file: str) -> str:
    if file.startswith("hf://") and "@" in file:
        return "at the commit of its address"
    from fsspec.core import url_to_fs

    system, path = url_to_fs(file)
    info = system.info(path)
    size = info.get("size")
    mark = next((info[key] for key in ("ETag", "etag", "md5Hash", "sha256") if info.get(key)), "")
    # What has no mark may be another text each time, and is not looked for in the cache.
    return f"{size if size is not None else 'unknown'} bytes, {mark or uuid.uuid4().hex}"


def size(file: str) -> int:
    """Bytes of a file, packed as it is; 0: not known."""
    if "://" not in file:
        return os.path.getsize(file)
    from fsspec.core import url_to_fs

    system, path = url_to_fs(file)
    return int(system.info(path).get("size") or 0)


def inventory(field: str, source: DomainSource) -> dict[str, str]:
    """What a source holds now: file or package -> size or version, and hash of its content.

    Local files are read where their inode has changed since they were hashed. Of the hub nothing
    is asked: `revision` says which version it is.

    Raises:
        CorpusError: a local file is missing or cannot be read.
    """
    if source.environment is not None:
        items = environment.inventory(source.environment).items()
        return {f"{package} ({source.environment})": held for package, held in items}
    return {file: content(file) for file in named_files(field, source)}
