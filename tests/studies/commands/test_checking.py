"""`check`: whatever is gone, damaged or misplaced of a study is named with what it costs."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna_mde_studies.runner.agreement import FOLDER_ATTR
from optuna_mde_studies.runner.folder import StudyFolder

from optuna_mde import report_losses, save_logprobs, suggest_mixture
from optuna_mde.mde.logprobs import load_logprobs

FOLDER = StudyFolder(Path("runs/tiny"))


@pytest.fixture
def study(tiny_run, tmp_path, monkeypatch) -> Path:
    """A copy of a finished study; the current folder is where it was begun."""
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trials() -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="tiny", storage=FOLDER.storage_url).trials


def run_of(number: int) -> Path:
    return FOLDER.path / trials()[number].user_attrs["run"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def shorten(path: Path) -> None:
    arrays, metadata = load_logprobs(path)
    save_logprobs(path, {**arrays, "code": arrays["code"][:-5]}, **metadata)


def test_a_study_in_order(cli, study):
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    code, out, err = cli("check", "tiny.yaml")
    assert (code, err) == (0, "")
    assert out == "tiny: 6 finished trials, 14 run folders, corpus and storage agree\n"
    after = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert {path for path in before if after.get(path) != before[path]} <= {FOLDER.database}


FAULTS: dict[str, tuple[Callable[[], object], str, str]] = {
    "no expert file": (
        lambda: (run_of(0) / "logprobs.safetensors").unlink(),
        "logprobs.safetensors (trial 0): missing",
        "this expert is unknown to MDE",
    ),
    "a cut expert file": (
        lambda: cut(run_of(1) / "logprobs.safetensors"),
        "logprobs.safetensors (trial 1): damaged (no readable log-probability file (its end is",
        "this expert is unknown to MDE",
    ),
    "tokens that an expert left off": (
        lambda: shorten(run_of(1) / "logprobs.safetensors"),
        "logprobs.safetensors (trial 1): code has ",
        "MDE losses of the set are those of other tokens",
    ),
    "no weights": (
        lambda: (run_of(4) / "model.safetensors").unlink(),
        "model.safetensors (trial 4): missing",
        "the run can be neither scored on new sets nor evaluated",
    ),
    "cut weights": (
        lambda: cut(run_of(4) / "model.safetensors"),
        "model.safetensors (trial 4): damaged (its end is missing)",
        "neither scored on new sets nor evaluated",
    ),
    "no tokenizer": (
        lambda: (run_of(4) / "tokenizer.json").unlink(),
        "tokenizer.json (trial 4): missing",
        "neither scored on new sets nor evaluated",
    ),
    "no result": (
        lambda: (run_of(3) / "result.json").unlink(),
        "result.json (trial 3): missing",
        "the run would be trained again if it were asked for",
    ),
    "a damaged result": (
        lambda: (run_of(3) / "result.json").write_text('{"losses": 5}'),
        "result.json (trial 3): damaged (losses: ",
        "would be trained again",
    ),
    "no spec": (
        lambda: (run_of(3) / "spec.json").unlink(),
        "spec.json (trial 3): missing",
        "cannot be scored on new sets",
    ),
    "a damaged spec": (
        lambda: (run_of(3) / "spec.json").write_bytes(b"\0"),
        "spec.json (trial 3): damaged (no JSON",
        "cannot be scored on new sets",
    ),
    "a misplaced run": (
        lambda: shutil.copy(run_of(4) / "spec.json", run_of(3) / "spec.json"),
        "spec.json (trial 3): of another run",
        "put the right one back",
    ),
    "another run's result": (
        lambda: shutil.copy(run_of(4) / "result.json", run_of(3) / "result.json"),
        "result.json (trial 3): its loss of code is ",
        "the trial's losses count",
    ),
    "no folder": (
        lambda: shutil.rmtree(run_of(0)),
        " (trial 0): missing",
        "this expert is unknown to MDE, the run cannot be scored on new sets",
    ),
    "a damaged confirmation": (
        lambda: FOLDER.confirmation.write_text("{"),
        "confirm.json: damaged",
        "delete it and confirm again",
    ),
    "no corpus": (
        lambda: shutil.rmtree(FOLDER.corpus),
        "runs/tiny/corpus: missing",
        "no run can be trained or scored until",
    ),
    "a damaged corpus": (
        lambda: (FOLDER.corpus / "corpus.json").write_text('{"format": 2}'),
        "runs/tiny/corpus: damaged",
        "no run can be trained or scored until",
    ),
    "a set's blocks": (
        lambda: shutil.rmtree(FOLDER.corpus / "validation/news"),
        "corpus/validation/news: missing",
        "no run can be trained or scored until",
    ),
    "a damaged definition": (
        lambda: FOLDER.definition.write_text("name: ["),
        "definition.yaml is not what the study was begun with",
        "nothing is trained, reported or recommended",
    ),
    "no storage": (FOLDER.database.unlink, "runs/tiny/study.db: missing", "all trials are lost"),
    "a damaged storage": (
        lambda: FOLDER.database.write_bytes(b"garbage" * 100),
        "runs/tiny/study.db cannot be opened",
        "all trials are lost",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_lost_is_named_with_its_cost(fault, cli, study):
    break_it, said, cost = FAULTS[fault]
    break_it()
    code, out, err = cli("check", "tiny.yaml")
    assert code == 1
    line = next(line for line in out.split("\n") if said in line)
    assert cost in line
    assert err.startswith("runs/tiny: ")
    assert "lost" in err


def test_a_damaged_run_of_the_confirmation(cli, study):
    named = {trial.user_attrs["run"] for trial in trials()}
    path = next(p for p in sorted(FOLDER.runs.iterdir()) if f"runs/{p.name}" not in named)
    (path / "model.safetensors").unlink()
    code, out, _ = cli("check", "tiny")
    assert code == 1
    assert f"{path}/model.safetensors (confirmation): missing" in out


@pytest.mark.parametrize("value", ["../../etc", "/etc", "runs/..", "runs/a/b", 5, None, "runs/\0"])
def test_a_run_outside_the_folder_is_not_opened(value, cli, study):
    opened = optuna.load_study(study_name="tiny", storage=FOLDER.storage_url)
    trial = json.loads(json.dumps(opened.trials[4].user_attrs)) | {"run": value}
    opened.add_trial(
        optuna.trial.create_trial(
            params=opened.trials[4].params,
            distributions=opened.trials[4].distributions,
            value=1.0,
            user_attrs=trial,
        )
    )
    code, out, _ = cli("check", "tiny")
    assert code == 1
    (line,) = out.strip().split("\n")
    assert line.startswith("trial 6: its run ")
    assert "it is not opened" in line


def test_a_run_of_elsewhere_has_its_file_looked_for_in_the_folder_alone(cli, study):
    opened = optuna.load_study(study_name="tiny", storage=FOLDER.storage_url)
    for url in ("runs/gone.safetensors", "../../etc/passwd", "/etc/passwd", "http://x/y", 5):
        other = copy.deepcopy(opened.trials[0])
        other.user_attrs = {"losses": other.user_attrs["losses"], "logprobs": url}
        opened.add_trial(other)
    code, out, _ = cli("check", "tiny")
    assert code == 1
    named = [line for line in out.split("\n") if ": missing: " in line]
    assert named == [
        "runs/tiny/runs/gone.safetensors (trial 6): missing: this expert is unknown to MDE"
    ]


def test_what_mends_itself_is_no_loss(cli, study):
    opened = optuna.load_study(study_name="tiny", storage=FOLDER.storage_url)
    opened.ask()
    shutil.copytree(run_of(4), FOLDER.runs / "0123456789abcdef")
    code, out, err = cli("check", "tiny")
    assert (code, err) == (0, "")
    running, left, _ = out.strip().split("\n")
    assert running.startswith("trial 6: running by the storage")
    assert left.startswith("runs/tiny/runs/0123456789abcdef: of no trial")


def test_the_confirmation_is_seen_from_another_machine(cli, study, monkeypatch):
    """Two machines have storage and runs in common; the first one has confirmed."""
    shared = study / "shared"
    (shared / "tiny").mkdir(parents=True)
    for name in ("corpus", "runs"):
        shutil.move(FOLDER.path / name, shared / "tiny" / name)
    (FOLDER.path / "confirm.json").unlink()
    url = f"sqlite:///{FOLDER.database.resolve()}"
    known = optuna.load_study(study_name="tiny", storage=url)
    known.set_user_attr(FOLDER_ATTR, str(shared / "tiny"))
    code, _, err = cli("run", "tiny.yaml", "--storage", url, "--set", f"runs={shared}")
    assert code == 0, err
    other = study / "other"
    (other / "runs/tiny").mkdir(parents=True)
    shutil.copy(FOLDER.definition, other / "runs/tiny")
    monkeypatch.chdir(other)
    code, out, err = cli("recommend", "tiny", "--format", "json")
    assert code == 0, err
    assert json.loads(out)["confirmation"]["current"]
    code, out, err = cli("check", "tiny")
    assert (code, err) == (0, "")
    assert "of no trial" not in out


def test_a_study_of_another_program(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = optuna.create_study(storage="sqlite:///own.db", study_name="mix")
    for number, corner in enumerate(("a", "b", "b")):
        study.enqueue_trial({f"mix/{name}": float(name == corner) for name in "ab"})
        trial = study.ask()
        suggest_mixture(trial, ["a", "b"])
        url = save_logprobs(f"{number}.safetensors", {"a": [-1.0, -2.0]})
        study.tell(trial, report_losses(trial, {"a": 1.5}, logprobs=url))
    code, out, _ = cli("check", "sqlite:///own.db")
    assert code == 0
    assert out == "mix: 3 finished trials, and the files that they name are there\n"
    Path("0.safetensors").unlink()
    cut(Path("1.safetensors"))
    code, out, _ = cli("check", "sqlite:///own.db", "--study", "mix")
    assert code == 1
    missing, damaged = out.strip().split("\n")
    assert missing == "0.safetensors (trial 0): missing: this expert is unknown to MDE"
    assert damaged.startswith("1.safetensors (trial 1): damaged")
