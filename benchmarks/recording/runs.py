"""A recording's folder: its text, its corpus and its runs, gone on with wherever it stopped.

The folder is that of a study without trials (`corpus/`, `runs/<hash>/`, `logs/`), with the texts
beside them. The runs are performed by the worker processes of `optuna-mde run`.
"""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import yaml
from optuna_mde_studies.definition import reading
from optuna_mde_studies.definition.config import StudyConfig
from optuna_mde_studies.definition.reading import DefinitionError
from optuna_mde_studies.runner import resources
from optuna_mde_studies.runner.experiment import Experiment
from optuna_mde_studies.runner.folder import StudyError, StudyFolder, create, stored_config
from optuna_mde_studies.runner.messages import Event, Failed, Lost, Order, RunOrder, Trained
from optuna_mde_studies.runner.workers import Pool
from optuna_mde_studies.terminal.progress import Progress
from optuna_mde_trainers.corpus import corpora
from optuna_mde_trainers.corpus.blocks import CORPUS_FILE, Corpus
from optuna_mde_trainers.spec import RunResult, RunSpec, ScoreSpec, write_atomic

from benchmarks.recording import config as recordings
from benchmarks.recording.config import RECORDING_FILE, RecordingConfig
from benchmarks.recording.design import Job, design
from benchmarks.recording.texts import write_texts
from benchmarks.tables import EXPERT


@dataclass(frozen=True)
class Recorder:
    """An opened recording."""

    config: RecordingConfig
    experiment: Experiment

    @property
    def folder(self) -> StudyFolder:
        return self.experiment.folder

    @property
    def jobs(self) -> list[Job]:
        """All runs of the design; a run's index is its place."""
        seed = self.experiment.config.training.seed
        return design(self.config, self.experiment.natural, training_seed=seed)

    def spec(self, job: Job) -> RunSpec:
        """The run of a job; experts keep their log-probabilities."""
        experiment = self.experiment
        training = experiment.training(
            dict(zip(experiment.domains, job.rates, strict=True)),
            seed=job.seed,
            max_steps=max(1, round(job.budget * experiment.config.training.max_steps)),
        )
        return experiment.launched(training, ScoreSpec(logprobs=job.kind == EXPERT))

    def finished(self, job: Job) -> RunResult | None:
        """The result of a job that is done."""
        return self.experiment.finished(self.spec(job))

    def train(self, progress: Progress) -> None:
        """Performs every run that is not finished yet.

        A run that fails is reported and left out until the next start: the table has a gap there.

        Raises:
            StudyError: workers keep dying.
        """
        orders = [
            RunOrder(f"{index} {job.kind}", self.spec(job)) for index, job in enumerate(self.jobs)
        ]
        waiting = deque(o for o in orders if self.experiment.finished(o.spec) is None)
        progress.total, progress.done = len(orders), len(orders) - len(waiting)
        if not waiting:
            return

        def next_order() -> Order | None:
            return waiting.popleft() if waiting else None

        def on_event(worker: int, event: Event) -> None:
            progress.event(worker, event)
            match event:
                case Trained(order, result):
                    mean = sum(result.losses.values()) / len(result.losses)
                    progress.finished(f"{order.name}: {mean:.4f}, {result.seconds:.1f} s")
                case Failed(RunOrder() as order, message):
                    progress.line(f"{order.name} failed: {message}")
                case Lost(RunOrder() as order, _):
                    waiting.appendleft(order)

        room = resources.places(self.experiment.config.launch, len(self.experiment.domains))
        progress.start_workers(room.workers)
        progress.stage(f"{len(waiting)} runs on {room.workers} workers")
        with self.folder.owned(), Pool(self.folder, room, self.experiment.config) as pool:
            pool.run(next_order, on_event)


def open_recorder(name: str, folder: Path, progress: Progress) -> Recorder:
    """Reads definition and design, and builds text and corpus where the folder has none.

    Args:
        name: path of the study definition; `recording.yaml` lies beside it.
        folder: of the recording; its definition must be the one that it began with.
        progress: hears what is done.

    Raises:
        DefinitionError: something is wrong in one of the files, or the folder has another one.
        StudyError: a domain holds too little text.
    """
    config = recordings.read(Path(name).with_name(RECORDING_FILE))
    definition = reading.read(name)
    study = StudyFolder(folder)
    create(study)
    _keep(study, definition.config)
    progress.stage("opening the corpus")
    write_texts(config.texts, folder)
    corpus = _corpus(definition.config, study, progress)
    if corpus.dropped:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in corpus.dropped.items())
        raise StudyError(f"{folder}: parts of the corpus were left out ({reasons})")
    return Recorder(config, Experiment(definition.config, study, corpus))


def _keep(folder: StudyFolder, config: StudyConfig) -> None:
    """Stores the definition, or checks it against the one that began the recording."""
    if not folder.definition.exists():
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        write_atomic(folder.definition, text)
        return
    exclude = {"launch"}  # where runs take place changes none of them
    if stored_config(folder).model_dump(exclude=exclude) != config.model_dump(exclude=exclude):
        raise DefinitionError(
            f"{folder.path}: this recording was begun with another definition, which lies in "
            f"{folder.definition}; take another folder"
        )


def _corpus(config: StudyConfig, folder: StudyFolder, progress: Progress) -> Corpus:
    """The corpus of the first start: packages that have changed since do not matter."""
    if (folder.corpus / CORPUS_FILE).exists():
        return Corpus.load(folder.corpus)
    place = folder.corpus.resolve()
    with contextlib.chdir(folder.path):  # data_files such as texts/stubs.jsonl lie here
        return corpora.prepare(config.corpus, place, progress=progress.line)
