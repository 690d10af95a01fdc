"""Log-probabilities beside tables: found below the folder that was named, and nowhere else."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

from optuna_mde_studies.exchange.runs import TableRun
from optuna_mde_studies.exchange.tables import ExchangeError

from optuna_mde.mde.logprobs import ExpertFileError, LogprobFile
from optuna_mde.simplex.projection import TOLERANCE

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


def domain_of(run: TableRun) -> str | None:
    """The domain that a run trains alone."""
    domain, rate = max(run.mixture.items(), key=lambda part: part[1])
    return domain if rate >= 1.0 - TOLERANCE else None


def _candidates(run: TableRun, folder: Path) -> Iterator[Path]:
    if run.logprobs is not None:
        path = inside(folder, run.logprobs)
        if path is None:
            raise ExchangeError(
                f"run {run.name}: logprobs = {run.logprobs!r} leads out of {folder}; files are "
                "named from that folder on"
            )
        if not path.is_file():
            raise ExchangeError(f"run {run.name}: there is no file {path}")
        yield path
        return
    domain = domain_of(run)
    if domain is None:
        return
    for name in (run.name, domain):
        path = inside(folder, name + SUFFIX)
        if path is not None and path.is_file():
            yield path


def inside(folder: Path, name: str) -> Path | None:
    """A path below the folder, links followed; None of any other."""
    try:
        root = folder.resolve()
        path = (root / name).resolve()
    except (OSError, ValueError):  # loops of links, NUL bytes
        return None
    return path if path.is_relative_to(root) else None


def keep(path: Path, folder: Path) -> Path:
    """Copies a file into a folder, under a name of its own."""
    name = blake2b(str(path.resolve()).encode(), digest_size=8).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(path, folder / f"{name}{SUFFIX}"))
