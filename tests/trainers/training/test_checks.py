"""What a run asks of this machine is looked at before anything starts; one sentence says it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna_mde_trainers.run import train
from optuna_mde_trainers.spec import LaunchConfig, ModelConfig, RunSpec, TrainingConfig
from optuna_mde_trainers.training.checks import LaunchError, check_launch
from optuna_mde_trainers.training.launching import callbacks

MakeSpec = Callable[..., RunSpec]
COUNTS = "tests.trainers.training.callbacks.CountsSteps"


def _check(
    launch: dict[str, Any],
    training: dict[str, Any] | None = None,
    model: dict[str, Any] | None = None,
) -> None:
    check_launch(
        LaunchConfig.model_validate(launch),
        TrainingConfig.model_validate(
            {"max_steps": 1, "global_batch_size": 8, **(training or {})}
        ),
        ModelConfig.model_validate(model or {}),
    )


@pytest.mark.parametrize(
    ("launch", "training", "words"),
    [
        ({"trainer": {"max_step": 3}}, {}, r"launch\.trainer\.max_step: .* no such argument"),
        ({"trainer": {"precision": 16}}, {}, r"trainer\.precision: training\.precision says it"),
        ({"trainer": {"limit_train_batches": 2}}, {}, r"limit_train_batches: a run sets it"),
        ({"strategy": "dpd"}, {}, r"launch\.strategy: Lightning knows no 'dpd'.* ddp"),
        ({"strategy": "fsdp", "accelerator": "cpu"}, {}, r"launch\.strategy: fsdp .* use ddp"),
        ({"devices": 3, "accelerator": "cpu"}, {}, r"launch\.devices: 3 devices .* 8: .* of 3"),
        ({"devices": 2, "accelerator": "cpu"}, {"micro_batch_size": 4}, None),
        (
            {"devices": 2, "accelerator": "cpu"},
            {"global_batch_size": 12, "micro_batch_size": 4},
            r"training\.micro_batch_size: 6 sequences .* no multiple of 4",
        ),
        ({"callbacks": ["no_such.module.Watch"]}, {}, r"launch\.callbacks: .* 'no_such\.module'"),
        ({"callbacks": ["Watch"]}, {}, r"launch\.callbacks: .* package\.module\.Class"),
        ({"trainer": {"profiler": "simple"}, "callbacks": [{COUNTS: {"file": "x"}}]}, {}, None),
    ],
)
def test_what_cannot_be_launched_is_named(
    launch: dict[str, Any], training: dict[str, Any], words: str | None
) -> None:
    if words is None:
        return _check(launch, training)
    with pytest.raises(LaunchError, match=words) as caught:
        _check(launch, training)
    assert "\n" not in str(caught.value)


def test_a_device_that_is_not_there_is_named() -> None:
    found = torch.cuda.device_count()
    many = {"accelerator": "gpu", "devices": found + 2, "num_nodes": 1}
    words = r"launch\.(accelerator: gpu is asked for, and torch .* none here|devices: )"
    with pytest.raises(LaunchError, match=words):
        _check(many, {"global_batch_size": found + 2})
    if not found:
        with pytest.raises(LaunchError, match=r"launch\.accelerator: cuda is asked for"):
            _check({"accelerator": "cuda"})


@pytest.mark.parametrize("package", ["wandb", "mlflow", "tensorboard"])
def test_the_package_of_a_logger_is_named(package: str) -> None:
    packages = ("tensorboard", "tensorboardX") if package == "tensorboard" else (package,)
    if any(map(util.find_spec, packages)):
        return _check({"logger": package})
    words = rf"launch\.logger: {package} needs the package .* pip install {package}"
    with pytest.raises(LaunchError, match=words):
        _check({"logger": ["csv", package]})


def test_the_package_of_a_model_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optuna_mde_trainers.training.checks.find_spec", lambda name: None)
    with pytest.raises(LaunchError, match=r'pretrained_config needs .* "optuna-mde\[hf\]"'):
        _check({}, model={"pretrained_config": "openai-community/gpt2"})


def test_an_ordinary_launch_is_checked_without_torch() -> None:
    code = (
        "import sys; from optuna_mde_trainers.spec import *;"
        "from optuna_mde_trainers.training.checks import check_launch;"
        "check_launch(LaunchConfig(accelerator='cpu', logger='csv'),"
        " TrainingConfig(max_steps=1, global_batch_size=1), ModelConfig());"
        "print({'torch', 'lightning', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_callbacks_and_arguments_of_the_trainer_take_part(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    file = tmp_path / "steps.txt"
    launch = {"callbacks": [{COUNTS: {"file": str(file)}}], "trainer": {"log_every_n_steps": 4}}
    spec = make_spec({**launch, "logger": {"csv": {"name": "lines"}}}, max_steps=8)
    assert RunSpec.model_validate_json(spec.model_dump_json()) == spec
    train(spec, tmp_path)
    assert file.read_text() == "8"
    log = spec.folder(tmp_path) / "lines" / "version_0" / "metrics.csv"
    assert len(log.read_text().split()) == 4  # a head, two steps, and the losses of the sets


@pytest.mark.parametrize(
    ("callback", "words"),
    [
        ({COUNTS: {"path": "x"}}, "launch.callbacks: .*CountsSteps.* '(path|file)'"),
        ("tests.trainers.training.callbacks.Nothing", "has no attribute 'Nothing'"),
        ("pathlib.Path", "pathlib.Path is no Lightning Callback"),
    ],
)
def test_a_callback_that_cannot_be_made_is_named(callback: Any, words: str) -> None:
    with pytest.raises(LaunchError, match=words):
        callbacks(LaunchConfig.model_validate({"callbacks": [callback]}))
    with pytest.raises(LaunchError, match=words):  # before a corpus is built, too
        _check({"callbacks": [callback]})


@pytest.mark.parametrize(
    ("written", "means"),
    [
        (None, {}),
        ("csv", {"csv": {}}),
        (["csv", "wandb"], {"csv": {}, "wandb": {}}),
        ({"wandb": {"project": "mix"}, "csv": None}, {"wandb": {"project": "mix"}, "csv": {}}),
    ],
)
def test_loggers_are_written_in_several_ways(written: Any, means: dict[str, Any]) -> None:
    assert LaunchConfig.model_validate({"logger": written}).logger == means
