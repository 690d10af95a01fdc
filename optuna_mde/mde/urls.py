"""URLs of log-probability files: which are paths, and which may be opened.

Whoever can write to a study's storage can name any URL in it. Readers open what their own user
handed to this process (and its neighbours in the folder), what lies below the current folder or
that of the storage's file, and what lies below the roots of the environment variable
``OPTUNA_MDE_ALLOW``: paths or URLs, separated by commas.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import takewhile
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


def allowed() -> list[str]:
    """Roots that the environment names."""
    roots = os.environ.get(ALLOW, "").split(",")
    return [root.strip() for root in roots if root.strip()]


def found_below(url: str, roots: Iterable[str]) -> str | None:
    """Where a relative path that comes out of a storage leads to a file below one of some folders
    or of the allowed ones; None where it leads to none."""
    if "://" in url or os.path.isabs(url):
        return None
    below = [
        os.path.join(local_path(root), url) for root in (*roots, *allowed()) if is_local(root)
    ]
    paths = (path for path in below if is_trusted(path, roots) and os.access(path, os.R_OK))
    return next(paths, None)


def is_trusted(url: str, roots: Iterable[str]) -> bool:
    """Whether a URL that comes out of a storage may be opened.

    Args:
        url: a path, or any URL of fsspec.
        roots: folders that this process knows without the storage.
    """
    return any(_is_below(url, root) for root in (*roots, *_handed, *allowed()))


def folder_above(urls: Iterable[str]) -> str:
    """The deepest folder or URL above some files; empty where only a root is."""
    parents = [
        os.path.dirname(os.path.abspath(local_path(url)))
        if is_local(url)
        else url.rpartition("/")[0]
        for url in urls
    ]
    levels = zip(*(parent.split("/") for parent in parents), strict=False)
    found = "/".join(names[0] for names in takewhile(lambda names: len({*names}) == 1, levels))
    return "" if found.endswith(":/") or not found.strip("/") else found


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
