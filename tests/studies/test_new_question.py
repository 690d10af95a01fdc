"""A finished study that is asked something else: new sets, another objective, other bounds."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna_mde_studies.definition.reading import read
from optuna_mde_studies.runner.batch import perform
from optuna_mde_studies.runner.evidence import with_sets
from optuna_mde_studies.runner.experiment import objective_on
from optuna_mde_studies.runner.folder import StudyFolder
from optuna_mde_studies.runner.messages import Event, RunOrder, Training
from optuna_mde_studies.runner.resources import Places
from optuna_mde_studies.runner.workers import Pool
from optuna_mde_studies.terminal.progress import Progress, console
from optuna_mde_trainers.corpus.blocks import Corpus
from optuna_mde_trainers.corpus.sources import DomainSource
from optuna_mde_trainers.spec import RunResult

from optuna_mde import get_losses
from optuna_mde.mde.logprobs import load_logprobs
from tests.conftest import DEFINITION

Cli = Callable[..., tuple[int, str, str]]

PROVERBS = "proverbs: {path: text, data_files: proverbs.txt}"


@pytest.fixture
def finished(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the tiny study finished and the text of a further set."""
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    lines = [f"A stitch in time saves {n}, and {n} birds of a feather flock." for n in range(99)]
    Path("proverbs.txt").write_text("\n\n".join(lines), encoding="utf-8")
    return tmp_path


def study() -> optuna.Study:
    return optuna.load_study(study_name="tiny", storage="sqlite:///runs/tiny/study.db")


def weights() -> dict[Path, int]:
    found = Path("runs/tiny/runs").glob("*/model.safetensors")
    return {path: path.stat().st_mtime_ns for path in found}


def rewritten(**changes: str) -> None:
    """Writes the definition anew, lines of it replaced."""
    text = DEFINITION
    for field, line in changes.items():
        old = next(x for x in text.splitlines() if x.strip().startswith(f"{field}:"))
        text = text.replace(old, old[: len(old) - len(old.lstrip())] + line)
    Path("tiny.yaml").write_text(text, encoding="utf-8")


def test_every_finished_run_is_scored_and_none_is_trained(finished: Path, cli: Cli) -> None:
    trained = weights()
    told = [(t.values, t.user_attrs["losses"]) for t in study().trials]
    gone, cut = (study().trials[n].user_attrs["run"] for n in (4, 5))
    (Path("runs/tiny") / gone / "model.safetensors").unlink()
    damaged = Path("runs/tiny") / cut / "model.safetensors"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    code, out, err = cli("score", "tiny", "--set", "proverbs=proverbs.txt")
    assert (code, err) == (0, "")
    assert "trial 4 was not scored: " in out
    assert "model.safetensors is gone" in out
    assert "trial 5 was not scored: " in out
    damaged.write_bytes(whole)
    code, out, err = cli("score", "tiny", "--set", "proverbs=proverbs.txt")
    assert (code, err) == (0, "")
    assert "scoring 2 finished runs on proverbs; none is trained" in out
    assert "[2/2 scored] trial 5: proverbs " in out
    assert [(t.values, t.user_attrs["losses"]) for t in study().trials] == told
    assert weights().keys() == trained.keys() - {Path("runs/tiny") / gone / "model.safetensors"}
    assert all(weights()[path] == trained[path] for path in weights() if path != damaged)
    losses = get_losses(study())
    for trial in study().trials:
        folder = Path("runs/tiny") / trial.user_attrs["run"]
        result = RunResult.read(folder / "result.json")
        assert losses[trial.number].get("proverbs") == result.losses.get("proverbs")
        assert ("proverbs" in losses[trial.number]) == (trial.number != 4)
        if trial.user_attrs["phase"] == "expert":
            arrays, _ = load_logprobs(folder / "logprobs.safetensors")
            assert -arrays["proverbs"].mean() == pytest.approx(
                losses[trial.number]["proverbs"], abs=1e-4
            )
    fresh = json.loads(Path("runs/tiny/confirm.json").read_text())["losses"]
    assert all("proverbs" in run for runs in fresh.values() for run in runs)
    rewritten(objective="objective: mean")
    config = read("tiny.yaml").config
    own = objective_on(config, Corpus.load("runs/tiny/corpus"))
    assert own.sets == ("code", "prose", "numbers", "news")
    code, out, _ = cli("recommend", "tiny", "--objective", "proverbs", "--format", "json")
    assert code == 0
    assert "proverbs" in json.loads(out)["rows"][0]["losses"]


