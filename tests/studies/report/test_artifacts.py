"""Files of runs in the dashboard, and figures that are renewed while trials finish."""

from __future__ import annotations

import csv
import io
import json
import uuid
from pathlib import Path
from threading import Event, Thread
from xml.etree import ElementTree

import optuna
import pytest
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna_dashboard import get_note
from optuna_dashboard._note import get_note_from_system_attrs, save_note_with_version
from optuna_dashboard.artifact._backend import list_trial_artifacts
from optuna_mde_studies.report import artifacts, dashboard
from optuna_mde_studies.report.curve_picture import svg
from optuna_mde_studies.report.curves import Curve
from optuna_mde_trainers.spec import RunResult
from optuna_mde_trainers.spec.results import Point, TrainPoint

from optuna_mde import report_losses, suggest_mixture

RUN = "0123456789abcdef"
FILES = ["result.json", "spec.json", "losses.csv", "losses.svg"]
SVG = "{http://www.w3.org/2000/svg}"


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
        train_curve=[
            TrainPoint(step=1, tokens=100, loss=6.0),
            TrainPoint(step=2, tokens=200, loss=3.0),
        ],
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
    assert [meta["filename"] for meta in shown] == FILES
    store = artifacts.RunFiles(runs)
    found = {m["filename"]: store.open_reader(m["artifact_id"]).read() for m in shown}
    assert json.loads(found["result.json"])["losses"] == {"docs": 2.0, "prose": 3.0}
    lines = list(csv.reader(io.StringIO(found["losses.csv"].decode())))
    assert lines == [
        ["tokens", "training", "docs", "prose"],
        ["100", "6.0", "4.0", "5.0"],
        ["200", "3.0", "", ""],
        ["400", "", "2.0", "3.0"],
    ]


def test_losses_are_a_picture_that_the_dashboard_shows(study, runs):
    """A line for training and each set, as far to the right as tokens, as high as losses."""
    artifacts.publish(study, runs)
    attrs = study._storage.get_study_system_attrs(study._study_id)
    (meta,) = (m for m in list_trial_artifacts(attrs, {}, study.trials[0])
               if m["mimetype"].startswith("image/"))  # fmt: skip
    root = ElementTree.fromstring(
        artifacts.RunFiles(runs).open_reader(meta["artifact_id"]).read().decode()
    )
    paths = [line.get("points") or "" for line in root.findall(f"{SVG}polyline")]
    lines = [[tuple(map(float, p.split(","))) for p in path.split()] for path in paths]
    assert [len(line) for line in lines] == [2, 2, 2]
    (train, docs, prose) = lines
    assert train[0][0] == docs[0][0] < train[1][0] < docs[1][0]
    assert train[0][1] < prose[0][1] < docs[0][1] < prose[1][1] < docs[1][1]
    assert train[1][1] == prose[1][1]
    assert not any("\ufffd" in (text.text or "") for text in root.iter())
    words = [text.text or "" for text in root.findall(f"{SVG}text")]
    assert [word.split()[1] for word in words if word.split()[0] in ("2.000", "3.000")] == [
        "training",
        "prose",
        "docs",
    ]


def test_a_trials_note_shows_the_picture_unless_somebody_has_written_one(study, runs):
    add_run(study, 0.7)
    first, second = study.trials
    keys = (study._storage, study._study_id)
    save_note_with_version(*keys, second._trial_id, 1, "My own words.")
    for _ in range(2):
        artifacts.publish(study, runs)
    attrs = study._storage.get_study_system_attrs(study._study_id)
    note = get_note_from_system_attrs(attrs, first._trial_id)["body"]
    assert f"(/artifacts/{study._study_id}/{first._trial_id}/{RUN}-3)" in note
    assert get_note_from_system_attrs(attrs, second._trial_id)["body"] == "My own words."
    save_note_with_version(*keys, first._trial_id, 2, "Mine too.")
    artifacts.publish(study, runs)
    attrs = study._storage.get_study_system_attrs(study._study_id)
    assert get_note_from_system_attrs(attrs, first._trial_id)["body"] == "Mine too."


def test_what_a_run_has_named_means_nothing_in_its_picture():
    names = ["</text><script>alert(1)</script>", "a\0b\x1b\ud800\uffff", "Ω & <i>"]
    lines = dict.fromkeys(names, ((1, 2.0), (9, 1.5)))
    root = ElementTree.fromstring(svg(Curve((), lines)))
    assert {tag.tag for tag in root.iter()} == {
        f"{SVG}{name}" for name in ("svg", "rect", "path", "text", "polyline", "circle")
    }
    assert sum("script" in (text.text or "") for text in root.iter(f"{SVG}text")) == 1


@pytest.mark.parametrize(
    "curve",
    [
        Curve(((0, 3.0),), {}),  # a single point, before any token
        Curve((), {f"set {i}": ((5, 2.0), (10**12, 2.0)) for i in range(40)}),  # flat, and many
        Curve(((1, 1e-9), (2, 1e9)), {"a": ((2, 0.5),)}),
    ],
)
def test_all_of_a_picture_lies_in_its_frame(curve):
    root = ElementTree.fromstring(svg(curve))
    wide, high = float(root.attrib["width"]), float(root.attrib["height"])
    for text in root.findall(f"{SVG}text"):
        assert 0 <= float(text.attrib["x"]) <= wide
        assert 0 <= float(text.attrib["y"]) <= high
    for dot in root.findall(f"{SVG}circle"):
        assert 0 <= float(dot.attrib["cx"]) <= wide
        assert 0 <= float(dot.attrib["cy"]) <= high


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
    "wanted", ["../secret", f"{RUN}-4", f"{RUN}-0/../../secret", "ffffffffffffffff-0", "", RUN]
)
def test_nothing_else_can_be_opened(wanted, runs):
    with pytest.raises(ArtifactNotFound):
        artifacts.RunFiles(runs).open_reader(wanted)


def test_a_run_that_a_storage_invents_shows_nothing(study, runs):
    add_run(study, 0.5, run="../secret")
    add_run(study, 0.6, run="f" * 16)
    artifacts.publish(study, runs)
    attrs = study._storage.get_study_system_attrs(study._study_id)
    assert [len(list_trial_artifacts(attrs, {}, t)) for t in study.trials] == [len(FILES), 0, 0]


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
