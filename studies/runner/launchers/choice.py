"""Which launcher a definition asks for, and what it needs of this machine and others."""

from __future__ import annotations

import shlex
from contextlib import suppress
from typing import TYPE_CHECKING

from optuna_mde_studies.runner.launchers.local import (
    CommandLauncher,
    InProcessLauncher,
    SubprocessLauncher,
    under_torchrun,
)
from optuna_mde_studies.runner.launchers.on_ray import OnRay
from optuna_mde_studies.runner.launchers.on_slurm import OnSlurm
from optuna_mde_studies.runner.launchers.processes import Here

if TYPE_CHECKING:
    from optuna_mde_studies.definition.config import WorkersConfig
    from optuna_mde_studies.runner.launchers.contract import Launcher


def launcher(launch: WorkersConfig) -> Launcher:
    """The launcher that a definition asks for."""
    place = _place(launch)
    if launch.command is not None:
        return CommandLauncher(tuple(shlex.split(launch.command)), place)
    if launch.launcher == "in_process":
        return InProcessLauncher()
    if launch.launcher == "torchrun":
        return SubprocessLauncher(place, under_torchrun(launch.devices_per_node))
    return SubprocessLauncher(place)


def missing(launch: WorkersConfig) -> str:
    """What a definition's launcher lacks, with its field and the mend; empty if nothing."""
    place = _place(launch)
    return "" if isinstance(place, Here) else place.missing(launch)


def capacity(launch: WorkersConfig) -> int | None:
    """Runs that other machines hold side by side; None: where it cannot be known."""
    place = _place(launch)
    if isinstance(place, OnRay):
        with suppress(ImportError, ConnectionError):  # `missing` says it
            return place.capacity(launch)
    return None


def _place(launch: WorkersConfig) -> Here | OnSlurm | OnRay:
    seconds = None if launch.time_limit is None else 60 * launch.time_limit
    if launch.launcher == "slurm":
        return OnSlurm(launch.slurm or {}, seconds, ranks_by_srun=launch.command is None)
    if launch.launcher == "ray":
        return OnRay(launch.ray or "auto", seconds)
    return Here(seconds)
