"""URLs of log-probability files: which are paths, and which may be opened.

Whoever can write to a study's storage can name any URL in it. Readers open what their own user
handed to this process (and its neighbours in the folder), what lies below the current folder or
that of the storage's file, and what lies below the roots of the environment variable
``OPTUNA_MDE_ALLOW``: paths or URLs, separated by commas.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

ALLOW = "OPTUNA_MDE_ALLOW"

_handed: set[str] = set()  # URLs that this process was handed, and their folders


def is_local(url: str) -> bool:
    """Whether a URL is a path of this machine."""
    return "://" not in url or url.startswith("file://")


def local_path(url: str) -> Path:
    """The path that a local URL names."""
    return Path(url.removeprefix("file://"))


def trust(url: str) -> None:
    """Note that this process was handed the URL by its own user, not by a storage."""
    if is_local(url):
        _handed.add(os.path.dirname(os.path.abspath(local_path(url))))
        return
    parent = url.rpartition("/")[0]
    # what has no folder stands for itself: its parent would be all of its scheme
    _handed.update({url} if parent.endswith(":/") else {url, parent})


def is_trusted(url: str, roots: Iterable[str]) -> bool:
    """Whether a URL that comes out of a storage may be opened.

    Args:
        url: a path, or any URL of fsspec.
        roots: folders that this process knows without the storage.
    """
    allowed = [root for root in os.environ.get(ALLOW, "").split(",") if root.strip()]
    return any(_is_below(url, root.strip()) for root in (*roots, *_handed, *allowed))


def _is_below(url: str, root: str) -> bool:
    if is_local(url) and is_local(root):
        path, folder = os.path.abspath(local_path(url)), os.path.abspath(local_path(root))
        return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
    if is_local(url) or is_local(root):
        return False
    base = root.rstrip("/") + "/"
    rest = url.removeprefix(base)
    # neither a way up nor, after "::", another file system of fsspec
    parts = unquote(rest).replace("\\", "/").split("/")
    return url == root or (url.startswith(base) and ".." not in parts and "::" not in rest)
