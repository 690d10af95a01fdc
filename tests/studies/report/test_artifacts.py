"""Files of runs in the dashboard, and figures that are renewed while trials finish."""

from __future__ import annotations

import csv
import io
import json
import uuid
from pathlib import Path
from threading import Event, Thread

import optuna
import pytest
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna_dashboard import get_note
from optuna_dashboard.artifact._backend import list_trial_artifacts
from optuna_mde_studies.report import artifacts, dashboard
from optuna_mde_trainers.spec import RunResult
from optuna_mde_trainers.spec.results import Point

from optuna_mde import report_losses, suggest_mixture

RUN = "0123456789abcdef"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / RUN
    folder.mkdir(parents=True)
    result = RunResult(
        losses={"docs": 2.0, "prose": 3.0},
        bits_per_byte={},
        set_fingerprints={},
        train_loss=2.0,
        tokens=400,
        parameters=10,
        realised={},
        seconds=1.0,
        points=[Point(step=1, tokens=100, losses={"docs": 4.0, "prose": 5.0})],
    )
    result.write(folder / "result.json")
    (folder / "spec.json").write_text("{}")
    (tmp_path / "secret").write_text("secret")
    return tmp_path / "runs"


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/study.db")
    add_run(study, 0.4)
    return study


def add_run(study: optuna.Study, web: float, run: str = RUN) -> None:
    study.enqueue_trial({"mix/web": web, "mix/code": 1 - web})
    trial = study.ask()
    suggest_mixture(trial, ["web", "code"])
    trial.set_user_attr("run", f"runs/{run}")
    study.tell(trial, report_losses(trial, {"docs": 2.0 + web}))


def test_a_finished_trial_shows_the_files_of_its_run(study, runs):
    for _ in range(2):
        artifacts.publish(study, runs)
    attrs = study._storage.get_study_system_attrs(study._study_id)
    shown = list_trial_artifacts(attrs, {}, study.trials[0])
    assert [meta["filename"] for meta in shown] == ["result.json", "spec.json", "losses.csv"]
    store = artifacts.RunFiles(runs)
    found = {m["filename"]: store.open_reader(m["artifact_id"]).read() for m in shown}
    assert json.loads(found["result.json"])["losses"] == {"docs": 2.0, "prose": 3.0}
    lines = list(csv.reader(io.StringIO(found["losses.csv"].decode())))
    assert lines == [
        ["tokens", "docs", "prose"],
        ["100", "4.0", "5.0"],
        ["400", "2.0", "3.0"],
    ]


def test_what_a_user_adds_lies_beside_the_runs(runs):
    store, added = artifacts.RunFiles(runs), str(uuid.uuid4())
    store.write(added, io.BytesIO(b"words"))
    assert store.open_reader(added).read() == b"words"
    with pytest.raises(PermissionError):
        store.write(f"{RUN}-0", io.BytesIO(b"{}"))
    with pytest.raises(PermissionError):
        store.remove(f"{RUN}-0")
    store.remove(added)
    with pytest.raises(ArtifactNotFound):
        store.open_reader(added)
    assert sorted(path.name for path in (runs / RUN).iterdir()) == ["result.json", "spec.json"]


@pytest.mark.parametrize(
    "wanted", ["../secret", f"{RUN}-3", f"{RUN}-0/../../secret", "ffffffffffffffff-0", "", RUN]
)
def test_nothing_else_can_be_opened(wanted, runs):
    with pytest.raises(ArtifactNotFound):
        artifacts.RunFiles(runs).open_reader(wanted)


def test_a_run_that_a_storage_invents_shows_nothing(study, runs):
    add_run(study, 0.5, run="../secret")
    add_run(study, 0.6, run="f" * 16)
    artifacts.publish(study, runs)
    attrs = study._storage.get_study_system_attrs(study._study_id)
    assert [len(list_trial_artifacts(attrs, {}, t)) for t in study.trials] == [3, 0, 0]


def test_figures_are_renewed_when_a_trial_has_finished(study, runs, monkeypatch):
    monkeypatch.setattr(dashboard, "EVERY_SECONDS", 0.05)
    follower = dashboard.Follower(study, runs=runs)
    assert follower.follow()
    assert not follower.follow()
    before = get_note(study)
    ended = Event()
    thread = Thread(target=follower.follow_on, args=(ended,))
    thread.start()
    try:
        for web in (0.1, 0.7, 0.9):
            add_run(study, web)
        for _ in range(400):
            if ended.wait(0.05) or get_note(study) != before:
                break
    finally:
        ended.set()
        thread.join(30)
    assert get_note(study) != before
    assert not thread.is_alive()
