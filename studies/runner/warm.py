"""Runs of other studies, taken into one as finished trials.

A run is a function of its mixture, text, model and training. Where the text of a domain differs,
or the seed, losses still compare within noise, and a word says so; where the tokenizer, a
validation set, the model or the training differs, they do not, and the other study is refused.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna_mde_studies.definition.reading import dotted
from optuna_mde_studies.exchange import experts, recorded
from optuna_mde_studies.exchange.origin import of_study
from optuna_mde_studies.exchange.runs import TableRun, TableRuns
from optuna_mde_studies.exchange.tables import MOST_NAMED, ExchangeError
from optuna_mde_studies.runner import identity
from optuna_mde_studies.runner.changes import differences
from optuna_mde_studies.runner.folder import (
    RUNS,
    StudyError,
    StudyFolder,
    stored_config,
)
from optuna_mde_studies.wording import count, listed
from optuna_mde_trainers.corpus.blocks import CORPUS_FILE, Corpus
from optuna_mde_trainers.spec import RESULT_FILE

if TYPE_CHECKING:
    import optuna
    from optuna_mde_studies.definition.config import StudyConfig
    from optuna_mde_studies.runner.experiment import Experiment
    from optuna_mde_trainers.spec import RunSpec

MUST_AGREE = ("model", "optimizer", "training")
"""Sections that a loss depends on beside the text; the seed in them shifts all losses alike."""


def start(experiment: Experiment, study: optuna.Study, say: Callable[[str], None]) -> None:
    """Takes over what the studies of `warm_start` have finished and this one has not yet.

    Raises:
        StudyError: if one of them is not there, or its runs cannot be compared with this study's.
    """
    for name in experiment.config.warm_start:
        try:
            said = list(_take(experiment, study, name))
        except ExchangeError as error:
            raise StudyError(f"warm_start: {name}: {error}") from None
        for line in said:
            say(f"warm start from {name}: {line}")


def check(own: StudyFolder, names: Iterable[str]) -> None:
    """Refuse names of studies that are not there, before anything is begun.

    Raises:
        StudyError: with the first of them.
    """
    for name in names:
        _folder(own, name)


def adopt(experiment: Experiment, specs: Sequence[RunSpec], say: Callable[[str], None]) -> None:
    """Copies runs that the studies of `warm_start` have performed already, as they are: a run is a
    function of its spec, and of a confirmation many are the same. What is gone is trained."""
    for name in experiment.config.warm_start:
        try:
            other = _folder(experiment.folder, name)
            other = other.placed(stored_config(other))
            copied = sum(_copy(experiment, other, spec) for spec in specs)
        except StudyError:
            continue
        if copied:
            say(f"{count(copied, 'run')} of {name} taken over, with all files")


def _copy(experiment: Experiment, other: StudyFolder, spec: RunSpec) -> bool:
    """Copies a finished run's folder from another study, if that has it; whether it did."""
    source, target = (spec.folder(folder.runs) for folder in (other, experiment.folder))
    if experiment.finished(spec) is not None or target.exists():
        return False
    other.bring(source / RESULT_FILE)
    if not (source / RESULT_FILE).is_file():
        return False
    other.bring(source)
    part = target.parent.with_name(f".{target.name}-{os.getpid()}")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, part, ignore=shutil.ignore_patterns("*.lock"))
    try:
        part.rename(target)
    except OSError:  # another process was first
        shutil.rmtree(part)
        return False
    experiment.folder.share(target)
    return True


def _take(experiment: Experiment, study: optuna.Study, name: str) -> Iterator[str]:
    """Takes over what is new, all or nothing; says in lines what that was."""
    folder = _folder(experiment.folder, name)
    config = stored_config(folder)
    folder = folder.placed(config)
    other = identity.open_existing(folder, config.name)
    _, runs, said = recorded.runs_of(other)
    known = recorded.origins(study)
    origins = {n: of_study(config.name, identity.kept_mark(folder), n) for n, _ in runs}
    new = {n: _bare(run) for n, run in runs if origins[n] not in known}
    if not new:
        return
    folder.bring(folder.corpus / CORPUS_FILE)
    said += _compared(experiment, config, Corpus.load(folder.corpus))
    foreign = [n for n, run in new.items() if _has_mass_outside(run, experiment.domains)]
    if foreign:
        said.append(f"{count(len(foreign), 'run')} left out, of domains that are none here")
    kept = {n: run for n, run in new.items() if n not in foreign}
    sets = tuple(experiment.corpus.sets)
    held = [name for name in sets if any(name in run.losses for run in kept.values())]
    found = TableRuns(experiment.domains, tuple(held), tuple(kept.values()))
    _check_scored(experiment, found, name)
    group = recorded.mixture_of(
        study, found, experiment.domains, experiment.bounds, experiment.natural
    )
    target = recorded.Target(study, group, experiment.config.goals, datetime.now())
    trials = {n: recorded.as_trial(run, sets, target, origins[n]) for n, run in kept.items()}
    recorded.check(study, list(trials.values()))
    files = 0
    for number, run in kept.items():
        url = _file(run, folder, experiment.folder)
        if url is not None:
            recorded.name_file(trials[number], url)
            files += 1
        study.add_trial(trials[number])
    yield from said
    yield f"{count(len(kept), 'run')} taken over, {files} with an expert's file"


