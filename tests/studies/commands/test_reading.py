"""Commands on a study that a program of the user's own has run, in a storage of Optuna's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import yaml

import optuna_mde

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def own(invented, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> optuna.Study:
    """A study in `own.db` of the current folder."""
    monkeypatch.chdir(tmp_path)
    return invented.study(study_name="own", storage="sqlite:///own.db")


def test_reading_commands_take_the_url_of_a_storage(cli: Run, own: optuna.Study) -> None:
    expected = optuna_mde.recommend(own)
    code, out, _ = cli("status", "sqlite:///own.db")
    assert (code, out.splitlines()[0]) == (0, "own: 12 trials finished")
    code, out, _ = cli("report", "sqlite:///own.db", "--study", "own", "--out", "elsewhere")
    assert (code, out) == (0, "elsewhere/report.html\n")
    assert "<h1>own</h1>" in Path("elsewhere/report.html").read_text("utf-8")
    code, out, _ = cli("recommend", "sqlite:///own.db")
    assert code == 0
    for row in expected.rows:
        assert f"{row.objective.mean:.4f}" in out
    assert sorted(path.name for path in Path().iterdir()) == ["elsewhere", "own.db"]


def test_json_holds_what_the_tables_say(cli: Run, own: optuna.Study) -> None:
    expected = optuna_mde.recommend(own)
    code, out, _ = cli("recommend", "sqlite:///own.db", "--format", "json")
    assert code == 0
    found = json.loads(out, parse_constant=pytest.fail)
    assert found["mixture"] == pytest.approx(expected.mixture, abs=1e-6)
    assert sum(found["mixture"].values()) == 1
    assert found["losses"] == {
        name: {"predicted": loss.mean, "low": loss.low, "high": loss.high}
        for name, loss in expected.losses.items()
    }
    for row, told in zip(expected.rows, found["rows"], strict=True):
        assert (told["name"], told["trial"]) == (row.name, row.trial)
        assert told["objective"]["predicted"] == row.objective.mean
        assert told["objective"]["observed"] == row.observed
    assert expected.against is not None
    assert found["against"]["name"] == expected.against.name
    assert found["against"]["objective"]["predicted"] == expected.against.objective.mean
    assert [bound["domain"] for bound in found["bounds"]] == [b.domain for b in expected.bounds]
    assert found["trust"]["spearman"] == expected.trust.spearman
    assert found["confirmation"] is None


def test_another_objective_is_the_one_that_is_spoken_of(cli: Run, own: optuna.Study) -> None:
    code, out, _ = cli("recommend", "sqlite:///own.db", "--objective", "python=1,boilerplate=3")
    assert code == 0
    assert "Objective: 0.25 python + 0.75 boilerplate." in " ".join(out.split())
    (worse,) = [line for line in out.splitlines() if line.startswith("Worse than natural")]
    counted = worse.rpartition("; ")[2]
    assert counted in ("the objective counts none.", "of these the objective counts python.")
    assert "docs" in worse
    code, out, _ = cli(
        "recommend", "sqlite:///own.db", "--objective", "python", "--format", "json"
    )
    assert json.loads(out)["weights"] == {"python": {"python": 1}}
    code, out, _ = cli("recommend", "sqlite:///own.db", "--format", "json")
    assert json.loads(out)["weights"]["objective"] == {
        name: pytest.approx(1 / 3) for name in ("docs", "prose", "mathdocs")
    }


def test_a_limit_that_is_not_kept_is_told_to_scripts_beside_the_rates(
    cli: Run, own: optuna.Study
) -> None:
    for form in ("yaml", "json"):
        limited = ("recommend", "sqlite:///own.db", "--limit", "prose=0.5", "--format", form)
        code, out, err = cli(*limited)
        assert code == 0
        assert "No mixture is expected to keep the limits" in err
        assert "prose" in err
        found = yaml.safe_load(out)  # JSON is YAML
        assert sum((found["mixture"] if form == "json" else found).values()) == pytest.approx(1)
    assert "No mixture is expected to keep the limits" in " ".join(found["warnings"])
    assert cli("recommend", "sqlite:///own.db", "--format", "yaml")[2] == ""


def test_rates_go_to_a_trainer(cli: Run, own: optuna.Study) -> None:
    code, out, _ = cli("recommend", "sqlite:///own.db", "--format", "yaml")
    rates = yaml.safe_load(out)
    code, out, _ = cli("recommend", "sqlite:///own.db", "--format", "olmix")
    mix = yaml.safe_load(out)["mix"]
    assert code == 0
    assert {name: entry["weight"] for name, entry in mix.items()} == {
        name: rate for name, rate in rates.items() if rate > 0
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("status", "sqlite:///typo.db"), "typo.db: there is no file"),
        (("status", "sqlite:///own.db", "--study", "x"), "no study 'x'; it holds own"),
        (
            ("report", "mysql+nothing://me:secret@host/db"),
            "storage mysql+nothing://me:***@host/db: ",
        ),
        (("confirm", "sqlite:///own.db"), "trains by a definition"),
        (("run", "sqlite:///own.db"), "trains by a definition"),
        (("status", "own.db", "--study", "own"), "give the storage's URL"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(
    cli: Run, own: optuna.Study, arguments: tuple[str, ...], words: str
) -> None:
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert [path.name for path in Path().iterdir()] == ["own.db"]


def test_a_journal_is_a_storage_too(cli: Run, tmp_path: Path, invented, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    backend = optuna.storages.journal.JournalFileBackend("own.log")
    invented.study(study_name="own", storage=optuna.storages.JournalStorage(backend))
    code, out, _ = cli("status", "journal:own.log")
    assert (code, out.splitlines()[0]) == (0, "own: 12 trials finished")
    assert cli("export", "journal:own.log", "table")[0] == 0
    tables = ("table/ratios.csv", "table/metrics.csv", "--runs", "table/runs.csv")
    code, out, _ = cli("import", *tables, "--storage", "journal:two.log", "--study", "two")
    assert (code, "12 runs taken over" in out) == (0, True)
    code, _, err = cli("status", "journal:typo.log")
    assert (code, "there is no file" in err) == (2, True)


def test_a_name_in_a_storage_is_no_path(cli: Run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    optuna.create_study(study_name="../../evil", storage="sqlite:///own.db")
    code, _, err = cli("report", "sqlite:///own.db")
    assert code == 2
    assert "say with --out" in err
    optuna.create_study(study_name="other", storage="sqlite:///own.db")
    code, _, err = cli("status", "sqlite:///own.db")
    assert code == 2
    assert "--study NAME; it holds ../../evil, other" in err


def test_a_study_without_mixtures_has_a_report_and_no_recommendation(
    cli: Run, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = optuna.create_study(study_name="plain", storage="sqlite:///own.db")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    assert cli("report", "sqlite:///own.db")[0] == 0
    assert "No recommendation yet" in Path("runs/plain/report.html").read_text("utf-8")


def test_a_folder_of_a_definition_is_not_written_into(cli: Run, own: optuna.Study) -> None:
    folder = Path("runs/own")
    folder.mkdir(parents=True)
    (folder / "definition.yaml").write_text("name: own")
    code, _, err = cli("report", "sqlite:///own.db")
    assert code == 2
    assert "belongs to a study with a definition" in err
    assert [path.name for path in folder.iterdir()] == ["definition.yaml"]


def test_help_of_reading_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from optuna_mde_studies.cli import app\n"
        "try: app(['recommend', '--help'])\n"
        "finally: print([n for n in sys.argv[1:] if n in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "torch", "optuna", "sqlalchemy", "yaml"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.strip() == "[]"


def test_a_name_that_is_not_there_is_answered_with_what_is(cli, workplace):
    Path("other.yaml").write_text("services: {}\n")
    for name in ("tiny", *(f"sweep-{n}" for n in range(9))):
        folder = Path("runs") / name
        folder.mkdir(parents=True)
        (folder / "definition.yaml").write_text("name: x\n")
    code, _, err = cli("status", "tinny.yaml")
    assert code == 2
    said = "tinny.yaml: no such definition; did you mean `tiny.yaml`? There are definitions here: "
    assert err.startswith(f"{said}tiny.yaml; studies in runs/: tiny, sweep-")
    code, _, err = cli("status", "sweep-3x")
    assert "did you mean `sweep-3`?" in err
    assert "studies in runs/: sweep-3, " in err
    assert "and 4 more" in err
    assert "other.yaml" not in err
