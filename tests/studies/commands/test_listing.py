"""`list`: which studies there are."""

from __future__ import annotations

import shutil
from pathlib import Path

import optuna

from optuna_mde import report_losses, suggest_mixture


def test_studies_of_a_folder(cli, tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_run / "runs", "runs")
    for name in ("begun", "damaged", "no-study"):
        Path("runs", name).mkdir()
    definition = Path("runs/tiny/definition.yaml").read_text()
    Path("runs/begun/definition.yaml").write_text(definition.replace("name: tiny", "name: begun"))
    Path("runs/damaged/definition.yaml").write_text("{")
    code, out, _ = cli("list")
    assert code == 0
    head, begun, damaged, *_, tiny = out.rstrip().split("\n")
    assert head.split() == ["study", "trials", "state", "folder"]
    assert begun.split() == ["begun", "0", "of", "6", "not", "finished", "runs/begun"]
    assert damaged.startswith("damaged")
    assert "cannot be read" in damaged
    assert tiny.split() == ["tiny", "6", "of", "6", "finished", "runs/tiny"]
    assert not Path("runs/begun/study.db").exists()


def test_studies_of_a_storage(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = optuna.create_study(storage="sqlite:///own.db", study_name="mix")
    trial = study.ask()
    study.tell(trial, report_losses(trial, {"a": 1 + suggest_mixture(trial, ["a", "b"])["a"]}))
    study.ask()
    code, out, _ = cli("list", "sqlite:///own.db")
    assert code == 0
    assert out.split("\n")[1].split() == ["mix", "1", "1", "running"]


def test_what_is_not_there_is_not_made(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place, said in (
        ("runs", "runs: no such folder"),
        ("sqlite:///gone.db", "sqlite:///gone.db: there is no file"),
        ("nothing://x", "storage nothing://x: 'nothing://x' is no storage"),
    ):
        code, out, err = cli("list", place)
        assert (code, out) == (2, "")
        assert err.startswith(said)
        assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())
