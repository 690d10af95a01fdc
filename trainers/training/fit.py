"""Lightning's Trainer as a run needs it: lean, quiet, and resumed exactly where it stopped."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from optuna_mde_trainers.spec import CHECKPOINT_FILE, LaunchSpec, RunSpec
from optuna_mde_trainers.training.data import BlockDataModule
from optuna_mde_trainers.training.module import LOG_EVERY_N_STEPS, LanguageModel

OnStep = Callable[[int, int], None]
"""Called after every step with the steps done and the steps of the run."""


class Keeper(Callback):
    """Writes the checkpoint, keeps the run's clock, and tells who watches."""

    def __init__(self, checkpoint: Path, every_n_steps: int, on_step: OnStep | None) -> None:
        self.checkpoint = checkpoint
        self.every_n_steps = every_n_steps
        self.on_step = on_step
        self._earlier_seconds = 0.0
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Wall seconds of the steps so far, those before the checkpoint included."""
        return self._earlier_seconds + time.monotonic() - self._started

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        step = trainer.global_step
        if self.on_step is not None:
            self.on_step(step, trainer.max_steps)
        due = step % self.every_n_steps == 0 or trainer.received_sigterm  # Lightning then stops
        if due and step < trainer.max_steps:
            self._save(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._earlier_seconds = state_dict["seconds"]

    def _save(self, trainer: Trainer) -> None:
        # Lightning's own transaction moves a file from the temporary directory, which is a copy
        # where that is another disk: a kill in the middle would leave half a checkpoint.
        beside = self.checkpoint.with_suffix(".part")
        trainer.save_checkpoint(beside)
        os.replace(beside, self.checkpoint)


def fit(
    module: LanguageModel,
    data: BlockDataModule,
    spec: RunSpec,
    folder: Path,
    on_step: OnStep | None = None,
) -> float:
    """Train, from the folder's checkpoint if it has one.

    Returns:
        Wall seconds of the steps.

    Raises:
        DivergedError: If the loss is no longer a number.
        DataMismatchError: If the checkpoint was made with other data.
        KeyboardInterrupt: If the user wants to stop.
        SystemExit: On SIGTERM, after a checkpoint.
    """
    checkpoint = folder / CHECKPOINT_FILE
    keeper = Keeper(checkpoint, spec.launch.checkpoint_every_n_steps, on_step)
    training = spec.training
    with quiet_lightning():
        trainer = Trainer(
            accelerator=spec.launch.accelerator,
            devices=spec.launch.devices,
            precision=training.precision,
            max_steps=training.max_steps,
            max_epochs=-1,
            accumulate_grad_batches=training.global_batch_size // training.micro_batches,
            gradient_clip_val=training.gradient_clip_val or None,
            callbacks=[keeper],
            logger=_logger(spec.launch, folder),
            log_every_n_steps=LOG_EVERY_N_STEPS,
            default_root_dir=folder,
            enable_checkpointing=False,  # the keeper's
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            # A run is one process, also where Slurm's variables are set.
            plugins=[LightningEnvironment()],
        )
        try:
            trainer.fit(
                module,
                datamodule=data,
                ckpt_path=checkpoint if checkpoint.exists() else None,
                weights_only=True,
            )
        except SystemExit as error:
            if isinstance(error.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise
    return keeper.seconds


def scoring_device(launch: LaunchSpec) -> torch.device:
    """The device that the run's accelerator stands for."""
    with quiet_lightning():
        return Fabric(
            accelerator=launch.accelerator,
            devices=launch.devices,
            plugins=[LightningEnvironment()],
        ).device


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without Lightning's notes on devices, and its advice that small runs do not need."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in (".*does not have many workers.*", ".*LeafSpec.* is deprecated.*"):
            warnings.filterwarnings("ignore", message=message)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _logger(launch: LaunchSpec, folder: Path) -> Logger | bool:
    if launch.logger == "csv":
        return CSVLogger(folder, name="log")
    if launch.logger == "tensorboard":
        return TensorBoardLogger(folder, name="log")
    return False
