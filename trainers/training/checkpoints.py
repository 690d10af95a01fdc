"""Checkpoints: when they are written, that they are whole, and that any number of ranks goes on
from them."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from optuna_mde_trainers.spec import UNUSABLE_FILE, CheckpointWarning
from torch import Tensor

if TYPE_CHECKING:
    from optuna_mde_trainers.training.net import LanguageNet

OnStep = Callable[[int, int], None]
"""Called after every step with the steps done and the steps of the run."""

# Slurm sends it ahead of a time limit (sbatch --signal=USR1@120): a checkpoint, and on.
SAVE_SIGNAL = getattr(signal, "SIGUSR1", None)

VERSION_KEY = "optuna_mde_version"
# Raised whenever a checkpoint holds something else than before; those without a number are of 1.
CHECKPOINT_VERSION = 1


@dataclass(frozen=True)
class Pauses:
    """What is done between two steps, by all ranks; the time that it takes is not the run's."""

    steps: frozenset[int]
    """Steps after which it is done."""
    act: Callable[[LanguageNet, int], None]
    """Called with the model and the steps done."""


class Keeper(Callback):
    """Writes the checkpoint, keeps the run's clock, and tells who watches.

    A checkpoint is due at every n-th step, when so many minutes have passed, on SIGTERM (after
    which the run ends) and on SIGUSR1. Ranks agree on it after every step.

    Args:
        checkpoint: Its file.
        every_n_steps: Steps between two.
        every_minutes: Minutes between two, if they are counted too.
        on_step: Who watches.
        pauses: What is done on the way; before a checkpoint of the same step, so that a run that
            goes on from it has done that.
    """

    def __init__(
        self,
        checkpoint: Path,
        every_n_steps: int,
        every_minutes: float | None = None,
        on_step: OnStep | None = None,
        pauses: Pauses | None = None,
    ) -> None:
        self.pauses = pauses
        self.checkpoint = checkpoint
        self.every_n_steps = every_n_steps
        self.every_seconds = None if every_minutes is None else 60 * every_minutes
        self.on_step = on_step
        self.earlier_seconds = 0.0
        self._started = self._saved = time.monotonic()
        self._asked: set[int] = set()
        self.peak_memory_bytes: int | None = None
        self.weights: dict[str, Tensor] | None = None

    @property
    def seconds(self) -> float:
        """Wall seconds of the steps so far, those before the checkpoint included."""
        return self.earlier_seconds + time.monotonic() - self._started

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # After Lightning, whose own handler would speak with the other ranks from wherever this
        # one happens to be. It puts back all handlers at the end.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, SAVE_SIGNAL):
                if number is not None:
                    signal.signal(number, self._note)
        self._started = self._saved = time.monotonic()

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
        if self.pauses is not None and step in self.pauses.steps:
            self._pause(cast("LanguageNet", pl_module.model), step, self.pauses)
        ends, due = self._agreed(trainer)
        if (due or ends or step % self.every_n_steps == 0) and step < trainer.max_steps:
            self._save(trainer)
        if ends:
            raise SIGTERMException

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.peak_memory_bytes = _peak_memory(trainer)
        if not isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
            self.weights = trainer.strategy.lightning_module_state_dict()

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.earlier_seconds = state_dict["seconds"]

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[VERSION_KEY] = CHECKPOINT_VERSION

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # Lightning counts forward passes, of which a step has more or fewer on other ranks.
        passes = checkpoint["global_step"] * trainer.accumulate_grad_batches
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            # Saved at the end of a pass, before it counts as completed.
            counts.update(ready=passes, started=passes, processed=passes, completed=passes - 1)

    def _pause(self, model: LanguageNet, step: int, pauses: Pauses) -> None:
        began = time.monotonic()
        # Other shapes than those of the steps: each of them would be compiled anew.
        compiled, model.backbone._compiled_call_impl = model.backbone._compiled_call_impl, None
        try:
            pauses.act(model, step)
        finally:
            model.backbone._compiled_call_impl = compiled
        self._started += time.monotonic() - began

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked.add(number)

    def _agreed(self, trainer: Trainer) -> tuple[bool, bool]:
        """Whether the run is to end, and whether a checkpoint is due: the same on all ranks."""
        late = (
            self.every_seconds is not None and time.monotonic() - self._saved > self.every_seconds
        )
        ends, due = signal.SIGTERM in self._asked, SAVE_SIGNAL in self._asked or late
        if trainer.world_size > 1:
            said = torch.tensor(
                [ends, due], dtype=torch.int32, device=trainer.strategy.root_device
            )
            said = trainer.strategy.reduce(said, reduce_op="max")
            ends, due = (bool(answer) for answer in said.tolist())
        return ends, due

    def _save(self, trainer: Trainer) -> None:
        # Lightning's own transaction moves a file from the temporary directory, which is a copy
        # where that is another disk: a kill in the middle would leave half a checkpoint.
        beside = self.checkpoint.with_suffix(".part")
        trainer.save_checkpoint(beside)  # by all ranks together
        if trainer.is_global_zero:
            with beside.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(beside, self.checkpoint)
        self._asked.discard(SAVE_SIGNAL or 0)
        self._saved = time.monotonic()


# What Lightning and we ask of a checkpoint.
_PARTS = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "train_losses")


def make_way(path: Path, module: LightningModule, fingerprint: str) -> None:
    """Set a checkpoint aside that a run cannot go on from, with a warning; the run begins afresh.

    Nothing in the file is executed: whoever wrote it may be somebody else.

    Args:
        path: The file; some strategies make a folder, which they look at themselves.
        module: What is to go on.
        fingerprint: Of the data that it is trained on.
    """
    if not path.is_file():
        return
    try:
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        fault = _fault(held, module, fingerprint)
    except pickle.UnpicklingError:
        fault = "it holds more than numbers, or is damaged"
    except Exception as error:  # of torch, of zip, of whatever a damaged file is taken for
        fault = f"it is damaged: {' '.join(str(error).split())[:100]}"
    if fault:
        os.replace(path, path.with_name(UNUSABLE_FILE))
        warnings.warn(CheckpointWarning(path.parent, fault), stacklevel=2)


def _fault(held: dict[str, Any], module: LightningModule, fingerprint: str) -> str:
    """Why a run cannot go on from a checkpoint; empty if it can."""
    version = held.get(VERSION_KEY, 1)
    if version != CHECKPOINT_VERSION:
        return (
            f"another version of optuna-mde wrote it, in format {version}, and this one reads "
            f"format {CHECKPOINT_VERSION}"
        )
    if missing := [part for part in _PARTS if part not in held]:
        return f"it has no {', '.join(missing)}: another version wrote it"
    shapes = {name: tuple(value.shape) for name, value in held["state_dict"].items()}
    ours = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    if not isinstance(held.get("global_step"), int) or shapes != ours:
        return "it is of another model"
    loop = held["loops"].get("fit_loop", {})
    loaders = loop.get("state_dict", {}).get("combined_loader")
    if loaders is None or "epoch_loop.batch_progress" not in loop:
        return f"Lightning {held.get('pytorch-lightning_version')} wrote it, in another form"
    if [loader["fingerprint"] for loader in loaders] != [fingerprint]:
        return "it is of other data"
    return ""


def _peak_memory(trainer: Trainer) -> int | None:
    """Largest memory of a device, over all ranks; that of this process on a CPU."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        peak = torch.tensor(torch.cuda.max_memory_allocated(device), device=device)
        return int(trainer.strategy.reduce(peak, reduce_op="max"))
    if device.type == "cpu" and sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return None
