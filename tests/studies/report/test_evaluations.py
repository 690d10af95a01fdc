"""Downstream evaluations of a study's runs, as lm-evaluation-harness leaves them beside a run."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
from optuna_mde_studies.report import evaluations, overview, page
from optuna_mde_studies.runner.confirm import Confirmation
from optuna_mde_studies.runner.folder import StudyFolder
from optuna_mde_trainers.spec import LaunchSpec, RunSpec, TrainingSpec

from optuna_mde import report_losses, suggest_mixture

HALF = {"web": 0.5, "code": 0.5}


def evaluated(run: Path, task: str, **metrics: float) -> None:
    """A file as the harness writes it, as far as it is read."""
    (run / "evaluations").mkdir(parents=True, exist_ok=True)
    found = {"results": {task: {"alias": task, **metrics}}, "n-shot": {task: 5}, "versions": {}}
    (run / f"evaluations/{task}-5shot.json").write_text(json.dumps(found))


@pytest.fixture
def study() -> optuna.Study:
    found = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for number in range(2):
        trial = found.ask()
        suggest_mixture(trial, ["web", "code"])
        trial.set_user_attr("phase", "model")
        trial.set_user_attr("run", f"runs/abc{number}")
        found.tell(trial, report_losses(trial, {"a": 3.0 + number}))
    return found


def test_evaluated_runs_are_named_by_their_trials(study, tmp_path):
    metrics = {"acc,none": 0.5, "acc_stderr,none": 0.0312, "acc_norm,none": 0.625}
    evaluated(tmp_path / "runs/abc1", "arc_easy", **metrics)
    evaluated(tmp_path / "runs/abc1", "lambada", **{"perplexity,none": 12.5})
    evaluated(tmp_path / "runs/abc0", "arc_easy", **{**metrics, "acc_norm_stderr,none": 0.02})
    (tmp_path / "runs/abc0/evaluations/half.json").write_text('{"results": ')
    table = evaluations.table(overview.read(study), StudyFolder(tmp_path))
    assert table.head == ("run", "arc_easy acc_norm, 5 shots", "lambada perplexity, 5 shots")
    assert table.lines == (
        ("trial 0, model", "0.625 ± 0.020", ""),
        ("trial 1, model", "0.625", "12.500"),
    )
    assert "arc_easy acc_norm, 5 shots" in page.write(study, tmp_path).read_text("utf-8")


def test_confirming_runs_are_named_by_mixture_and_seed(study, tmp_path):
    run = tmp_path / "runs/fff"
    evaluated(run, "arc_easy", **{"acc,none": 0.5})
    training = TrainingSpec(
        mixture=HALF, corpus="c", tokenizer="t", max_steps=3, global_batch_size=2, seed=10_001
    )
    RunSpec(training=training, launch=LaunchSpec(corpus_folder="corpus")).write(run / "spec.json")
    confirmation = Confirmation(told=2, seeds=[10_001], mixtures={"recommended": HALF})
    found = overview.read(study)
    folder = StudyFolder(tmp_path)
    ((name, _),) = evaluations.table(found, folder, confirmation).lines
    assert name == "recommended, seed 10001"
    ((name, _),) = evaluations.table(found, folder).lines
    assert name == "web 0.50 code 0.50, seed 10001"


def test_without_evaluations_there_is_no_table(study, tmp_path):
    assert evaluations.table(overview.read(study), StudyFolder(tmp_path)) is None
    assert "Downstream" not in page.write(study, tmp_path).read_text("utf-8")
