"""Runs on several devices: processes of the CPU, connected by gloo."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna_mde_trainers.run import train
from optuna_mde_trainers.spec import LaunchConfig, RunResult, RunSpec
from optuna_mde_trainers.training.ranks import RanksError, this_rank

MakeSpec = Callable[..., RunSpec]
TWO = {"devices": 2}


def _assert_close(one: RunResult, other: RunResult) -> None:
    assert one.losses == pytest.approx(other.losses, abs=1e-4)
    assert one.train_loss == pytest.approx(other.train_loss, abs=1e-4)
    assert one.realised == other.realised
    assert one.tokens == other.tokens


def test_two_ranks_do_what_one_does(
    make_spec: MakeSpec, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The spec's batch, once: its losses, its log, written by one of them."""
    steps: list[int] = []
    both = make_spec({**TWO, "logger": "csv"}, max_steps=20)
    result = train(both, tmp_path / "two", on_step=lambda step, _: steps.append(step))
    alone = make_spec({"logger": "csv"}, max_steps=20)
    _assert_close(result, train(alone, tmp_path / "one"))
    assert steps == list(range(1, 21))
    assert result.ledger is not None
    assert result.ledger.devices == 2
    assert result.ledger.device_seconds == pytest.approx(2 * result.seconds)
    logs = [
        (spec.folder(tmp_path / name) / "log" / "version_0" / "metrics.csv").read_text().split()
        for name, spec in (("two", both), ("one", alone))
    ]
    assert len(logs[0]) == len(logs[1]) == 4  # a head, two steps, and the losses of the sets
    for line, other in zip(logs[0][1:], logs[1][1:], strict=True):
        values, others = ([float(c) for c in row.split(",") if c] for row in (line, other))
        assert values == pytest.approx(others, abs=1e-4)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_killed_run_goes_on_with_another_number_of_ranks(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    class StopError(Exception):
        pass

    def stop_at(last: int) -> Callable[[int, int], None]:
        def stop(step: int, steps: int) -> None:
            if step == last:
                raise StopError

        return stop

    every = {"checkpoint_every_n_steps": 5}
    # Two forward passes a step alone, one on each of two ranks.
    alone, both = (make_spec({**every, **more}, micro_batch_size=4) for more in ({}, TWO))
    straight = train(alone, tmp_path / "straight")
    for number, (first, second) in enumerate([(alone, both), (both, alone)]):
        runs = tmp_path / str(number)
        with pytest.raises(StopError):
            train(first, runs, on_step=stop_at(8))
        steps: list[int] = []
        resumed = train(second, runs, on_step=lambda step, _, steps=steps: steps.append(step))
        assert steps == list(range(6, 25))
        _assert_close(resumed, straight)


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all_with_a_checkpoint(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    spec = make_spec({**TWO, "checkpoint_every_n_steps": 100})

    def send(step: int, steps: int) -> None:
        if step == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        train(spec, tmp_path, on_step=send)
    steps: list[int] = []
    train(spec, tmp_path, on_step=lambda step, _: steps.append(step))
    assert steps[0] == 9


@pytest.mark.slow
def test_a_rank_that_fails_is_named(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec({**TWO, "callbacks": ["tests.trainers.training.callbacks.FailsOnRankOne"]})
    with pytest.raises(RanksError, match=r"rank 1 has failed: .*no room on the second device"):
        train(spec, tmp_path)


@pytest.mark.parametrize(
    "left_over",
    [
        {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "3", "MASTER_ADDR": "10.0.0.1"},
        {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "3", "SLURM_JOB_ID": "1"},
    ],
    ids=["torchrun", "slurm"],
)
def test_what_a_launcher_left_behind_changes_nothing(
    make_spec: MakeSpec, tmp_path: Path, left_over: dict[str, str]
) -> None:
    """Lightning reads its rank when it is imported, so in a process of its own."""
    spec = make_spec({"logger": "csv"}, max_steps=20)
    spec.write(tmp_path / "spec.json")
    code = (
        "import sys; from pathlib import Path;"
        "from optuna_mde_trainers.run import train; from optuna_mde_trainers.spec import RunSpec;"
        "train(RunSpec.read(Path(sys.argv[1])), Path(sys.argv[2]))"
    )
    arguments = [str(tmp_path / "spec.json"), str(tmp_path)]
    subprocess.run(
        [sys.executable, "-c", code, *arguments], env={**os.environ, **left_over}, check=True
    )
    folder = spec.folder(tmp_path)
    assert len((folder / "log" / "version_0" / "metrics.csv").read_text().split()) == 4
    assert RunResult.read(folder / "result.json").losses == train(spec, tmp_path / "here").losses


@pytest.mark.slow
def test_processes_that_torchrun_starts_are_the_ranks(make_spec: MakeSpec, tmp_path: Path) -> None:
    """Those that ask again for a finished run too, and each has the result."""
    spec = make_spec({**TWO, "num_nodes": 1})
    spec.write(tmp_path / "spec.json")
    code = (
        "import sys; from pathlib import Path;"
        "from optuna_mde_trainers.run import train; from optuna_mde_trainers.spec import RunSpec;"
        "spec = RunSpec.read(Path(sys.argv[1]));"
        "print(*(train(spec, Path(sys.argv[2])).losses.values() for _ in range(2)), sep='\\n')"
    )
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "spec.json"), str(tmp_path)],
            env={
                **os.environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = {process.communicate(timeout=120)[0] for process in started}
    assert [process.returncode for process in started] == [0, 0]
    assert len(outputs) == 1
    assert len(outputs.pop().splitlines()) == 2


def test_nodes_need_a_launcher() -> None:
    with pytest.raises(RanksError, match=r"launch\.num_nodes is 2, .* srun .*torchrun"):
        this_rank(LaunchConfig(num_nodes=2, devices=4))


def test_ranks_of_slurm_are_those_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = LaunchConfig(num_nodes=2, devices=2)
    for name, value in {
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
        "SLURM_STEP_NODELIST": "node[07-08]",
        "SLURM_JOB_ID": "4711",
        "SLURM_STEP_ID": "0",
    }.items():
        monkeypatch.setenv(name, value)
    rank = this_rank(launch)
    assert (rank.number, rank.local_number, rank.world_size) == (3, 1, 4)
    assert rank.address == "node07"
    assert rank.is_launched
    assert not rank.writes
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")  # a batch script, outside of srun
    with pytest.raises(RanksError):
        this_rank(launch)


@pytest.mark.slow
def test_the_other_ranks_end_with_the_first(make_spec: MakeSpec, tmp_path: Path) -> None:
    """Also when it is killed, and says nothing."""
    spec = make_spec(TWO, max_steps=2000)
    spec.write(tmp_path / "spec.json")
    code = (
        "import os, signal, subprocess, sys; from pathlib import Path;"
        "from optuna_mde_trainers.run import train; from optuna_mde_trainers.spec import RunSpec\n"
        "def on_step(step, steps):\n"
        "    found = subprocess.run(['ps', '-o', 'pid=', '--ppid', str(os.getpid())],"
        " capture_output=True, text=True).stdout.split()\n"
        "    print(found[0], flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "train(RunSpec.read(Path(sys.argv[1])), Path(sys.argv[2]), on_step=on_step)"
    )
    arguments = [str(tmp_path / "spec.json"), str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    other = int(done.stdout)
    deadline = time.monotonic() + 20
    while _is_alive(other) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _is_alive(other)


def _is_alive(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
