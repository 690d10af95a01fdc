"""Training with Lightning's Trainer: lean, quiet, and resumed exactly where it stopped."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from optuna_mde_trainers.spec import CHECKPOINT_FILE, RunSpec
from optuna_mde_trainers.training.checkpoints import Keeper, OnStep, Pauses, make_way
from optuna_mde_trainers.training.checks import LaunchError
from optuna_mde_trainers.training.data import BlockDataModule
from optuna_mde_trainers.training.launching import callbacks, trainer_arguments
from optuna_mde_trainers.training.module import LanguageModel
from optuna_mde_trainers.training.ranks import Rank, told_by_rank_zero

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger
    from torch import Tensor


@dataclass(frozen=True)
class Fitted:
    """What is known when the last step is done."""

    seconds: float
    """Wall seconds of the steps, those of earlier attempts up to their checkpoint included."""
    earlier_seconds: float
    """Those of earlier attempts among them."""
    peak_memory_bytes: int | None
    """Largest memory of a device of this node, or of this process where that is the CPU."""
    device: torch.device
    """Where this rank trained."""
    weights: dict[str, Tensor] | None
    """Of a sharded model, put together on rank 0; None where the module has them all."""
    loggers: list[Logger]
    """On rank 0, for the scores."""


def fit(
    module: LanguageModel,
    data: BlockDataModule,
    spec: RunSpec,
    folder: Path,
    on_step: OnStep | None = None,
    *,
    rank: Rank | None = None,
    pauses: Pauses | None = None,
) -> Fitted:
    """Train, from the folder's checkpoint if it has one that can be used. All ranks together.

    Raises:
        DivergedError: If the loss is no longer a number, or far above where it began.
        LaunchError: If Lightning refuses an argument.
        KeyboardInterrupt: If the user wants to stop.
        SystemExit: On SIGTERM, after a checkpoint.
    """
    rank = rank or Rank()
    launch = spec.launch
    checkpoint = folder / CHECKPOINT_FILE
    keeper = Keeper(
        checkpoint,
        launch.checkpoint_every_n_steps,
        launch.checkpoint_every_n_minutes,
        on_step if rank.writes else None,
        pauses,
    )
    if rank.writes:
        make_way(checkpoint, module, data.fingerprint)
    told_by_rank_zero(rank, None)  # now the others may look whether there is one
    if launch.activation_checkpointing:
        module.model.recompute_activations()
    with quiet_lightning(), _compiled(module, launch.compile), _generators(module):
        try:
            trainer = Trainer(
                **trainer_arguments(spec, folder, rank, module.model),
                accumulate_grad_batches=data.passes_per_step(rank.world_size),
                callbacks=[keeper, *callbacks(launch)],
            )
        except (MisconfigurationException, ValueError, TypeError) as error:
            raise LaunchError(f"launch: {error}") from error
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
    return Fitted(
        seconds=keeper.seconds,
        earlier_seconds=keeper.earlier_seconds,
        peak_memory_bytes=keeper.peak_memory_bytes,
        device=trainer.strategy.root_device,
        weights=keeper.weights,
        loggers=trainer.loggers,
    )


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without Lightning's notes on devices, and its advice that small runs do not need."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in (
            ".*does not have many workers.*",
            ".*LeafSpec.* is deprecated.*",
            ".*srun. command is available.*",
            ".*smaller than the logging interval.*",
        ):
            warnings.filterwarnings("ignore", message=message)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def _compiled(module: LanguageModel, wanted: bool) -> Iterator[None]:
    """Compiled while it trains: scoring has other shapes, each of which would be compiled anew."""
    backbone = module.model.backbone
    if wanted:
        backbone.compile()
    try:
        yield
    finally:
        backbone._compiled_call_impl = None


def _generators(module: LanguageModel) -> AbstractContextManager[None]:
    """Torch's generators kept as they were, where a step seeds them."""
    return torch.random.fork_rng() if module.model.draws_at_random else nullcontext()
