"""The loggers of a run: in each of them a run of its own, with the losses of its sets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from optuna_mde_trainers.spec import LaunchConfig, RunResult, RunSpec
from optuna_mde_trainers.training.checks import LaunchError

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger, WandbLogger

MLFLOW_LOCK = ".mlflow.lock"
"""Among the runs: MLflow's tables, and a study's experiment, are made by one process."""

_open: list[WandbLogger] = []
"""Those whose run of W&B has not ended: a logger made later would write into it."""


def loggers(launch: LaunchConfig, folder: Path) -> list[Logger]:
    """The loggers of a run, into its folder.

    Raises:
        LaunchError: If one cannot be made as it is described.
    """
    _end_open(1)  # of a run that has failed
    return [_logger(name, dict(options), folder) for name, options in launch.logger.items()]


def conclude(made: Sequence[Logger], spec: RunSpec, result: RunResult) -> None:
    """Log the mixture of a run and the losses of its sets, and end it in each logger."""
    from lightning.pytorch.loggers import TensorBoardLogger

    training = spec.training
    known = {f"mixture/{name}": rate for name, rate in training.mixture.items()}
    known |= {"seed": training.seed, "max_steps": training.max_steps}
    losses = {f"loss/{name}": loss for name, loss in result.losses.items()}
    for logger in made:
        if isinstance(logger, TensorBoardLogger):
            # Its file is closed; one that is begun in the same second would take its place.
            more = {"version": logger.version, "filename_suffix": ".losses"}
            options = {**spec.launch.logger["tensorboard"], **more}
            again = TensorBoardLogger(logger.save_dir, **{"name": logger.name, **options})
            again.log_hyperparams(
                known, losses, step=training.max_steps
            )  # makes its table of runs
            again.finalize("success")
        else:
            logger.log_hyperparams(known)
            logger.log_metrics(losses, step=training.max_steps)
            logger.finalize("success")
    _end_open(0)


def _logger(name: str, options: dict[str, Any], folder: Path) -> Logger:
    from lightning.pytorch import loggers as known

    try:
        if name == "csv":
            return known.CSVLogger(folder, **{"name": "log", **options})
        if name == "tensorboard":
            return known.TensorBoardLogger(folder, **{"name": "log", **options})
        if name == "wandb":
            _open.append(known.WandbLogger(**{"save_dir": folder, "name": folder.name, **options}))
            return _open[-1]
        uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{folder.resolve() / 'mlflow.db'}")
        made = known.MLFlowLogger(**{"tracking_uri": uri, "run_name": folder.name, **options})
        with FileLock(folder.parent / MLFLOW_LOCK):
            _ = made.run_id
        return made
    except (TypeError, ModuleNotFoundError) as error:
        raise LaunchError(f"launch.logger.{name}: {error}") from error


def _end_open(exit_code: int) -> None:
    while _open:
        logger = _open.pop()
        if logger._experiment is not None:  # asking for it would begin one
            logger.experiment.finish(exit_code=exit_code)
