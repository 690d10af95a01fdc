"""The device that finished weights are scored on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from optuna_mde_trainers.training.checks import LaunchError

if TYPE_CHECKING:
    from optuna_mde_trainers.spec import LaunchSpec


def scoring_device(launch: LaunchSpec) -> torch.device:
    """The device that the run's accelerator stands for; of several, the first.

    The one that Lightning would choose, whose import takes longer than a small run is scored.

    Raises:
        LaunchError: If this machine has none.
    """
    number = launch.devices[0] if isinstance(launch.devices, list) else 0
    asked = launch.accelerator
    if asked in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return torch.device("mps", 0)
    if asked in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        if number >= torch.cuda.device_count():
            raise LaunchError(
                f"launch.devices: {launch.devices} asked for, and this machine has "
                f"{torch.cuda.device_count()}"
            )
        return torch.device("cuda", number)
    if asked not in ("auto", "cpu"):
        raise LaunchError(
            f"launch.accelerator: {asked} is asked for, and torch {torch.__version__} finds none "
            "here: use cpu or auto, or install a torch that knows the device"
        )
    return torch.device("cpu")
