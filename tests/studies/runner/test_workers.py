"""Studies whose processes are killed: nothing finished is lost, nothing stays RUNNING."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from io import StringIO
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from optuna_mde_studies.definition import reading
from optuna_mde_studies.runner.changes import keep_definition
from optuna_mde_studies.runner.folder import StudyError, StudyFolder, create
from optuna_mde_studies.runner.session import Session
from optuna_mde_studies.runner.workers import log_file
from optuna_mde_studies.terminal.progress import Progress
from rich.console import Console

from tests.conftest import Command

TOLD = (TrialState.COMPLETE, TrialState.PRUNED)  # experts train half a run, and end pruned
STEPS = "training.max_steps=150"  # long enough that a signal finds a run at work


def trials_of(folder: StudyFolder) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="tiny", storage=folder.storage()).trials


def states_of(folder: StudyFolder, only: str = "") -> list[str]:
    """States of the trials, read without Optuna: its tables may be in the making."""
    if not folder.database.exists():
        return []
    with closing(sqlite3.connect(f"file:{folder.database}?mode=ro", uri=True)) as database:
        try:
            return [state for (state,) in database.execute(f"SELECT state FROM trials {only}")]
        except sqlite3.OperationalError:
            return []


TRAINING = "JOIN trial_user_attributes USING (trial_id) WHERE key = 'run'"


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)


def mid_run(folder: StudyFolder) -> bool:
    """Whether two trials are finished and two at work."""
    states = states_of(folder, TRAINING)
    ended = states.count("COMPLETE") + states.count("PRUNED")  # experts end pruned
    return ended >= 2 and states.count("RUNNING") >= 2


def children_of(pid: int) -> list[int]:
    """Living child processes, whether or not the machine has `ps`."""
    if not Path("/proc/self/stat").exists():  # macOS
        out = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True)
        pairs = [line.split() for line in out.stdout.splitlines()]
        return [int(child) for child, parent in pairs if int(parent) == pid]
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            state, parent = stat.read_text().rsplit(")", 1)[1].split()[:2]
            if int(parent) == pid and state != "Z":
                found.append(int(stat.parent.name))
    return found


def worker_of(folder: StudyFolder, runner: int) -> int:
    """A worker process: the runner's children are its workers and Python's resource tracker."""
    busy = re.findall(r"worker process (\d+)", log_file(folder, 0).read_text(encoding="utf-8"))
    return next(pid for pid in map(int, reversed(busy)) if pid in children_of(runner))


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def start(folder: Path) -> subprocess.Popen[bytes]:
    """The command, with its output in `output.txt`."""
    command = Path(sys.executable).with_name("optuna-mde")
    with (folder / "output.txt").open("w") as output:
        return subprocess.Popen(
            [command, "run", "tiny.yaml", "--set", STEPS],
            cwd=folder,
            stdout=output,
            stderr=output,
        )


def results_of(folder: StudyFolder) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.runs.glob("*/result.json")}


@pytest.fixture
def folder(workplace: Path) -> StudyFolder:
    return StudyFolder(workplace / "runs/tiny")


def search(folder: StudyFolder, *overrides: str) -> None:
    """The search of the study, in this process."""
    definition = reading.read("tiny.yaml", [STEPS, *overrides])
    create(folder)
    with folder.owned():
        keep_definition(folder, definition)
        with (
            Progress("tiny", Console(file=StringIO())) as progress,
            Session(definition, folder, progress) as session,
        ):
            session.search()


def test_killed_processes_lose_no_finished_run(workplace: Path, folder: StudyFolder) -> None:
    runner = start(workplace)
    wait_for(lambda: mid_run(folder))
    os.kill(worker_of(folder, runner.pid), signal.SIGKILL)
    wait_for(lambda: "FAIL" in states_of(folder))
    assert "a worker died (exit code -9); another one takes its place" in (
        workplace / "output.txt"
    ).read_text(encoding="utf-8")

    workers = children_of(runner.pid)
    finished = {t.number: t for t in trials_of(folder) if t.state in TOLD}
    results = results_of(folder)
    runner.kill()
    runner.wait(30)
    wait_for(lambda: not any(map(is_alive, workers)), 10)

    search(folder)
    trials = trials_of(folder)
    told = [trial for trial in trials if trial.state in TOLD]
    interrupted = [trial for trial in trials if trial.state == TrialState.FAIL]
    assert len(told) == 6
    assert len(told) + len(interrupted) == len(trials)
    for number, before in finished.items():
        assert trials[number] == before
    for path, written in results.items():
        assert Path(path).stat().st_mtime_ns == written
    assert len({json.dumps(trial.params, sort_keys=True) for trial in told}) == 6
    taken_up = {trial.user_attrs["run"] for trial in told}
    assert {t.user_attrs["run"] for t in interrupted if "run" in t.user_attrs} <= taken_up


def test_ctrl_c_leaves_no_trial_running(workplace: Path, folder: StudyFolder) -> None:
    runner = start(workplace)
    wait_for(lambda: mid_run(folder))
    workers = children_of(runner.pid)
    runner.send_signal(signal.SIGINT)
    assert runner.wait(30) == 130
    wait_for(lambda: not any(map(is_alive, workers)), 10)
    states = states_of(folder)
    assert "RUNNING" not in states
    assert states.count("WAITING") == states.count("FAIL") > 0


@pytest.mark.slow
def test_sigterm_hands_all_trials_back_and_going_on_finishes_them(
    workplace: Path, folder: StudyFolder, command: Command
) -> None:
    runner = start(workplace)
    wait_for(lambda: mid_run(folder))
    workers = children_of(runner.pid)
    finished = {t.number: t for t in trials_of(folder) if t.state in TOLD}
    time.sleep(1)  # both are at their steps
    runner.send_signal(signal.SIGTERM)
    assert runner.wait(30) == 143
    said = (workplace / "output.txt").read_text(encoding="utf-8")
    assert "Stopped by SIGTERM; trials at work are handed back." in said
    assert "Traceback" not in said
    wait_for(lambda: not any(map(is_alive, workers)), 10)

    trials = trials_of(folder)
    assert not [trial for trial in trials if trial.state == TrialState.RUNNING]
    left = [trial for trial in trials if trial.state == TrialState.FAIL]
    waiting = [trial for trial in trials if trial.state == TrialState.WAITING]
    begun = [trial for trial in left if "run" in trial.user_attrs]  # else it had no mixture yet
    assert {trial.user_attrs["continues"] for trial in waiting} == {t.number for t in begun}
    assert any((folder.path / trial.user_attrs["run"] / "last.ckpt").exists() for trial in begun)
    status = command("status", "tiny.yaml", folder=workplace).stdout
    assert f"interrupted {len(left)}" in status or f"{len(left)} interrupted" in status, status
    assert "not running" in status

    search(folder)
    trials = trials_of(folder)
    told = [trial for trial in trials if trial.state in TOLD]
    assert len(told) == 6
    assert {trial.state for trial in trials} <= {*TOLD, TrialState.FAIL}
    assert all(trials[number] == before for number, before in finished.items())
    assert {trial.user_attrs["run"] for trial in begun} <= {t.user_attrs["run"] for t in told}


def test_runs_that_keep_failing_end_the_study_with_their_reason(workplace, folder):
    with pytest.raises(StudyError, match=r"3 runs failed one after the other; the last: .*loss"):
        search(folder, "optimizer.lr=1e30", "training.gradient_clip_val=0", "launch.workers=1")
    assert "RUNNING" not in states_of(folder)


def test_only_one_process_runs_a_study(workplace, folder):
    folder.path.mkdir(parents=True)
    with folder.owned():
        assert folder.is_running()
        with pytest.raises(StudyError, match="another process runs this study"):
            search(folder)
    assert not folder.is_running()
