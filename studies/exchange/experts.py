"""Log-probabilities beside tables: found below the folder that was named, and nowhere else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna_mde_studies.exchange.runs import TableRun
from optuna_mde_studies.exchange.tables import ExchangeError, shown

from optuna_mde.mde.logprobs import ExpertFileError, LogprobFile, load_logprobs
from optuna_mde.simplex.projection import TOLERANCE

if TYPE_CHECKING:
    import numpy as np

SUFFIX = ".safetensors"


def find(run: TableRun, folder: Path) -> Path | None:
    """The file of a run: what runs.csv names; else, of an expert, `<run>.safetensors` or
    `<domain>.safetensors`; None where there is none.

    Raises:
        ExchangeError: if it lies outside the folder, is missing, or holds something else.
    """
    found = next(_candidates(run, folder), None)
    if found is None:
        return None
    try:
        LogprobFile.open(str(found))
    except ExpertFileError as error:
        raise ExchangeError(f"run {run.name}: {error}") from None
    return found


def sets_of(urls: Iterable[str]) -> set[str]:
    """Validation sets that files hold together; one that cannot be read holds none."""
    found: set[str] = set()
    for url in urls:
        with suppress(ExpertFileError):
            found.update(LogprobFile.open(url).sets)
    return found


def domain_of(run: TableRun) -> str | None:
    """The domain that a run trains alone."""
    domain, rate = max(run.mixture.items(), key=lambda part: part[1])
    return domain if rate >= 1.0 - TOLERANCE else None


def merged(urls: Sequence[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What several files of one run hold together, the first that has a set counts.

    Returns:
        Arrays `[T]` by validation set, and metadata of the first file with the sets of all.

    Raises:
        ExpertFileError: if one of them cannot be read.
    """
    arrays: dict[str, np.ndarray] = {}
    metadata: dict[str, Any] = {}
    prints: dict[str, str] = {}
    for url in urls:
        found, about = load_logprobs(url)
        arrays = {**found, **arrays}
        prints = {**_prints(about), **prints}
        metadata = {**about, **metadata}
    metadata.pop("format", None)
    return arrays, {**metadata, "sets": prints}


def _prints(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Fingerprints of a file's sets."""
    try:
        found = json.loads(metadata.get("sets", "{}"))
    except (TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _candidates(run: TableRun, folder: Path) -> Iterator[Path]:
    if run.logprobs is not None:
        path = inside(folder, run.logprobs)
        if path is None:
            raise ExchangeError(
                f"run {run.name}: logprobs = {shown(run.logprobs)} leads out of {folder}; files "
                "are named from that folder on"
            )
        if not _is_file(path):
            raise ExchangeError(
                f"run {run.name}: there is no file {shown(run.logprobs)} in {folder}"
            )
        yield path
        return
    domain = domain_of(run)
    if domain is None:
        return
    for name in (run.name, domain):
        path = inside(folder, name + SUFFIX)
        if path is not None and _is_file(path):
            yield path


def inside(folder: Path, name: str) -> Path | None:
    """A path below the folder, links followed; None of any other."""
    try:
        root = folder.resolve()
        path = (root / name).resolve()
    except (OSError, ValueError):  # loops of links, NUL bytes
        return None
    return path if path.is_relative_to(root) else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file may have
        return False


def keep(path: Path, folder: Path) -> Path:
    """Copies a file into a folder, under a name that its content gives."""
    with path.open("rb") as stream:
        name = file_digest(stream, lambda: blake2b(digest_size=8)).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(path, folder / f"{name}{SUFFIX}"))
