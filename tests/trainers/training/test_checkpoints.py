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
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna_mde_trainers.run import train
from optuna_mde_trainers.spec import CheckpointWarning, RunResult, RunSpec
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
        assert result.train_curve == straight.train_curve
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


@pytest.fixture(scope="module")
def begun(make_spec: MakeSpec, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    """The checkpoint of step 5 of a run, whose training part the keywords change."""

    class StopError(Exception):
        pass

    def stop(step: int, steps: int) -> None:
        if step == 7:
            raise StopError

    def begun(**training: Any) -> bytes:
        spec = make_spec({"checkpoint_every_n_steps": 5}, **training)
        runs = tmp_path_factory.mktemp("begun")
        with pytest.raises(StopError):
            train(spec, runs, on_step=stop)
        return (spec.folder(runs) / "last.ckpt").read_bytes()

    return begun


SMALLER = {
    "hidden_size": 8,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


@pytest.fixture(scope="module")
def straight(make_spec: MakeSpec, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return train(make_spec(), tmp_path_factory.mktemp("straight"))


def altered(checkpoint: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    held = torch.load(BytesIO(checkpoint), weights_only=True)
    change(held)
    written = BytesIO()
    torch.save(held, written)
    return written.getvalue()


def of_a_later_version(held: dict[str, Any]) -> None:
    held["optuna_mde_version"] = 2


def of_another_lightning(held: dict[str, Any]) -> None:
    held["pytorch-lightning_version"] = "3.1.0"
    held["loops"]["fit_loop"] = {"position": held["loops"]["fit_loop"]}


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (
            lambda begun: altered(begun(), of_a_later_version),
            "another version of optuna-mde wrote it, in format 2, and this one reads format 1",
        ),
        (
            lambda begun: altered(begun(), of_another_lightning),
            "Lightning 3.1.0 wrote it, in another form",
        ),
        (
            lambda begun: altered(begun(), lambda held: held.pop("lr_schedulers")),
            "it has no lr_schedulers: another version wrote it",
        ),
        (lambda begun: begun()[:-5000], "it is damaged: "),
        (lambda begun: b"", "it is damaged: "),
        (lambda begun: begun(model=SMALLER), "it is of another model"),
        (lambda begun: begun(mixture={"letters": 1.0}), "it is of other data"),
    ],
)
def test_a_run_begins_afresh_where_its_checkpoint_cannot_be_gone_on_with(
    written: Callable[[Callable[..., bytes]], bytes],
    said: str,
    begun: Callable[..., bytes],
    straight: RunResult,
    make_spec: MakeSpec,
    tmp_path: Path,
) -> None:
    spec = make_spec()
    folder = spec.folder(tmp_path)
    folder.mkdir()
    content = written(begun)
    (folder / "last.ckpt").write_bytes(content)
    steps: list[int] = []
    with pytest.warns(CheckpointWarning) as warned:
        result = train(spec, tmp_path, on_step=lambda step, _: steps.append(step))
    (warning,) = warned
    text = str(warning.message)
    assert text.startswith(f"run {folder.name} begins afresh, as its checkpoint cannot be gone on")
    assert f"({said}" in text
    assert text.endswith(
        f"): delete {folder / 'last.unusable'}, or put it back as last.ckpt for "
        "the version that wrote it"
    )
    assert steps == list(range(1, 25))
    assert (result.losses, result.train_loss) == (straight.losses, straight.train_loss)
    assert (folder / "last.unusable").read_bytes() == content
    assert not (folder / "last.ckpt").exists()
