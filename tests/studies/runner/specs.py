"""A short run of the tiny study, for what starts runs."""

from __future__ import annotations

from pathlib import Path

from optuna_mde_studies.definition import reading
from optuna_mde_studies.runner.experiment import Experiment
from optuna_mde_studies.runner.folder import StudyFolder
from optuna_mde_trainers.corpus import corpora
from optuna_mde_trainers.spec import RunSpec, ScoreSpec


def short_experiment(workplace: Path, *settings: str) -> Experiment:
    """The tiny study with runs of three steps, on its corpus, which is made."""
    config = reading.read("tiny.yaml", ["training.max_steps=3", *settings]).config
    corpus = corpora.prepare(config.corpus, workplace / "corpus")
    return Experiment(config, StudyFolder(workplace), corpus)


def short_spec(workplace: Path) -> RunSpec:
    """A run of it, as an expert's."""
    experiment = short_experiment(workplace)
    return experiment.launched(
        experiment.training(experiment.natural, seed=0), ScoreSpec(logprobs=True)
    )


def ignore(step: int, total: int) -> None:
    """Nobody watches."""
