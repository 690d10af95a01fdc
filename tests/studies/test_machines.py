"""Two "machines" that share a database, and a folder or a URL: separate folders, processes and
/tmp."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from optuna_mde_studies.runner.sharing.storages import open_storage
from optuna_mde_studies.runner.trials import FINISHED

from tests.servers import postgresql_server, s3_server

# Leases that lapse within the patience of a test, in processes that are started by others too.
PATIENCE = """
from optuna_mde_studies.runner.sharing import leases
leases.BEAT_SECONDS, leases.LAPSE_SECONDS = 0.3, 3.0
"""
MAIN = "from optuna_mde_studies.cli import main; main()"
TRAINER = f"{sys.executable} {Path(__file__).with_name('their_trainer.py')} {{spec}} {{out}}"


class Machine:
    """A current folder, a place for temporary files, and `optuna-mde` in them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tmp").mkdir(parents=True)
        (folder / "tmp/sitecustomize.py").write_text(PATIENCE)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        with (self.folder / "output.txt").open("a") as output:
            return subprocess.Popen(
                [sys.executable, "-c", MAIN, *arguments],
                cwd=self.folder,
                stdout=output,
                stderr=output,
                text=True,
                env={
                    **os.environ,
                    "TMPDIR": str(self.folder / "tmp"),
                    "PYTHONPATH": os.pathsep.join([str(self.folder / "tmp"), *sys.path]),
                },
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return (self.folder / "output.txt").read_text()


@pytest.fixture
def url() -> Iterator[str]:
    with postgresql_server() as found:
        yield found


@pytest.fixture
def machines(texts: Path, tmp_path: Path) -> tuple[Machine, Machine]:
    """Only the first has the definition and the text."""
    first, second = Machine(tmp_path / "first"), Machine(tmp_path / "second")
    shutil.copytree(texts, first.folder, dirs_exist_ok=True)
    return first, second


def trials(url: str, *states: optuna.trial.TrialState) -> list[optuna.trial.FrozenTrial]:
    storage = open_storage(url, Path())
    if "tiny" not in optuna.get_all_study_names(storage):
        return []
    study = optuna.load_study(study_name="tiny", storage=storage)
    return study.get_trials(states=states or None)


def wait_for(condition: Callable[[], object], machine: Machine, seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, machine.output
        time.sleep(0.1)


@pytest.fixture(params=["path", "s3"])
def runs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where both machines have corpus and runs."""
    if request.param == "path":
        yield f"{tmp_path}/shared"
        return
    with s3_server("bucket"):
        yield "s3://bucket/shared"


@pytest.mark.slow
def test_the_other_machine_finishes_the_study(
    machines: tuple[Machine, Machine], url: str, runs: str
) -> None:
    first, second = machines
    held = f"sh -c 'while [ -e hold ]; do sleep 0.1; done; {TRAINER}'"
    shared = ("--set", f"runs={runs}", "--set", f"launch.command={held}")
    options = ("--storage", url, *shared)
    begun = first.start("run", "tiny.yaml", *options, "--set", "search.n_trials=10")
    wait_for(lambda: len(trials(url, *FINISHED)) >= 2, first)
    (first.folder / "hold").touch()  # its runs go on no further
    other = second.start("run", "tiny", *options)
    wait_for(lambda: len(trials(url, *FINISHED)) >= 5, second)
    assert trials(url, optuna.trial.TrialState.RUNNING), "of the first machine"
    os.killpg(begun.pid, signal.SIGKILL)
    (first.folder / "hold").unlink()

    assert other.wait(240) == 0, second.output
    assert "what it has trained is not lost" in second.output
    found = trials(url)
    told = [trial for trial in found if trial.state in FINISHED]
    assert len(told) == 10
    assert not [t for t in found if t.state not in (*FINISHED, optuna.trial.TrialState.FAIL)]
    assert len({trial.user_attrs["run"] for trial in told}) == 10
    assert first.start("run", "tiny.yaml", *options).wait(120) == 0, first.output
    assert len(trials(url)) == len(found)
    reports = [(m.folder / "runs/tiny/report.html").read_text() for m in machines]
    assert reports[0] == reports[1]

    # Another definition is refused, and nothing is written.
    kept = first.folder / "runs/tiny/definition.yaml"
    before = kept.read_bytes(), len(trials(url))
    refused = first.start(
        *("run", "tiny.yaml", *options, "--set", "training.max_steps=21"),
        *("--set", "search.n_trials=12"),
    )
    assert refused.wait(60) == 2
    assert re.search(
        r"training\.max_steps: the study in postgresql\+psycopg://.* was begun with "
        r"training\.max_steps = 20, and now it is 21",
        first.output,
    )
    assert (kept.read_bytes(), len(trials(url))) == before


@pytest.mark.slow
def test_a_worker_hands_its_trial_back_on_sigterm(workplace: Path) -> None:
    machine = Machine(workplace / "here")
    for name in ("code", "prose", "numbers", "news"):
        (machine.folder / name).symlink_to(workplace / name)
    shutil.copy(workplace / "tiny.yaml", machine.folder)
    url = f"journal:{machine.folder}/study.log"
    options = ("--storage", url, "--set", "training.max_steps=4000")
    worker = machine.start("work", "tiny.yaml", *options)

    def at_work() -> bool:
        running = trials(url, optuna.trial.TrialState.RUNNING)
        return bool(running) and "run" in running[0].user_attrs

    wait_for(lambda: Path(machine.folder, "study.log").exists() and at_work(), machine)
    time.sleep(2)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 143
    assert "Stopped by SIGTERM; trials at work are handed back." in machine.output
    first, again = trials(url)
    assert (first.state.name, again.state.name) == ("FAIL", "WAITING")
    assert again.user_attrs["spec"] == first.user_attrs["spec"]
