"""Tables of runs on disk: what `import` reads and `export` writes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna_mde_studies.exchange import experts, recorded, tables
from optuna_mde_studies.exchange.origin import of_table
from optuna_mde_studies.exchange.runs import DETAILS, TableRun, TableRuns, joined
from optuna_mde_studies.exchange.tables import KEYS, LABELS, LONGEST_NAME, ExchangeError

from optuna_mde.mde.logprobs import ExpertFileError, opened, save_logprobs
from optuna_mde.mde.urls import ALLOW, is_trusted
from optuna_mde.trials import notes

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

RATIOS, METRICS, DETAILS_FILE, LOGPROBS = "ratios.csv", "metrics.csv", "runs.csv", "logprobs"


@dataclass(frozen=True)
class Tables:
    """The files of an import."""

    ratios: Path
    metrics: Path
    details: Path | None = None
    logprobs: Path | None = None

    def read(self) -> TableRuns:
        """The runs in them.

        Raises:
            ExchangeError: if they hold none.
        """
        details = tables.read(self.details) if self.details is not None else None
        if details is not None and not set(DETAILS) & set(details.columns):
            raise ExchangeError(
                f"{details.path}: has none of the columns {', '.join(DETAILS)}; it is not what "
                "`export` writes"
            )
        return joined(tables.read(self.ratios), tables.read(self.metrics), details)


@dataclass(frozen=True)
class Candidate:
    """A run of the tables, as the trial that it becomes."""

    run: TableRun
    trial: FrozenTrial
    file: Path | None
    """Its log-probabilities."""


def examine(target: recorded.Target, found: TableRuns, source: Tables) -> list[Candidate]:
    """The runs that the study has not taken over before, with everything that can be wrong with
    them; nothing is written.

    Args:
        target: the study, and how its runs are judged.
        found: the runs.
        source: the files that they stand in.

    Raises:
        ExchangeError: if one of them cannot be taken.
    """
    folder, table = source.logprobs, source.ratios.name
    if folder is None and any(run.logprobs for run in found.runs):
        raise ExchangeError(
            f"{source.details}: names files of log-probabilities; say with --logprobs in which "
            "folder they lie"
        )
    taken = recorded.taken_over(target.study)
    trials = [
        (run, recorded.as_trial(run, found.sets, target, of_table(table, run.name)))
        for run in found.runs
    ]
    new = [(run, trial) for run, trial in trials if recorded.identity(trial) not in taken]
    recorded.check(target.study, [trial for _, trial in new])
    return [
        Candidate(run, trial, None if folder is None else experts.find(run, folder))
        for run, trial in new
    ]


def take(study: optuna.Study, runs: Sequence[Candidate], kept: Path | None) -> int:
    """Adds runs to a study.

    Args:
        study: the study.
        runs: what `examine` has found.
        kept: folder of the study that the experts' files are copied into, relative to which they
            are named; None names them where they lie.

    Returns:
        How many of them are experts with a file.
    """
    for new in runs:
        if new.file is not None:
            recorded.name_file(new.trial, _url(new.file, kept))
        study.add_trial(new.trial)
    natural = next((new.run.mixture for new in runs if new.run.phase == "natural"), None)
    if kept is None and natural is not None and not notes.natural(study):
        notes.set_natural(study, natural)  # a definition knows its own
    return sum(new.file is not None for new in runs)


def _url(path: Path, kept: Path | None) -> str:
    if kept is None:
        return str(path)
    return experts.keep(path, kept).relative_to(kept.parent).as_posix()


def written(path: Path) -> datetime:
    """When a table was written."""
    try:
        return datetime.fromtimestamp(path.stat().st_mtime)
    except OSError as error:
        raise ExchangeError(f"{path}: cannot be read ({error.strerror or error})") from None


def export(study: optuna.Study, folder: Path) -> list[str]:
    """Writes a study's runs as tables, with the files of its experts.

    Args:
        study: any study with one mixture whose runs report losses.
        folder: made if it is not there; no file in it is overwritten.

    Returns:
        What was written and what was left out, in lines.

    Raises:
        ExchangeError: if there is nothing to write, or no place for it.
    """
    domains, found, said = recorded.runs_of(study)
    kept = notes.read_notes(study)
    runs = [run for _, run in found]
    sets = tuple(dict.fromkeys(name for run in runs for name in run.losses))
    _check_names("domain", domains)
    _check_names("validation set", sets)
    for name in (RATIOS, METRICS, DETAILS_FILE, LOGPROBS):
        if (folder / name).exists():
            raise ExchangeError(f"{folder / name}: is there already; name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = {n: _copied(kept, run, n, folder / LOGPROBS, said) for n, run in found}
        rows = [_details(n, run, files[n]) for n, run in found]
        columns = [name for name in ("trial", *DETAILS) if any(row[name] != "" for row in rows)]
        tables.write(
            folder / RATIOS,
            [KEYS[0], *domains],
            ([run.name, *run.mixture.values()] for run in runs),
        )
        tables.write(
            folder / METRICS,
            [KEYS[0], *sets],
            ([run.name, *(run.losses.get(name, "") for name in sets)] for run in runs),
        )
        tables.write(
            folder / DETAILS_FILE,
            [KEYS[0], *columns],
            (
                [run.name, *(row[name] for name in columns)]
                for run, row in zip(runs, rows, strict=True)
            ),
        )
    except OSError as error:
        raise ExchangeError(f"{folder}: cannot be written ({error.strerror or error})") from None
    copied = sum(name != "" for name in files.values())
    said.append(f"{folder}: {len(runs)} runs, {copied} files of experts")
    if kept.experts:
        said.append(
            "files that were passed as MDESampler(experts=…) belong to no run; pass them again"
        )
    return said


def _check_names(what: str, names: Sequence[str]) -> None:
    for name in names:
        if name in {*KEYS, *LABELS} or name != name.strip() or not 0 < len(name) <= LONGEST_NAME:
            raise ExchangeError(f"the {what} {name!r} has a name that tables cannot hold")


def _details(number: int, run: TableRun, file: str) -> dict[str, Any]:
    """Cells of runs.csv."""
    known = {name: getattr(run, name) for name in DETAILS}
    texts = {
        "limits": json.dumps(run.limits) if run.limits else "",
        "beside": json.dumps(run.beside) if run.beside else "",
    }
    cells = {name: "" if value is None else value for name, value in {**known, **texts}.items()}
    return {
        **cells,
        "trial": number,
        "logprobs": file,
        "budget": "" if run.budget == 1 else run.budget,
    }


def _copied(kept: notes.Notes, run: TableRun, number: int, folder: Path, said: list[str]) -> str:
    """Copies the file of an expert; its name, or nothing where it cannot be had."""
    named = [run.logprobs, *run.more_logprobs] if run.logprobs else [*run.more_logprobs]
    urls = [kept.resolve(url) for url in named]
    foreign = [url for url in urls if not is_trusted(url, kept.roots)]
    if foreign:
        said.append(
            f"trial {number}: {foreign[0]} lies outside the study's folder and is not opened; if "
            f"it is yours, set {ALLOW} to a folder above it"
        )
        return ""
    name = f"{number}{experts.SUFFIX}"
    try:
        if len(urls) > 1:
            arrays, metadata = experts.merged(urls)
            save_logprobs(folder / name, arrays, **metadata)
        elif urls:
            folder.mkdir(parents=True, exist_ok=True)
            with opened(urls[0]) as stream, (folder / name).open("wb") as copy:
                shutil.copyfileobj(stream, copy)
    except (OSError, ExpertFileError) as error:
        (folder / name).unlink(missing_ok=True)
        said.append(f"trial {number}: its log-probabilities cannot be read ({error})")
        return ""
    return name if urls else ""
