"""A short run of the tiny study, for what starts runs."""

from __future__ import annotations

from pathlib import Path

from optuna_mde_studies.definition import reading
from optuna_mde_studies.runner.experiment import Experiment
from optuna_mde_studies.runner.folder import StudyFolder
from optuna_mde_trainers.corpus import corpora
from optuna_mde_trainers.spec import RunSpec, ScoreSpec


def short_spec(workplace: Path) -> RunSpec:
    """Three steps on the tiny study's corpus, which is made."""
    config = reading.read("tiny.yaml", ["training.max_steps=3"]).config
    corpus = corpora.prepare(config.corpus, workplace / "corpus")
    experiment = Experiment(config, StudyFolder(workplace), corpus)
    return experiment.launched(
        experiment.training(corpus.natural, seed=0), ScoreSpec(logprobs=True)
    )


def ignore(step: int, total: int) -> None:
    """Nobody watches."""
