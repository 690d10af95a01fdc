"""A trial becomes the spec of a run."""

from __future__ import annotations

import inspect

import optuna
from lightning.pytorch.loggers import MLFlowLogger
from optuna.trial import TrialState

from tests.studies.tiny import experiment


def test_a_mixture_that_is_run_again_takes_the_next_seed(workplace):
    """A repeat with the same seed would be the same run, and say nothing of the noise."""
    found = experiment("training.seed=5")
    found.folder.path.mkdir(parents=True)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    half = {"mix/code": 0.5, "mix/prose": 0.5, "mix/numbers": 0.0}
    other = {"mix/code": 0.25, "mix/prose": 0.5, "mix/numbers": 0.25}
    seeds = []
    for mixture, state in (
        (half, TrialState.COMPLETE),
        (half, TrialState.FAIL),  # leaves its seed to the next
        (half, TrialState.COMPLETE),
        (other, TrialState.COMPLETE),
        (half, TrialState.COMPLETE),
    ):
        study.enqueue_trial(mixture)
        trial = study.ask()
        seeds.append(found.propose(trial, study).training.seed)
        study.tell(trial, 3.0 if state == TrialState.COMPLETE else None, state)
    assert seeds == [5, 6, 6, 5, 7]


def test_a_retried_trial_keeps_its_spec(workplace):
    found = experiment()
    found.folder.path.mkdir(parents=True)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trial = study.ask()
    assert found.propose(trial, study) == found.propose(trial, study)


def test_loggers_show_a_study_as_one_group(workplace, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    found = experiment("launch.logger=[csv, tensorboard, wandb, mlflow]").launch.logger
    store = f"sqlite:///{workplace.resolve()}/runs/tiny/mlflow.db"
    assert found == {
        "csv": {},
        "tensorboard": {},
        "wandb": {"group": "tiny"},
        "mlflow": {"experiment_name": "tiny", "tracking_uri": store},
    }
    known = inspect.signature(MLFlowLogger).parameters
    assert found["mlflow"].keys() <= known.keys()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    own = {"wandb": {"group": "mine", "project": "mix"}, "mlflow": {}}
    found = experiment(f"launch.logger={own}").launch.logger
    assert found["wandb"] == {"group": "mine", "project": "mix"}
    assert found["mlflow"] == {"experiment_name": "tiny"}