def scored() -> dict[Path, int]:
    """Files of the runs that have a loss of the further set, by when they were written."""
    found = Path("runs/tiny/runs").glob("*/result.json")
    return {p: p.stat().st_mtime_ns for p in found if "proverbs" in RunResult.read(p).losses}


@pytest.mark.slow
def test_scoring_that_is_killed_goes_on_and_may_be_shared(finished: Path) -> None:
    trained, runs = weights(), set(Path("runs/tiny/runs").glob("*/result.json"))

    def start() -> subprocess.Popen[bytes]:
        program = Path(sys.executable).with_name("optuna-mde")
        arguments = ("score", "tiny", "--set", "proverbs=proverbs.txt")
        return subprocess.Popen([program, *arguments], start_new_session=True)

    first = start()
    while len(scored()) < 2:
        assert first.poll() is None
        time.sleep(0.002)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    kept = scored()
    assert len(kept) < len(runs)

    written: dict[Path, set[int]] = {path: set() for path in runs}
    log = Path("runs/tiny/logs/worker-0.log")
    said = len(log.read_text())
    pair, killed = [start(), start()], False
    while any(process.poll() is None for process in pair):
        for path, when in scored().items():
            written[path].add(when)
        if not killed and (found := re.findall(r"worker process (\d+)", log.read_text()[said:])):
            os.kill(int(found[-1]), signal.SIGKILL)  # another worker takes its place
            killed = True
        time.sleep(0.002)
    assert [process.returncode for process in pair] == [0, 0]
    assert {path: len(times) for path, times in written.items()} == dict.fromkeys(runs, 1)
    assert kept.items() <= scored().items()
    assert weights() == trained
    losses = get_losses(study())
    for trial in study().trials:
        result = RunResult.read(Path("runs/tiny") / trial.user_attrs["run"] / "result.json")
        assert losses[trial.number]["proverbs"] == result.losses["proverbs"]
    fresh = json.loads(Path("runs/tiny/confirm.json").read_text())["losses"]
    assert all("proverbs" in run for runs in fresh.values() for run in runs)


@pytest.mark.slow
def test_a_run_that_kills_its_workers_is_given_up(finished: Path) -> None:
    config, folder = read("tiny.yaml").config, StudyFolder(Path("runs/tiny"))
    source = DomainSource(path="text", data_files="proverbs.txt")
    experiment = with_sets(config, folder, {"proverbs": source}, None, print)
    order = RunOrder("a run", experiment.spec(study().trials[0].user_attrs))
    results: list[RunResult] = []
    left: list[str] = []

    class Killing(Progress):
        """Kills every worker that has begun a run."""

        def event(self, worker: int, event: Event) -> None:
            super().event(worker, event)
            if isinstance(event, Training):
                os.kill(pool._workers[worker].process.pid or 0, signal.SIGKILL)

    display = Killing("tiny", console())
    with Pool(folder, Places(1), config, trains=False) as pool:
        perform(
            [order],
            experiment,
            pool,
            display,
            on_result=lambda _, result: results.append(result),
            on_failure=lambda _, message: left.append(message),
            tries=2,
        )
    assert (results, left) == ([], ["2 workers died of it (exit code -9)"])


@pytest.mark.slow
def test_the_definition_may_gain_a_set_and_another_objective(finished: Path, cli: Cli) -> None:
    trained = weights()
    rewritten(
        news=f"news: {{path: text, data_files: 'news/*.txt'}}\n    {PROVERBS}",
        objective="objective: {proverbs: 3, news: 1}",
        confirm="confirm: {seeds: 0}",
    )
    code, out, err = cli("run", "tiny.yaml")
    assert (code, err) == (0, "")
    assert "the objective has changed: what counts from now on is 0.75 proverbs + 0.25 news" in out
    assert weights() == trained
    losses = get_losses(study())
    values = {n: 0.75 * x["proverbs"] + 0.25 * x["news"] for n, x in losses.items()}
    complete = [t.number for t in study().trials if t.state.name == "COMPLETE"]
    best = min(complete, key=values.__getitem__)
    _, out, _ = cli("status", "tiny")
    assert f"best: {values[best]:.4f} by trial {best}" in out
    rewritten(
        news=f"news: {{path: text, data_files: 'news/*.txt'}}\n    {PROVERBS}",
        objective="objective: {proverbs: 3, news: 1}",
        confirm="confirm: {seeds: 0}",
        search="search: {n_trials: 7}",
    )
    code, out, err = cli("run", "tiny.yaml")
    assert (code, err) == (0, "")
    assert "the objective has changed" not in out
    new = study().trials[6]
    told = new.user_attrs["losses"]
    assert new.value == pytest.approx(0.75 * told["proverbs"] + 0.25 * told["news"])
    assert len(weights()) == len(trained) + 1


