"""A study that was renamed is the same study."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import optuna
import pytest
from optuna_mde_studies.definition import reading
from optuna_mde_studies.runner import identity, opening
from optuna_mde_studies.runner.changes import keep_definition
from optuna_mde_studies.runner.folder import StudyFolder, create


def rename_in_dashboard(storage: optuna.storages.BaseStorage, old: str, new: str) -> None:
    """What the dashboard does when somebody renames a study there."""
    from optuna_dashboard import wsgi

    number = storage.get_study_id_from_name(old)
    body = json.dumps({"study_name": new}).encode()
    said: list[str] = []
    wsgi(storage)(
        {
            "REQUEST_METHOD": "POST",
            "PATH_INFO": f"/api/studies/{number}/rename",
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": io.StringIO(),
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "wsgi.url_scheme": "http",
        },
        lambda status, *_: said.append(status),
    )
    assert said[0].startswith("201")


@pytest.fixture
def folder(workplace) -> StudyFolder:
    found = StudyFolder(workplace / "runs/tiny")
    create(found)
    keep_definition(found, reading.read("tiny.yaml"))
    return found


def config():
    return reading.read("tiny.yaml").config


def names(folder: StudyFolder) -> list[str]:
    return optuna.get_all_study_names(folder.storage())


def test_a_renamed_study_is_found_again(folder):
    opening.open_study(folder, config()).enqueue_trial({"mix/code": 1.0})
    rename_in_dashboard(folder.storage(), "tiny", "final, really")
    opened = opening.open_study(folder, config())
    assert opened.study_name == "final, really"
    assert len(opened.trials) == 1
    assert opened.metric_names == ["objective"]  # which the dashboard does not copy
    assert names(folder) == ["final, really"]


def test_its_old_name_may_be_another_studys(folder):
    opening.open_study(folder, config())
    rename_in_dashboard(folder.storage(), "tiny", "mine")
    optuna.create_study(storage=folder.storage(), study_name="tiny")
    assert opening.open_study(folder, config()).study_name == "mine"


def test_another_machine_finds_it_by_the_name_that_it_began_with(folder, tmp_path):
    opening.open_study(folder, config())
    storage = folder.storage()
    rename_in_dashboard(storage, "tiny", "mine")
    elsewhere = StudyFolder(tmp_path / "elsewhere")
    assert identity.present_name(elsewhere, storage, "tiny") == "mine"
    assert identity.present_name(elsewhere, storage, "other") is None


def test_a_copy_of_a_study_is_not_taken_for_it(folder):
    opening.open_study(folder, config())
    storage = folder.storage()
    optuna.copy_study(
        from_study_name="tiny", from_storage=storage, to_storage=storage, to_study_name="a copy"
    )
    assert opening.open_study(folder, config()).study_name == "tiny"
    optuna.delete_study(study_name="tiny", storage=storage)
    assert opening.open_study(folder, config()).study_name == "a copy"


def test_studies_of_before_are_found_and_marked(folder):
    study = opening.open_study(folder, config())
    storage = study._storage
    storage.set_study_user_attr(study._study_id, identity.MARK_ATTR, None)
    folder.mark.unlink()
    rename_in_dashboard(folder.storage(), "tiny", "old")
    assert opening.open_study(folder, config()).study_name == "old"
    assert identity.kept_mark(folder)


@pytest.mark.parametrize("value", [None, 5, [], {"id": 5}, {"name": ["tiny"]}, "x" * 1000])
def test_a_mark_of_another_hand_is_none(folder, value):
    study = opening.open_study(folder, config())
    study.set_user_attr(identity.MARK_ATTR, value)
    folder.mark.write_bytes(b"\xff\x00")
    assert opening.open_study(folder, config()).study_name == "tiny"
    assert len(identity.kept_mark(folder)) == 32


def test_every_command_finds_a_renamed_study(cli, tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    folder = StudyFolder(Path("runs/tiny"))
    rename_in_dashboard(folder.storage(), "tiny", "renamed")
    assert cli("status", "tiny.yaml")[1].startswith("renamed: 6 of 6 trials finished\n")
    assert cli("list")[1].split("\n")[1].split()[:4] == ["renamed", "6", "of", "6"]
    assert cli("recommend", "tiny.yaml")[0] == 0
    assert names(folder) == ["renamed"]


@pytest.mark.slow
def test_a_renamed_study_goes_on(command, tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    folder = StudyFolder(tmp_path / "runs/tiny")
    rename_in_dashboard(folder.storage(), "tiny", "renamed")
    more = ("--set", "search.n_trials=7", "--set", "confirm.seeds=0")
    done = command("run", "tiny.yaml", *more, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "going on: 6 trials are finished already" in done.stdout
    assert names(folder) == ["renamed"]
    study = optuna.load_study(study_name="renamed", storage=folder.storage())
    assert len(study.trials) == 7
