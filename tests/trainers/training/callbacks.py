"""Lightning callbacks that specs of the tests name by import path."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class FailsOnRankOne(Callback):
    """What a device without memory does."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_rank == 1 and batch_idx == 2:
            raise RuntimeError("no room on the second device")


class CountsSteps(Callback):
    """Writes the number of steps that it has seen."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.file.write_text(str(trainer.global_step))


class Terminates(Callback):
    """Sends SIGTERM to its own process after the first step."""

    def on_train_batch_end(self, *args: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
