"""Checkpoints: when they are written, and that a kill at any time leaves a run that goes on."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from optuna_mde_trainers.run import train
from optuna_mde_trainers.spec import RunResult, RunSpec
from safetensors.torch import load_file

MakeSpec = Callable[..., RunSpec]

# Trains, killed at a step, or when so many bytes of the next checkpoint are written, and then to
# the end. Children are forks, so that Lightning is imported once.
KILLED = """
import json, os, signal, sys
from pathlib import Path
import torch
import optuna_mde_trainers.training.fit
from optuna_mde_trainers.run import train
from optuna_mde_trainers.spec import RunSpec

def dying(length):
    import shutil
    def move(source, target, *args, **kwargs):  # as onto another disk, which is a copy
        Path(target).write_bytes(Path(source).read_bytes()[:length])
        os.kill(os.getpid(), signal.SIGKILL)
    shutil.move = move

for spec, runs, step_killed, bytes_killed in json.load(sys.stdin):
    spec, runs = RunSpec.model_validate(spec), Path(runs)
    child = os.fork()
    if child == 0:
        def on_step(step, steps):
            if step == step_killed:
                if bytes_killed is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                dying(bytes_killed)
        train(spec, runs, on_step=on_step)
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    part = spec.folder(runs) / "last.part"
    steps = []
    half = part.stat().st_size if part.exists() else None
    train(spec, runs, on_step=lambda step, _: steps.append(step))
    print(json.dumps([steps[0], half]))
"""


def test_killed_at_any_step_or_in_a_checkpoint_it_ends_with_the_same_bits(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    draw = random.Random(time.time_ns())
    spec = make_spec({"checkpoint_every_n_steps": 5})
    kills = [(draw.randint(1, 23), None), (draw.randint(1, 23), None), (20, None)]
    kills += [(8, draw.randint(1, 20_000)), (14, 10**9)]  # all of it, but for its name
    cases = [
        (spec.model_dump(mode="json"), str(tmp_path / str(i)), *kill)
        for i, kill in enumerate(kills)
    ]
    done = subprocess.run(
        [sys.executable, "-c", KILLED],
        input=json.dumps(cases),
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    straight = train(spec, tmp_path / "straight")
    weights = load_file(spec.folder(tmp_path / "straight") / "model.safetensors")
    for (step, bytes_killed), line, case in zip(
        kills, done.stdout.splitlines(), cases, strict=True
    ):
        first, half = json.loads(line)
        # Nothing is used of a checkpoint that a kill has cut short, or come before: it is written
        # after its step is reported.
        assert first == (step - 1) // 5 * 5 + 1, (kills, done.stdout)
        assert (half is None) == (bytes_killed is None)
        folder = spec.folder(Path(case[1]))
        result = RunResult.read(folder / "result.json")
        assert (result.losses, result.train_loss) == (straight.losses, straight.train_loss)
        for name, weight in load_file(folder / "model.safetensors").items():
            assert torch.equal(weight, weights[name])


def test_a_warning_of_a_time_limit_leaves_a_checkpoint_and_no_more(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    """What `sbatch --signal=USR1@…` sends: the run goes on, and may end at any time."""

    class TimeLimitError(Exception):
        pass

    def send(step: int, steps: int) -> None:
        if step == 8:
            os.kill(os.getpid(), signal.SIGUSR1)
        if step == 12:
            raise TimeLimitError

    spec = make_spec({"checkpoint_every_n_steps": 100})
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(TimeLimitError):
        train(spec, tmp_path / "limited", on_step=send)
    assert signal.getsignal(signal.SIGUSR1) == before
    steps: list[int] = []
    result = train(spec, tmp_path / "limited", on_step=lambda step, _: steps.append(step))
    assert steps[0] == 9
    assert result.losses == train(spec, tmp_path / "straight").losses


def test_minutes_count_as_well_as_steps(make_spec: MakeSpec, tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def slow(step: int, steps: int) -> None:
        time.sleep(0.02)
        if step == 12:
            raise StopError

    minutes = 0.1 / 60
    spec = make_spec({"checkpoint_every_n_steps": 100, "checkpoint_every_n_minutes": minutes})
    with pytest.raises(StopError):
        train(spec, tmp_path, on_step=slow)
    steps: list[int] = []
    train(spec, tmp_path, on_step=lambda step, _: steps.append(step))
    assert 2 <= steps[0] <= 12
