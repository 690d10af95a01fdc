"""How runs are started, and how it is said that one came to nothing."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
import pytest
from optuna_mde_studies.definition import reading
from optuna_mde_studies.runner import checks, launchers
from optuna_mde_studies.runner.launchers import RunFailedError
from optuna_mde_studies.runner.launchers.local import (
    COMMAND_LOCK,
    OUR_TRAINER,
    CommandLauncher,
    InProcessLauncher,
    SubprocessLauncher,
)
from optuna_mde_studies.runner.launchers.processes import Here
from optuna_mde_trainers.spec import CheckpointWarning, LaunchSpec, RunSpec, ScoreSpec

from tests.studies import their_trainer
from tests.studies.runner.specs import ignore, short_experiment, short_spec

THEIRS = f"{shlex.quote(sys.executable)} {shlex.quote(their_trainer.__file__)} {{spec}} {{out}}"


@pytest.fixture
def spec(workplace: Path) -> RunSpec:
    return short_spec(workplace)


def python(code: str, seconds: float | None = None) -> CommandLauncher:
    return CommandLauncher((sys.executable, "-c", code, "{out}"), Here(seconds))


def test_a_process_of_its_own_trains_the_same(spec, tmp_path):
    here = InProcessLauncher().run(spec, tmp_path / "here", ignore)
    # our trainer as a command of the user's: under srun or torchrun, as they like
    there = CommandLauncher(OUR_TRAINER).run(spec, tmp_path / "there", ignore)
    assert there.losses == here.losses
    assert there.logprobs == "logprobs.safetensors"
    folder = spec.folder(tmp_path / "there")
    written = (folder / "result.json").stat().st_mtime_ns
    assert SubprocessLauncher().run(spec, tmp_path / "there", ignore).losses == here.losses
    assert (folder / "result.json").stat().st_mtime_ns == written  # it was finished

    class SetsACheckpointAside:
        def perform(self, command: Sequence[str], folder: Path, launch: LaunchSpec) -> None:
            (folder / "last.unusable").touch()

    with pytest.warns(CheckpointWarning, match=r"\(see output\.log beside it\): delete"):
        SubprocessLauncher(SetsACheckpointAside()).run(spec, tmp_path / "there", ignore)


def test_a_command_needs_to_leave_losses_only(spec, tmp_path):
    launcher = CommandLauncher(tuple(shlex.split(THEIRS)))
    assert launcher.finished(spec, tmp_path) is None
    result = launcher.run(spec, tmp_path, ignore)
    mixture = spec.training.mixture
    assert result.losses["code"] == their_trainer.loss("code", mixture)
    assert set(result.losses) == {"code", "prose", "numbers", "news"}
    assert result.tokens == 3 * 4 * 32
    assert result.seconds > 0
    assert launcher.finished(spec, tmp_path) == result
    folder = spec.folder(tmp_path)
    assert RunSpec.read(folder / "spec.json") == spec
    # it is finished: the command, which would fail, is not started again
    assert CommandLauncher(("false",)).run(spec, tmp_path, ignore) == result


LEAVES = "import sys; open(sys.argv[1] + '/result.json', 'w').write('{}')"


UNDER_TORCHRUN = """
print("training.mixture: no such domain")
print("[rank1]: RuntimeError: Connection closed by peer")
print("E1130 7247 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: 2)")
print("=====")
exit(1)
"""


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; print('first'); sys.exit('no data here')", "exit code 1: no data here"),
        ("import os; os._exit(7)", "exit code 7, without a word"),
        ("import os; os.kill(os.getpid(), 9)", "ended by SIGKILL, most often for want of memory"),
        (UNDER_TORCHRUN, r"exit code 1: training\.mixture: no such domain"),
        ("pass", r"ended well, but left no .*result\.json"),
        (LEAVES.format("{"), "holds no result"),
        (LEAVES.format('{"losses": {"a": {}}}'), r"result\.json: losses\.a: "),
    ],
)
def test_how_a_run_failed_is_said(code, said, spec, tmp_path):
    with pytest.raises(RunFailedError, match=said):
        python(code).run(spec, tmp_path, ignore)
    # another trial with the same spec is not held up by what this one has left
    mended = CommandLauncher(tuple(shlex.split(THEIRS)))
    assert mended.finished(spec, tmp_path) is None
    assert mended.run(spec, tmp_path, ignore).losses.keys() >= {"news"}


def test_a_program_that_is_not_there(spec, tmp_path):
    with pytest.raises(RunFailedError, match="exit code 127: nothing-like-it cannot be started"):
        CommandLauncher(("nothing-like-it",)).run(spec, tmp_path, ignore)


def waited_for(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


SLEEPS = """
import os, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
out = sys.argv[1]
def save(number, frame):
    open(out + "/saved", "w").close()
    sys.exit(1)
