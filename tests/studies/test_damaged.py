"""Files of a study that something has damaged: a sentence, never a traceback."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing

import pytest
from optuna_mde_studies import cli
from optuna_mde_studies.definition import reading
from optuna_mde_studies.runner import session
from optuna_mde_studies.runner.changes import keep_definition
from optuna_mde_studies.runner.folder import (
    StudyError,
    StudyFolder,
    create,
    stored_config,
)


@pytest.fixture
def folder(workplace) -> StudyFolder:
    """A study that has begun and has no trial yet."""
    definition = reading.read("tiny.yaml")
    found = StudyFolder(workplace / "runs/tiny")
    create(found)
    keep_definition(found, definition)
    session.open_study(found, definition.config)
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
    session.open_study(folder, stored_config(folder)).enqueue_trial({}, user_attrs={"losses": {}})
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
