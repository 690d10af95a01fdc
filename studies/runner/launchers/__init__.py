"""How and where a run is started: in this process, in one of its own, or on another machine; by
our trainer or a command of the user's.

This is the one place that knows it. A launcher gets a spec and gives what came of the run; between
them stands the run's folder, with `spec.json` and `result.json`.
"""

from optuna_mde_studies.runner.launchers.choice import capacity, launcher, missing
from optuna_mde_studies.runner.launchers.contract import Launcher, OnStep, RunFailedError
from optuna_mde_studies.runner.launchers.folders import PLACES

__all__ = ["PLACES", "Launcher", "OnStep", "RunFailedError", "capacity", "launcher", "missing"]