def _folder(own: StudyFolder, name: str) -> StudyFolder:
    """The other study's, named by its path or by what it is called beside this one."""
    places = (Path(name), own.path.parent / name, Path(RUNS) / name)
    for place in places:
        folder = StudyFolder(place)
        if folder.definition.is_file() and place.resolve() != own.path.resolve():
            return folder
    raise StudyError(
        f"warm_start: there is no study {name!r} ({', '.join(map(str, dict.fromkeys(places)))}); "
        "name another study's folder"
    )


def _bare(run: TableRun) -> TableRun:
    """A run without what only its own study means: its limits, its natural mixture."""
    return replace(run, limits={}, phase=run.phase if run.phase == "expert" else None)


def _has_mass_outside(run: TableRun, domains: tuple[str, ...]) -> bool:
    return any(rate > 0 for name, rate in run.mixture.items() if name not in domains)


def _compared(experiment: Experiment, config: StudyConfig, corpus: Corpus) -> list[str]:
    """What differs and does not matter much, in lines.

    Raises:
        ExchangeError: if something differs without which no losses can be compared.
    """
    ours, theirs = _settings(experiment.config), _settings(config)
    changed = [
        f"{dotted(path)} is {theirs_} there and {ours_} here"
        for path, theirs_, ours_ in differences(theirs, ours)
    ]
    here = experiment.corpus
    if corpus.tokenizer_fingerprint != here.tokenizer_fingerprint:
        changed.append("its text has another tokenizer")
    changed += [
        f"its validation set {name} holds other tokens"
        for name, info in here.sets.items()
        if name in corpus.sets and corpus.sets[name].fingerprint != info.fingerprint
    ]
    if changed:
        raise ExchangeError(
            f"{'; '.join(changed[:MOST_NAMED])}: its runs cannot be compared with this study's"
        )
    said = []
    others = [
        name
        for name, info in here.domains.items()
        if name in corpus.domains and corpus.domains[name].fingerprint != info.fingerprint
    ]
    if others:
        said.append(f"other text in {listed(others)}; its runs are taken as of this text")
    if config.training.seed != experiment.config.training.seed:
        said.append("another training seed, which shifts all of its losses a little")
    return said


def _settings(config: StudyConfig) -> dict[str, Any]:
    """What a loss depends on beside the text and the seed."""
    kept = {name: getattr(config, name).model_dump(mode="json") for name in MUST_AGREE}
    kept["training"].pop("seed")
    kept["corpus"] = {"block_size": config.corpus.block_size}
    return kept


def _check_scored(experiment: Experiment, found: TableRuns, name: str) -> None:
    goals = experiment.config.goals
    wanted = goals.sets if all(weights for _, weights in goals.goals) else experiment.corpus.sets
    lacking = [found_ for found_ in wanted if found_ not in found.sets]
    if found.runs and lacking:
        raise ExchangeError(
            f"its runs have no losses on {listed(lacking)}, which the objective weighs; score "
            "them first, where their weights are kept, or weigh other sets"
        )


def _file(run: TableRun, there: StudyFolder, here: StudyFolder) -> str | None:
    """An expert's file, copied from one study's folder into the other's; None where it is gone, or
    lies elsewhere than below that folder."""
    path = experts.inside(there.files, run.logprobs) if run.logprobs is not None else None
    if path is None:
        return None
    there.bring(there.files / path.relative_to(there.files.resolve()))
    if not path.is_file():
        return None
    kept = experts.keep(path, here.imported)
    here.share(kept)
    return kept.relative_to(here.files).as_posix()
