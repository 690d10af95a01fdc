"""Files of a study that something has damaged: a sentence, never a traceback."""

from __future__ import annotations

import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
import torch
from optuna_mde_studies import cli
from optuna_mde_studies.definition import reading
from optuna_mde_studies.runner import experiment, opening, session, trials
from optuna_mde_studies.runner.changes import keep_definition
from optuna_mde_studies.runner.folder import (
    StudyError,
    StudyFolder,
    create,
    stored_config,
)
from optuna_mde_studies.terminal.progress import Progress, console
from optuna_mde_trainers.spec import ScoreSpec


@pytest.fixture
def folder(workplace) -> StudyFolder:
    """A study that has begun and has no trial yet."""
    definition = reading.read("tiny.yaml")
    found = StudyFolder(workplace / "runs/tiny")
    create(found)
    keep_definition(found, definition)
    opening.open_study(found, definition.config)
    return found


@pytest.fixture
def said(monkeypatch, capsys):
    """What a command that fails says."""

    def said(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["optuna-mde", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 2
        text = capsys.readouterr().err.strip()
        assert "\n" not in text
        return text

    return said


def test_a_study_without_a_finished_run_recommends_nothing(folder, said):
    assert "has no finished run to learn from" in said("recommend", "tiny.yaml")


def test_a_study_whose_runs_tell_nothing_ends_with_a_sentence(folder):
    display = Progress("tiny", console())
    with (
        session.Session(reading.read("tiny.yaml"), folder, display) as begun,
        pytest.raises(StudyError, match=r"runs/tiny: .*no finished run to learn from"),
    ):
        begun.conclude(None)


@pytest.mark.parametrize("content", ["{", '{"told": "many"}', "\0"])
def test_a_damaged_confirmation(content, folder, said):
    folder.confirmation.write_text(content)
    text = said("report", "tiny.yaml")
    assert text.startswith("runs/tiny/confirm.json holds no confirmation")
    assert "delete it and confirm again" in text


def test_a_damaged_storage(folder, said):
    folder.database.write_bytes(b"garbage" * 100)
    text = said("status", "tiny.yaml")
    assert "runs/tiny/study.db cannot be opened" in text


@pytest.mark.parametrize("command", ["status", "report", "check"])
def test_a_storage_with_attributes_that_are_none(command, folder, said):
    opening.open_study(folder, stored_config(folder)).enqueue_trial({}, user_attrs={"losses": {}})
    with closing(sqlite3.connect(folder.database)) as connection:
        connection.execute("update trial_user_attributes set value_json = 'no JSON'")
        connection.commit()
    text = said(command, "tiny.yaml")
    assert text.startswith("the study's storage cannot be read or written (Expecting value")


@pytest.mark.parametrize("content", ["{", "name: [", "5", "\0"])
def test_a_damaged_definition(content, folder, said):
    folder.definition.write_text(content)
    assert "runs/tiny/definition.yaml" in said("status", "tiny.yaml")
    with pytest.raises(StudyError, match=r"definition\.yaml is not what the study was begun with"):
        stored_config(folder)


def test_another_versions_checkpoint_makes_way_and_the_study_goes_on(
    tiny_run, tmp_path, monkeypatch, command
):
    """A run that waits with a checkpoint of its own, as one that was interrupted does."""
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    folder = StudyFolder(Path("runs/tiny"))
    found = experiment.Experiment.open(folder)
    study = opening.open_study(folder, found.config)
    study.enqueue_trial({"mix/code": 0.25, "mix/prose": 0.25, "mix/numbers": 0.5})
    training = found.training({"code": 0.25, "prose": 0.25, "numbers": 0.5}, seed=0)
    run = found.launched(training, ScoreSpec()).folder(folder.runs)
    run.mkdir()
    torch.save({"optuna_mde_version": 0}, run / "last.ckpt")
    study.set_user_attr(trials.WANTED_ATTR, 7)
    done = command("work", "tiny.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"run {run.name} begins afresh, as its checkpoint cannot be gone" in done.stdout
    assert "7 trials are finished" in done.stdout
    assert (run / "result.json").exists()
    assert (run / "last.unusable").exists()
    last = study.trials[-1]
    assert (len(study.trials), last.state.name) == (7, "COMPLETE")
    assert last.user_attrs["run"] == f"runs/{run.name}"
