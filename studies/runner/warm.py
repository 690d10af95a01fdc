"""Runs of other studies, taken into one as finished trials.

A run is a function of its mixture, text, model and training. Where the text of a domain differs,
or the seed, losses still compare within noise, and a word says so; where the tokenizer, a
validation set, the model or the training differs, they do not, and the other study is refused.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
from optuna_mde_studies.runner.corpus import standing
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
    from optuna_mde_trainers.corpus.tokenizer import TokenizerConfig
    from optuna_mde_trainers.spec import RunSpec

    from optuna_mde.objective import Objective

MUST_AGREE = ("model", "optimizer", "training")
"""Sections that a loss depends on beside the text; the seed in them shifts all losses alike."""


@dataclass(frozen=True)
class Offer:
    """What another study has finished that this one has not taken over yet."""

    name: str
    folder: StudyFolder
    config: StudyConfig
    runs: Mapping[int, TableRun]
    """By their trials' numbers, those of domains that are none here left out."""
    origins: Mapping[int, Any]
    said: tuple[str, ...]
    """What is left out, in lines."""

    @property
    def sets(self) -> set[str]:
        """Validation sets that any of the runs has a loss of."""
        return {name for run in self.runs.values() for name in run.losses}

    @property
    def experts(self) -> set[str]:
        """Domains of which one of the runs is an expert."""
        return {d for run in self.runs.values() for d, rate in run.mixture.items() if rate == 1.0}

    @property
    def summary(self) -> str:
        """What `run` will take over, in a line."""
        runs = count(len(self.runs), "run")
        found = [f"{runs} to take over, experts of {listed(sorted(self.experts)) or 'no domain'}"]
        return f"warm start from {self.name}: {'; '.join([*found, *self.said])}"


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


def offers(own: StudyFolder, config: StudyConfig) -> list[Offer]:
    """What the studies of `warm_start` have that this one has not yet; nothing is written.

    Args:
        own: the study's folder, which need not be there.
        config: its definition.

    Raises:
        StudyError: if one of them is not there, or its runs cannot be compared with this study's,
            as far as that is known before there is a corpus.
    """
    study = identity.find(own, config.name) if config.warm_start else None
    known = [] if study is None else recorded.origins(study)
    here = standing(config, own) if config.warm_start else None
    found = []
    for name in config.warm_start:
        try:
            offer = _offer(own, config.domains, name, known)
            if offer.runs:
                _compared(config, here, offer)
                _check_scored(config.goals, config.sets, offer)
        except ExchangeError as error:
            raise StudyError(f"warm_start: {name}: {error}") from None
        found.append(offer)
    return found


def _offer(own: StudyFolder, domains: Sequence[str], name: str, known: Sequence[Any]) -> Offer:
    """Another study's runs but for those whose origins are known, and those of other domains."""
    folder = _folder(own, name)
    theirs = stored_config(folder)
    folder = folder.placed(theirs)
    _, runs, said = recorded.runs_of(identity.open_existing(folder, theirs.name))
    mark = identity.kept_mark(folder)
    origins = {n: of_study(theirs.name, mark, n) for n, _ in runs}
    new = {n: _bare(run) for n, run in runs if origins[n] not in known}
    foreign = [n for n, run in new.items() if _has_mass_outside(run, domains)]
    if foreign:
        said.append(f"{count(len(foreign), 'run')} left out, of domains that are none here")
    kept = {n: run for n, run in new.items() if n not in foreign}
    return Offer(name, folder, theirs, kept, origins, tuple(said if new else ()))


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
    config, domains = experiment.config, experiment.domains
    offer = _offer(experiment.folder, domains, name, recorded.origins(study))
    if not offer.runs:
        yield from offer.said
        return
    said = [*offer.said, *_compared(config, experiment.corpus, offer)]
    sets = tuple(experiment.corpus.sets)
    _check_scored(config.goals, sets, offer)
    held = tuple(name for name in sets if name in offer.sets)
    found = TableRuns(domains, held, tuple(offer.runs.values()))
    group = recorded.mixture_of(study, found, domains, experiment.bounds, experiment.natural)
    target = recorded.Target(study, group, config.goals, datetime.now())
    trials = {
        n: recorded.as_trial(run, sets, target, offer.origins[n]) for n, run in offer.runs.items()
    }
    recorded.check(study, list(trials.values()))
    files = 0
    for number, run in offer.runs.items():
        url = _file(run, offer.folder, experiment.folder)
        if url is not None:
            recorded.name_file(trials[number], url)
            files += 1
        study.add_trial(trials[number])
    yield from said
    yield f"{count(len(trials), 'run')} taken over, {files} with an expert's file"


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


def _has_mass_outside(run: TableRun, domains: Sequence[str]) -> bool:
    return any(rate > 0 for name, rate in run.mixture.items() if name not in domains)


def _compared(config: StudyConfig, here: Corpus | None, offer: Offer) -> list[str]:
    """What differs and does not matter much, in lines.

    Args:
        config: of this study.
        here: its corpus. None: it is not built yet.
        offer: of the other one.

    Raises:
        ExchangeError: if something differs without which no losses can be compared.
    """
    changed = [
        f"{dotted(path)} is {theirs} there and {ours} here"
        for path, theirs, ours in differences(_settings(offer.config), _settings(config))
    ]
    said = []
    if here is None:
        changed += _other_tokenizer(offer.config.corpus.tokenizer, config.corpus.tokenizer)
    else:
        offer.folder.bring(offer.folder.corpus / CORPUS_FILE)
        there = Corpus.load(offer.folder.corpus)
        if there.tokenizer_fingerprint != here.tokenizer_fingerprint:
            changed.append("its text has another tokenizer")
        changed += [
            f"its validation set {name} holds other tokens"
            for name in _other(here.sets, there.sets)
        ]
        if others := _other(here.domains, there.domains):
            said.append(f"other text in {listed(others)}; its runs are taken as of this text")
    if changed:
        raise ExchangeError(
            f"{'; '.join(changed[:MOST_NAMED])}: its runs cannot be compared with this study's"
        )
    if offer.config.training.seed != config.training.seed:
        said.append("another training seed, which shifts all of its losses a little")
    return said


def _other_tokenizer(there: TokenizerConfig, here: TokenizerConfig) -> Iterator[str]:
    """What two definitions make certain; a file may hold what the other study has trained."""
    made = [
        t.vocab_size if t.type == "bpe" else t.type
        for t in (there, here)
        if t.type != "pretrained"
    ]
    if len({*made}) == 2:
        yield f"corpus.tokenizer makes {made[0]} there and {made[1]} here"


def _other(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """Names that both have, of other tokens."""
    return [n for n in here if n in there and there[n].fingerprint != here[n].fingerprint]


def _settings(config: StudyConfig) -> dict[str, Any]:
    """What a loss depends on beside the text and the seed."""
    kept = {name: getattr(config, name).model_dump(mode="json") for name in MUST_AGREE}
    kept["training"].pop("seed")
    kept["corpus"] = {"block_size": config.corpus.block_size}
    return kept


def _check_scored(goals: Objective, sets: Iterable[str], offer: Offer) -> None:
    wanted = goals.sets if all(weights for _, weights in goals.goals) else sets
    lacking = [name for name in wanted if name not in offer.sets]
    if lacking:
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