signal.signal(signal.SIGTERM, save)
open(out + "/pids.part", "w").write(f"{os.getpid()} {child.pid}")
os.replace(out + "/pids.part", out + "/pids")
time.sleep(600)
"""


def test_a_run_beyond_its_time_is_ended_with_its_children(spec, tmp_path):
    began = time.monotonic()
    with pytest.raises(RunFailedError, match=r"took longer than launch\.time_limit"):
        python(SLEEPS, seconds=4.0).run(spec, tmp_path, ignore)
    assert time.monotonic() - began < 20
    pids = map(int, (spec.folder(tmp_path) / "pids").read_text().split())
    assert all(waited_for(lambda pid=pid: not is_alive(pid)) for pid in pids)


@pytest.mark.parametrize(
    ("number", "saves"),
    [(signal.SIGKILL, False), (signal.SIGINT, False), (signal.SIGTERM, True)],
)
def test_a_command_ends_with_its_worker(spec, tmp_path, number, saves):
    """Whatever ends it; signals but SIGKILL reach its whole group, as a terminal sends them."""
    spec.write(tmp_path / "asked.json")
    worker = (
        "import sys\nfrom pathlib import Path\n"
        "from optuna_mde_studies.runner.launchers.local import CommandLauncher\n"
        "from optuna_mde_studies.runner.signals import end_orderly\n"
        "from optuna_mde_trainers.spec import RunSpec\n"
        f"command = (sys.executable, '-c', {SLEEPS!r}, '{{out}}')\n"
        "spec = RunSpec.read(Path('asked.json'))\n"
        "end_orderly()\n"
        "CommandLauncher(command).run(spec, Path('runs'), lambda step, total: None)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", worker],
        cwd=tmp_path,
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    try:
        pids = spec.folder(tmp_path / "runs") / "pids"
        assert waited_for(pids.exists, 60)
    finally:
        (os.kill if number == signal.SIGKILL else os.killpg)(process.pid, number)
        code = process.wait()
    for pid in map(int, pids.read_text().split()):
        assert waited_for(lambda pid=pid: not is_alive(pid)), pid
    assert (spec.folder(tmp_path / "runs") / "saved").exists() == saves
    assert code == (143 if number == signal.SIGTERM else -number)


def test_a_result_counts_once_its_program_has_ended(spec, tmp_path):
    """Seconds are measured by who started the program, and written when it has ended."""
    from filelock import FileLock

    folder = spec.folder(tmp_path)
    folder.mkdir(parents=True)
    (folder / "result.json").write_text('{"losses": {"code": 3.0}}')
    launcher = python("")
    with FileLock(folder / COMMAND_LOCK):  # as another machine holds it, whose program ends
        assert launcher.finished(spec, tmp_path) is None
    assert launcher.finished(spec, tmp_path).losses == {"code": 3.0}


def test_a_study_with_a_trainer_that_is_not_ours(workplace, command):
    done = command(
        "run", "tiny.yaml", "--set", f"launch.command={json.dumps(THEIRS)}", folder=workplace
    )
    assert done.returncode == 0, done.stdout + done.stderr
    storage = f"sqlite:///{workplace}/runs/tiny/study.db"
    study = optuna.load_study(study_name="tiny", storage=storage)
    assert len(study.trials) == 6
    for trial in study.trials:
        mixture = trial.user_attrs["spec"]["training"]["mixture"]
        losses = {name: their_trainer.loss(name, mixture) for name in ("code", "news", "prose")}
        assert trial.user_attrs["losses"] | losses == trial.user_attrs["losses"]
    assert "recommended" in done.stdout
    assert (workplace / "runs/tiny/report.html").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('found.pop("logprobs")', "names no file of log-probabilities"),
        ("values = values[:-5]", r"code has \d+ log-probabilities, and the set \d+ tokens"),
        ("values = values / np.log(10)", r"by the file, .* logarithms to base 10 would give"),
        ("values = np.exp(values)", "log-probabilities must be numbers of at most 0"),
    ],
)
def test_an_expert_of_a_command_fails_where_its_file_is_wrong(
    workplace: Path, change: str, message: str
) -> None:
    code = f"""\
import json, sys
from pathlib import Path
import numpy as np
from safetensors.numpy import load_file, save_file
sys.path.insert(0, {str(Path(their_trainer.__file__).parent)!r})
import their_trainer
their_trainer.main()
out = Path(sys.argv[2])
found = json.loads((out / "result.json").read_text())
arrays = load_file(out / "own.safetensors")
values = arrays["code"]
{change}
arrays["code"] = np.ascontiguousarray(values, dtype=np.float32)
save_file(arrays, out / "own.safetensors")
(out / "result.json").write_text(json.dumps(found))
"""
    Path("trainer.py").write_text(code)
    command = shlex.join((sys.executable, str(Path("trainer.py").resolve()), "{spec}", "{out}"))
    experiment = short_experiment(workplace, f"launch.command={json.dumps(command)}")
    training = experiment.training(experiment.natural, seed=0)
    spec = experiment.launched(training, ScoreSpec(logprobs=True))
    with pytest.raises(RunFailedError, match=message):
        experiment.train(spec, ignore)
    result = spec.folder(experiment.folder.runs) / "result.json"
    assert not result.exists()  # a mended trainer's next try does not take it up


def test_what_a_definition_asks_for(workplace):
    def asked(*settings: str) -> launchers.Launcher:
        return launchers.launcher(reading.read("tiny.yaml", settings).config.launch)

    assert isinstance(asked(), InProcessLauncher)
    limited = asked("launch.launcher=subprocess", "launch.time_limit=2")
    assert limited == SubprocessLauncher(Here(120.0))
    split = asked("launch.command='train it.py \"a b\" {spec}'")
    assert split == CommandLauncher(("train", "it.py", "a b", "{spec}"))
    with pytest.raises(reading.DefinitionError, match="time_limit needs launcher: subprocess"):
        asked("launch.time_limit=2")
    with pytest.raises(reading.DefinitionError, match=r"command needs \{spec\}"):
        asked("launch.command=train")
    with pytest.raises(reading.DefinitionError, match="cannot be split as a shell does"):
        asked("launch.command='train \"{spec}'")
    definition = reading.read("tiny.yaml", ["launch.command='nothing-like-it {spec}'"])
    (said,) = checks.problems(definition)
    assert "launch.command: there is no program 'nothing-like-it'" in said
