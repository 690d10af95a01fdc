"""The command's smaller commands, and what it says of a user's mistakes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from optuna_mde_studies import cli
from typer.testing import CliRunner

HEAVY = ("torch", "lightning", "optuna", "numpy", "pydantic", "rich.live", "plotly", "datasets")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs the command in this process: exit code, output, errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["optuna-mde", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else 0), captured.out, captured.err

    return run


def test_help_imports_nothing_heavy():
    program = (
        "import sys\n"
        "from optuna_mde_studies.cli import app\n"
        "try: app(['--help'])\n"
        "finally: print([name for name in sys.argv[1:] if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *HEAVY], capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "[]"
    for command in ("run", "confirm", "dashboard", "report", "recommend", "status", "validate"):
        assert f"\n  {command} " in done.stdout


def test_every_command_explains_itself():
    for command in cli.app.registered_commands:
        assert command.callback is not None
        name = command.callback.__name__
        result = CliRunner().invoke(cli.app, [name, "--help"])
        assert result.exit_code == 0
        assert (command.callback.__doc__ or "").split("\n")[0][:60] in result.output


def test_validate_says_what_would_run(run, workplace):
    code, out, _ = run("validate", "tiny.yaml")
    assert code == 0
    assert out == (
        "tiny.yaml: right. 3 domains, 6 trials (3 experts, then 3 mixtures, the natural and the "
        "uniform one among them) of 20 steps (experts 50\u202f% of a run), into runs/tiny\n"
    )
    assert not (workplace / "runs").exists()
    _, out, _ = run("validate", "tiny.yaml", "--set", "experts.budget=0.125")
    assert out.endswith("of 20 steps (experts 12.5\u202f% of a run), into runs/tiny\n")


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
    from_json = json.loads(run("recommend", "tiny.yaml", "--format", "json")[1])
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