@pytest.mark.slow
def test_another_number_of_goals_is_a_new_study_with_all_runs(finished: Path, cli: Cli) -> None:
    two = {"objective": "objective: {a: [code], b: {news: 2, prose: 1}}"}
    rewritten(**two)
    code, _, err = cli("run", "tiny.yaml")
    assert code == 2
    assert "has 1 goal (objective), and now there would be 2: Optuna fixes their number" in err
    assert "`warm_start: [tiny]`" in err
    trained = weights()
    rewritten(
        **two, name="name: pair\nwarm_start: [tiny]", search="search: {n_trials: 1, seed: 1}"
    )
    code, out, err = cli("run", "tiny.yaml")
    assert (code, err) == (0, "")
    assert "warm start from tiny: 6 runs taken over, 3 with an expert's file" in out
    pair = optuna.load_study(study_name="pair", storage="sqlite:///runs/pair/study.db")
    for old, new in zip(study().trials, pair.trials[:-1], strict=True):
        losses = old.user_attrs["losses"]
        assert new.params == old.params
        if new.values is not None:
            mean = (2 * losses["news"] + losses["prose"]) / 3
            assert new.values == pytest.approx([losses["code"], mean])
    last = pair.trials[-1]
    assert len(last.values) == 2
    assert last.user_attrs["phase"] not in ("expert", "natural", "uniform")
    # Of the confirmation, too, only the mixtures that the other study has not confirmed.
    other = {path.parent.name: when for path, when in trained.items()}
    mine = {p.parent.name: p.stat().st_mtime_ns for p in Path("runs/pair").rglob("model.safet*")}
    shared = mine.keys() & other.keys()
    assert len(shared) >= 4  # natural and uniform, two seeds each
    assert {name: mine[name] for name in shared} == {name: other[name] for name in shared}
    assert weights() == trained


def test_what_cannot_change_is_said_with_the_mend(finished: Path, cli: Cli) -> None:
    kept = Path("runs/tiny/definition.yaml").read_bytes()
    for changes, message in (
        ({"objective": "objective: {a: [code], b: [news]}"}, "has 1 goal (objective), and now"),
        ({"news": "news: {path: text, data_files: proverbs.txt}"}, "give the other set another"),
        ({"validation_tokens": "validation_tokens: 256"}, "runs under both cannot be compared"),
    ):
        rewritten(**changes)
        code, _, err = cli("run", "tiny.yaml")
        assert code == 2
        assert message in err
    for given, message in (
        (("--set", "news=proverbs.txt"), "another set of this name"),
        (("--set", "code=proverbs.txt"), "this is a domain"),
        (("--set", "few=few.txt"), "few.txt"),
    ):
        code, _, err = cli("score", "tiny", *given)
        assert code == 2
        assert message in err
    assert Path("runs/tiny/definition.yaml").read_bytes() == kept


def test_recommend_answers_another_question_and_changes_nothing(finished: Path, cli: Cli) -> None:
    cli("status", "tiny")  # the folder was moved, which the study keeps
    before = Path("runs/tiny/study.db").read_bytes()
    kept = Path("runs/tiny/recommendation.json").read_bytes()
    question = ("--objective", "prose=3,code=1", "--cap", "code=0.3", "--floor", "numbers=0.1")
    code, out, err = cli("recommend", "tiny", *question, "--format", "yaml")
    assert (code, err) == (0, "")
    rates = {
        k: float(v) for k, v in (line.split(": ") for line in out.splitlines() if ": " in line)
    }
    assert rates["code"] <= 0.3 + 1e-9
    assert rates["numbers"] >= 0.1 - 1e-9
    assert Path("runs/tiny/study.db").read_bytes() == before
    assert Path("runs/tiny/recommendation.json").read_bytes() == kept
    for wrong, message in (
        (("--cap", "moon=0.1"), "no domain"),
        (("--cap", "code"), "write NAME=NUMBER"),
        (("--objective", "moon"), "weighs 'moon', which no run reports"),
        (("--limit", "moon=2"), "limits names moon"),
        (("--floor", "code=0.7", "--floor", "prose=0.7"), "lower bounds add up"),
    ):
        code, _, err = cli("recommend", "tiny", *wrong)
        assert code == 2
        assert message in err
