"""Which launcher a definition asks for."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from optuna_mde_studies.runner.launchers.local import (
    CommandLauncher,
    InProcessLauncher,
    SubprocessLauncher,
)

if TYPE_CHECKING:
    from optuna_mde_studies.definition.config import WorkersConfig
    from optuna_mde_studies.runner.launchers.contract import Launcher


def launcher(launch: WorkersConfig) -> Launcher:
    """The launcher that a definition asks for."""
    seconds = None if launch.time_limit is None else 60 * launch.time_limit
    if launch.command is not None:
        return CommandLauncher(tuple(shlex.split(launch.command)), seconds)
    if launch.launcher == "subprocess":
        return SubprocessLauncher(seconds)
    return InProcessLauncher()
