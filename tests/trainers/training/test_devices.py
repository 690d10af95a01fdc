"""Where finished weights are scored."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from lightning.fabric import Fabric
from optuna_mde_trainers.spec import LaunchSpec
from optuna_mde_trainers.training.checks import LaunchError
from optuna_mde_trainers.training.devices import scoring_device


def launch(accelerator: str, devices: int | list[int] = 1) -> LaunchSpec:
    return LaunchSpec(corpus_folder="corpus", accelerator=accelerator, devices=devices)  # type: ignore[arg-type]


@pytest.mark.parametrize("accelerator", ["auto", "cpu", "gpu", "cuda", "mps"])
def test_it_is_the_one_that_lightning_takes(accelerator: str) -> None:
    try:
        theirs = Fabric(accelerator=accelerator, devices=1).device
    except Exception:  # of several kinds: there is none
        with pytest.raises(LaunchError, match=f"launch.accelerator: {accelerator} is asked for"):
            scoring_device(launch(accelerator))
    else:
        assert scoring_device(launch(accelerator)) == theirs


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_of_a_list_the_first_is_taken_and_has_to_be_there() -> None:
    last = torch.cuda.device_count() - 1
    assert scoring_device(launch("cuda", [last, 0])) == torch.device("cuda", last)
    with pytest.raises(LaunchError, match=r"launch\.devices"):
        scoring_device(launch("cuda", [last + 1]))


def test_scoring_waits_for_no_import_of_lightning() -> None:
    code = (
        "import sys; import optuna_mde_trainers.training.devices, optuna_mde_trainers.run;"
        "import optuna_mde_trainers.rescoring, optuna_mde_trainers.scoring.sets;"
        "import optuna_mde_trainers.training.models, optuna_mde_trainers.training.weights;"
        "print(*(name for name in sys.modules if name.startswith('lightning')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
