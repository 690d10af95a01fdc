"""The command's smaller commands, and what it says of a user's mistakes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml
from optuna_mde_studies.cli import app
from typer.testing import CliRunner

HEAVY = (
    "torch",
    "lightning",
    "optuna",
    "sqlalchemy",
    "numpy",
    "pydantic",
    "rich.live",
    "plotly",
    "datasets",
)


@pytest.fixture
def run(cli):
    return cli


def test_help_imports_nothing_heavy():
    program = (
        "import sys\n"
        "from optuna_mde_studies.cli import main\n"
        "names, sys.argv = sys.argv[1:], ['optuna-mde', '--help']\n"
        "try: main()\n"
        "finally: print([name for name in names if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *HEAVY], capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "[]"
    for command in ("run", "confirm", "dashboard", "report", "recommend", "status", "validate"):
        assert f"\n  {command} " in done.stdout


def test_version_and_the_short_help(run):
    code, out, _ = run("--version")
    assert code == 0
    assert out.startswith(f"optuna-mde {version('optuna-mde')} (Python 3.")
    assert f", optuna {version('optuna')}, torch {version('torch')}, " in out
    assert run("-h") == run("--help")


def test_every_command_explains_itself():
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__
        result = CliRunner().invoke(app, [name, "--help"])
        assert result.exit_code == 0
        assert (command.callback.__doc__ or "").split("\n")[0][:60] in result.output
        short = CliRunner().invoke(app, [name, "-h"])
        assert short.output == result.output


def test_validate_says_what_would_run(run, workplace):
    code, out, _ = run("validate", "tiny.yaml")
    assert code == 0
    first, _, *lines = out.split("\n")
    assert first.startswith(
        "tiny.yaml: right. 3 domains, 6 trials (3 experts, then 3 mixtures, the natural and the "
        "uniform one among them) of 20 steps (experts 50\u202f% of a run) or 2.56\u202fk tokens, "
    )
    assert first.endswith(" parameters, into runs/tiny")
    assert lines[0].split()[:3] == ["at", "most", "runs"]
    counts = {line.split()[0]: line.split()[1] for line in lines[1:5]}
    assert counts == {"experts": "3", "search": "3", "confirmation": "8", "all": "14"}
    assert "--measure trains a few steps here" in out
    assert not (workplace / "runs").exists()
    _, out, _ = run("validate", "tiny.yaml", "--set", "experts.budget=0.125")
    assert "of 20 steps (experts 12.5\u202f% of a run)" in out
    _, out, _ = run("validate", "tiny.yaml", "--tokens-per-second", "1000")
    assert "1\u202fk tokens a second each" in out
    assert "time" in out.split("\n")[2]


def test_validate_names_mistakes_of_fields_sources_and_devices_together(run, workplace):
    (workplace / "news/00.txt").parent.rename(workplace / "gone")
    settings = ("objective.coed=1", "launch.devices=3", "model.vocab_size=200")
    code, out, err = run("validate", "tiny.yaml", *(f"--set={text}" for text in settings))
    assert (code, out) == (2, "")
    fields = [line.split(": ")[1] for line in err.strip().split("\n")]
    assert fields == [
        "objective.coed",
        "corpus.validation.news.data_files",
        "launch.devices",
        "model.vocab_size",
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what is asked for")
def test_a_missing_accelerator_is_said_before_the_corpus_is_built(run, workplace):
    code, _, err = run("run", "tiny.yaml", "--set", "launch.accelerator=cuda")
    assert code == 2
    assert err.startswith("--set launch.accelerator=cuda: launch.accelerator: cuda is asked for")
    assert err.count("\n") == 1
    assert not (workplace / "runs/tiny/corpus").exists()
    assert not (workplace / "runs/tiny/logs").exists()  # no worker was started


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what is asked for")
def test_train_says_what_is_missing_in_one_sentence(run, tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = next((tiny_run / "runs/tiny/runs").glob("*/spec.json")).read_text()
    for field, value, said in (
        ("accelerator", "cuda", "launch.accelerator: cuda is asked for"),
        ("logger", {"wandb": {}}, "launch.logger: wandb needs the package"),
    ):
        spec = json.loads(text)
        spec["launch"][field] = value
        Path("spec.json").write_text(json.dumps(spec))
        code, _, err = run("train", "spec.json")
        assert code == 2
        assert err.startswith(said)
        assert err.count("\n") == 1
    assert not list(tmp_path.glob("runs/*/result.json"))


@pytest.mark.parametrize("command", ["status", "recommend", "report", "dashboard", "confirm"])
def test_a_study_that_was_never_started_is_named(run, workplace, command):
    assert run(command, "tiny.yaml") == (
        2,
        "",
        "runs/tiny: there is no study yet; start it with `optuna-mde run tiny.yaml`\n",
    )


def test_mistakes_end_with_code_2_and_one_sentence(run, workplace):
    code, out, err = run("validate", "tiny.yaml", "--set", "training.max_stes=3")
    assert (code, out) == (2, "")
    assert err == (
        "--set training.max_stes=3: training.max_stes: unknown key; did you mean `max_steps`?\n"
    )
    code, out, err = run("validate", "prose")
    assert (code, out) == (2, "")
    assert err.startswith("prose: this folder holds no study")
    (workplace / "news/00.txt").parent.rename(workplace / "gone")
    code, _, err = run("validate", "tiny.yaml")
    assert code == 2
    assert err.startswith("tiny.yaml:8: corpus.validation.news.data_files: no file matches")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(run, workplace):
    workplace.chmod(0o500)
    try:
        code, _, err = run("run", "tiny.yaml")
    finally:
        workplace.chmod(0o700)
    assert code == 2
    assert "cannot be written (permission denied); name another with --out" in err


def test_an_out_that_is_a_file(run, workplace):
    (workplace / "taken").write_text("")
    code, _, err = run("run", "tiny.yaml", "--out", "taken")
    assert code == 2
    assert err == (
        "--out taken: the study's folder cannot be written (file exists); name another with "
        "--out\n"
    )


def test_a_domain_too_small_for_its_validation_set(run, workplace):
    for path in sorted((workplace / "prose").iterdir())[2:]:
        path.unlink()
    for path in (workplace / "prose").iterdir():
        path.write_text("a few words")
    code, _, err = run("run", "tiny.yaml")
    assert code == 2
    assert err.startswith("tiny.yaml:5: corpus.domains.prose: ")
    assert err.count("\n") == 1


def test_a_study_is_found_by_definition_folder_or_name(run, tiny_run, monkeypatch):
    monkeypatch.chdir(tiny_run)
    by_definition, by_folder = run("status", "tiny.yaml"), run("status", "runs/tiny")
    assert by_definition == by_folder == run("status", "tiny")
    code, out, _ = by_definition
    assert code == 0
    assert out.startswith("tiny: 6 of 6 trials finished\nbest: ")
    assert out.endswith("runs/tiny: not running\n")


def test_recommend_prints_rates_for_a_training_configuration(run, tiny_run, monkeypatch):
    monkeypatch.chdir(tiny_run)
    from_json = json.loads(run("recommend", "tiny.yaml", "--format", "json")[1])["mixture"]
    from_yaml = yaml.safe_load(run("recommend", "tiny.yaml", "--format", "yaml")[1])
    assert from_json == from_yaml
    assert set(from_json) == {"code", "prose", "numbers"}
    assert sum(from_json.values()) == pytest.approx(1, abs=1e-9)
    code, out, _ = run("recommend", "tiny.yaml")
    assert code == 0
    assert "recommended" in out


def test_report_is_written_again(run, tiny_run, monkeypatch):
    monkeypatch.chdir(tiny_run)
    Path("runs/tiny/report.html").unlink()
    code, out, _ = run("report", "tiny.yaml")
    assert (code, out) == (0, "runs/tiny/report.html\n")
    assert Path("runs/tiny/report.html").stat().st_size > 10_000


def test_a_terminated_run_is_no_finished_one(run, tiny_run, tmp_path, monkeypatch):
    """A job script goes by the exit code: 0 would start what needs the result."""
    monkeypatch.chdir(tmp_path)
    spec = json.loads(next((tiny_run / "runs/tiny/runs").glob("*/spec.json")).read_text())
    spec["launch"]["callbacks"] = ["tests.trainers.training.callbacks.Terminates"]
    Path("spec.json").write_text(json.dumps(spec))
    code, out, err = run("train", "spec.json")
    (folder,) = Path("runs").iterdir()
    said = f"Stopped by SIGTERM, with a checkpoint in {folder}; the same command goes on.\n"
    assert (code, out, err) == (143, "", said)
    assert (folder / "last.ckpt").exists()
    assert not (folder / "result.json").exists()


def test_train_performs_one_run_from_its_spec(run, tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = next((tiny_run / "runs/tiny/runs").glob("*/spec.json"))
    code, out, _ = run("train", str(spec))
    assert code == 0
    trained = Path(out.strip().split("\n")[-1])
    assert trained.name == spec.parent.name
    again = json.loads((trained / "result.json").read_text())
    before = json.loads((spec.parent / "result.json").read_text())
    assert again["losses"] == before["losses"]
    assert run("train", "gone.json") == (
        2,
        "",
        "gone.json: cannot be read (no such file or directory)\n",
    )
