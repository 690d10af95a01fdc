"""Where what was read and tokenised is kept for the next study.

    <cache>/corpora/files/    content hashes of local files
    <cache>/corpora/index/    documents of sources: key, size, filter values
    <cache>/corpora/texts/    text that a tokenizer was trained on, or that validation sets take
    <cache>/corpora/tokens/   tokens of the documents that a corpus kept

`<cache>` is $OPTUNA_MDE_CACHE, else $XDG_CACHE_HOME/optuna-mde, else ~/.cache/optuna-mde. All of
it may be deleted while nothing is being prepared: finished corpora need none of it.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

ENVIRONMENT = "OPTUNA_MDE_CACHE"


def folder() -> Path:
    """The cache of corpora; it need not exist."""
    given = os.environ.get(ENVIRONMENT)
    if given:
        return Path(given).expanduser() / "corpora"
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(root) / "optuna-mde" / "corpora"


def is_writable(place: Path) -> bool:
    """Whether files can be written in a folder, which is created where it is missing."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            return True
    except OSError:
        return False


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that a reader finds all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)
    with open(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(name, path)
