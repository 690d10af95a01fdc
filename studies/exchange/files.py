"""Tables of runs on disk: what `import` reads and `export` writes."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna_mde_studies.exchange import experts, recorded, tables
from optuna_mde_studies.exchange.origin import of_table
from optuna_mde_studies.exchange.runs import DETAILS, TableRun, TableRuns, joined
from optuna_mde_studies.exchange.tables import KEYS, LABELS, LONGEST_NAME, ExchangeError
from optuna_mde_studies.wording import count, listed

from optuna_mde import add_losses
from optuna_mde.mde.logprobs import ExpertFileError, opened, save_logprobs
from optuna_mde.mde.urls import ALLOW, is_trusted
from optuna_mde.trials import notes

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from optuna_mde.trials.records import Record

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


@dataclass(frozen=True)
class Addition:
    """What the tables know of a run that the study has taken over before, and it does not."""

    number: int
    """Of its trial."""
    losses: dict[str, float]
    file: Path | None
    """Log-probabilities on sets that no file of the trial has."""
    urls: tuple[str, ...]
    """Files that the trial has."""


@dataclass(frozen=True)
class Intake:
    """What an import comes to."""

    new: tuple[Candidate, ...]
    lacking: tuple[Addition, ...]
    known: int
    """Runs that the study has taken over before."""

    @property
    def said(self) -> list[str]:
        """In lines, but for the new runs."""
        lines = []
        if self.known:
            lines.append(f"{count(self.known, 'run')} left out, in the study already")
        numbers = Counter(name for more in self.lacking for name in more.losses)
        added = [f"losses on {name!r} ({number})" for name, number in numbers.items()]
        if files := sum(more.file is not None for more in self.lacking):
            added.append(f"experts' files ({files})")
        if added:
            lines.append(f"added to runs of before: {listed(added)}")
        return lines


def examine(target: recorded.Target, found: TableRuns, source: Tables) -> Intake:
    """What the study does not know yet, with everything that can be wrong with it; nothing is
    written.

    Args:
        target: the study, and how its runs are judged.
        found: the runs.
        source: the files that they stand in.

    Raises:
        ExchangeError: if one of them cannot be taken.
    """
    if source.logprobs is None and any(run.logprobs for run in found.runs):
        raise ExchangeError(
            f"{source.details}: names files of log-probabilities; say with --logprobs in which "
            "folder they lie"
        )
    find = recorded.taken_over(target)
    origins = {run.name: of_table(source.ratios.name, run.name) for run in found.runs}
    pairs = [(run, find(run, origins[run.name])) for run in found.runs]
    runs = tuple(run for run, record in pairs if record is None)
    scored = tuple(name for name in found.sets if any(name in run.losses for run in runs))
    recorded.check_sets(target, replace(found, sets=scored, runs=runs))
    trials = [recorded.as_trial(run, scored, target, origins[run.name]) for run in runs]
    recorded.check(target.study, trials)
    kept = notes.read_notes(target.study)
    lacking = [_lacking(run, record, kept, source.logprobs) for run, record in pairs if record]
    return Intake(
        tuple(
            Candidate(run, trial, _file(run, source.logprobs))
            for run, trial in zip(runs, trials, strict=True)
        ),
        tuple(more for more in lacking if more.losses or more.file is not None),
        len(lacking),
    )


def _file(run: TableRun, folder: Path | None) -> Path | None:
    return None if folder is None else experts.find(run, folder)


def _lacking(run: TableRun, record: Record, kept: notes.Notes, folder: Path | None) -> Addition:
    losses = {name: loss for name, loss in run.losses.items() if name not in record.losses}
    file = _file(run, folder)
    held = [url for url in map(kept.resolve, record.logprob_urls) if is_trusted(url, kept.roots)]
    if file is not None and experts.sets_of([str(file)]) <= experts.sets_of(held):
        file = None
    return Addition(record.number, losses, file, record.logprob_urls)


def take(study: optuna.Study, found: Intake, kept: Path | None) -> int:
    """Adds to a study what `examine` has found.

    Args:
        study: the study.
        found: runs, and what runs of before lack.
        kept: folder of the study that the experts' files are copied into, relative to which they
            are named; None names them where they lie.

    Returns:
        How many of the new runs are experts with a file.
    """
    for new in found.new:
        if new.file is not None:
            recorded.name_file(new.trial, _url(new.file, kept))
        study.add_trial(new.trial)
    losses = {more.number: more.losses for more in found.lacking if more.losses}
    files: dict[int, str] = {}
    for more in found.lacking:
        if more.file is not None and (url := _url(more.file, kept)) not in more.urls:
            files[more.number] = url
    if losses or files:
        add_losses(study, losses, logprobs=files)
    natural = next((new.run.mixture for new in found.new if new.run.phase == "natural"), None)
    if kept is None and natural is not None and not notes.natural(study):
        notes.set_natural(study, natural)  # a definition knows its own
    return sum(new.file is not None for new in found.new)


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
