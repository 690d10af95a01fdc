"""Coresets kept beside the experts' files, so that one process makes them and all use them.

Made from 20 sets of a million tokens and 8 experts a coreset takes 10 CPU seconds, and read again
10 ms. A kept one belongs to its experts' files by what they say of themselves and how it was made,
holds numbers and nothing else, and may be deleted at any time; a damaged one is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from optuna_mde.mde import coreset as making
from optuna_mde.mde.coreset import Coreset
from optuna_mde.mde.experts import ExpertTable, Files, read_table
from optuna_mde.mde.logprobs import LogprobFile, write_whole
from optuna_mde.mde.token_files import FileTokens
from optuna_mde.mde.tokens import TokenTable
from optuna_mde.mde.urls import is_local, local_path

FOLDER = ".mde-coresets"
SUFFIX = ".coreset"
FORMAT_VERSION = "1"

WORTH_KEEPING = 50_000  # tokens of all sets together: fewer are condensed in a second

# The process that makes a coreset touches its claim this often; the others take over one that
# nobody has touched for so long. Two that do cost time and nothing else.
_BEAT, _ABANDONED = 2.0, 20.0  # seconds
_LOOK = 0.2  # seconds between two looks of a process that waits

_logger = logging.getLogger("optuna_mde")


def load_coreset(
    domains: Sequence[str],
    files: Files,
    without: Mapping[str, Collection[str]] | None = None,
) -> tuple[ExpertTable, Coreset, dict[str, str]]:
    """`read_table` and its coreset."""
    return read_table(coreset_of, domains, files, without)


def coreset_of(table: ExpertTable) -> Coreset:
    """The coreset of a table whose tokens lie in files: a kept one, or a new one, which is kept.

    It lies in a folder ``.mde-coresets`` beside the first expert's file; where nothing can be
    written there, in the user's folder of caches; where that fails too, it is not kept.

    Raises:
        UnusableFileError: if a file cannot be read, or holds no log-probabilities.
    """
    key = _key(table)
    if key is None or sum(tokens.n_tokens for tokens in table.tables) < WORTH_KEEPING:
        return Coreset(table)
    places = [folder / (key + SUFFIX) for folder in _folders(table)]
    for path in places:
        kept = _read(path, table)
        if kept is not None:
            return kept
    for path in places:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _claimed(path, table) as kept:
                if kept is not None:
                    return kept
                made = Coreset(table)
                with contextlib.suppress(OSError):  # a full disk
                    _write(path, made)
                return made
        except OSError as error:
            _logger.info("No coreset can be kept in %s (%s)", path.parent, error)
    return Coreset(table)


def _key(table: ExpertTable) -> str | None:
    """What a coreset depends on; None where files do not say when they were written."""
    files: dict[str, LogprobFile] = {}
    for tokens in table.tables:
        if not isinstance(tokens, FileTokens):
            return None
        files |= {file.url: file for file in tokens.files}
    marks = {url: file.mark for url, file in files.items()}
    if None in marks.values():
        return None
    sets = [
        (tokens.name, tokens.experts.tolist(), [marks[file.url] for file in tokens.files])
        for tokens in table.tables
        if isinstance(tokens, FileTokens)
    ]
    made = (FORMAT_VERSION, making.RECIPE, table.domains, sets)
    return hashlib.blake2b(repr(made).encode(), digest_size=12).hexdigest()


def _folders(table: ExpertTable) -> list[Path]:
    """Where the coreset may lie, the first choice first."""
    folders = []
    first = min(
        (int(e), file.url)
        for tokens in table.tables
        if isinstance(tokens, FileTokens)
        for e, file in zip(tokens.experts, tokens.files, strict=True)
    )[1]
    if is_local(first):
        folders.append(Path(local_path(first)).parent / FOLDER)
    caches = os.environ.get("XDG_CACHE_HOME")
    with contextlib.suppress(RuntimeError):  # no home
        folders.append((Path(caches) if caches else Path.home() / ".cache") / "optuna-mde")
    return folders


@contextlib.contextmanager
def _claimed(path: Path, table: ExpertTable) -> Iterator[Coreset | None]:
    """The right to make a coreset, or the one that another process has made meanwhile.

    Raises:
        OSError: if nothing can be written there.
    """
    claim = path.with_suffix(".building")
    while not _create(claim):
        kept = _awaited(path, claim, table)
        if kept is not None:
            yield kept
            return
    done = threading.Event()
    beat = threading.Thread(target=_touch, args=(claim, done), daemon=True)
    beat.start()
    try:
        yield _read(path, table)  # it may have been finished just before
    finally:
        done.set()
        beat.join()
        with contextlib.suppress(OSError):
            claim.unlink(missing_ok=True)


def _create(claim: Path) -> bool:
    try:
        os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True


def _touch(claim: Path, done: threading.Event) -> None:
    while not done.wait(_BEAT):
        with contextlib.suppress(OSError):
            os.utime(claim)


def _awaited(path: Path, claim: Path, table: ExpertTable) -> Coreset | None:
    """What the process with the claim has made; None, and no claim, if it has given up."""
    touched, since = None, time.monotonic()
    while time.monotonic() - since < _ABANDONED:
        try:
            last = claim.stat().st_mtime_ns
        except FileNotFoundError:
            return _read(path, table)
        if last != touched:  # clocks of two machines differ: what counts is that it changes
            touched, since = last, time.monotonic()
        time.sleep(_LOOK)
    claim.unlink(missing_ok=True)
    return None


def _write(path: Path, coreset: Coreset) -> None:
    from safetensors.numpy import save

    tensors: dict[str, np.ndarray] = {}
    for i, tokens in enumerate(coreset.tokens):
        assert tokens.weights is not None
        tensors |= {
            f"{i}.ratios": np.ascontiguousarray(tokens.ratios),
            f"{i}.weights": np.ascontiguousarray(tokens.weights),
        }
    facts = [
        {"set": name, "offset": tokens.offset, "rms_error": float(error)}
        for name, tokens, error in zip(
            coreset.sets, coreset.tokens, coreset.rms_error, strict=True
        )
    ]
    metadata = {"format": FORMAT_VERSION, "sets": json.dumps(facts)}
    write_whole(path, save(tensors, metadata=metadata))


def _read(path: Path, table: ExpertTable) -> Coreset | None:
    """The coreset of a table from a file; None if there is none, or it is no such thing."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            facts = json.loads(file.metadata()["sets"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if [fact["set"] for fact in facts] != list(table.sets):
            return None
        tokens = [
            TokenTable(
                arrays[f"{i}.ratios"], float(fact["offset"]), known.experts, arrays[f"{i}.weights"]
            )
            for i, (fact, known) in enumerate(zip(facts, table.tables, strict=True))
        ]
        errors = np.array([float(fact["rms_error"]) for fact in facts])
    except Exception:  # deleted, cut off, or written by another hand: it is made anew
        return None
    if not (np.isfinite(errors).all() and all(map(_is_sound, tokens))):
        return None
    return Coreset.of(table.domains, table.sets, tokens, errors)


def _is_sound(tokens: TokenTable) -> bool:
    ratios, weights = tokens.ratios, tokens.weights
    assert weights is not None
    return (
        ratios.dtype in (np.float32, np.float64)
        and weights.dtype == np.float64
        and ratios.shape == (len(weights), len(tokens.experts))
        and bool(np.isfinite(tokens.offset))
        and bool((ratios >= 0.0).all() and (ratios <= 1.0).all())  # no NaN is
        and bool((weights > 0.0).all() and abs(weights.sum() - 1.0) < 1e-6)
    )
