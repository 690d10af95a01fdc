"""Lightning's Trainer as a spec asks for it: its arguments, strategy and callbacks."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna_mde_trainers.spec import LaunchConfig, RunSpec
from optuna_mde_trainers.training.checks import LaunchError
from optuna_mde_trainers.training.logs import loggers
from optuna_mde_trainers.training.ranks import Rank, environment_of

if TYPE_CHECKING:
    from lightning.pytorch import Callback
    from lightning.pytorch.strategies import Strategy
    from torch import nn

LOG_EVERY_N_STEPS = 10


def trainer_arguments(spec: RunSpec, folder: Path, rank: Rank, model: nn.Module) -> dict[str, Any]:
    """Arguments of Lightning's Trainer, callbacks and accumulation left out.

    Raises:
        LaunchError: If a logger or callback cannot be made as it is described.
    """
    training, launch = spec.training, spec.launch
    lean = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": LOG_EVERY_N_STEPS,
    }
    return {
        **lean,
        **launch.trainer,
        "accelerator": launch.accelerator,
        "devices": launch.devices,
        "num_nodes": launch.num_nodes,
        "strategy": strategy(launch, rank, model),
        "precision": training.precision,
        "max_steps": training.max_steps,
        "max_epochs": -1,
        "gradient_clip_val": training.gradient_clip_val or None,
        "logger": (rank.writes and loggers(launch, folder)) or False,
        "default_root_dir": folder,
        "enable_checkpointing": False,  # the keeper's
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "plugins": [environment_of(rank)],
    }


def strategy(launch: LaunchConfig, rank: Rank, model: nn.Module) -> Strategy | str:
    """How the ranks share the work."""
    name = launch.strategy
    if rank.world_size == 1 and name in (None, "ddp"):
        return "auto"
    if name in (None, "ddp"):
        from lightning.pytorch.strategies import DDPStrategy

        return DDPStrategy(gradient_as_bucket_view=True, **_without_buffers())
    if name == "fsdp":
        from lightning.pytorch.strategies import FSDPStrategy

        layers = layer_classes(model)
        return FSDPStrategy(auto_wrap_policy=layers, state_dict_type="full")
    assert name is not None
    return name


def _without_buffers() -> dict[str, Any]:
    """Arguments of DDP with which no buffer, all of them constants, is sent before each pass."""
    from torch.nn.parallel import DistributedDataParallel

    known = inspect.signature(DistributedDataParallel).parameters
    newer = "forward_sync_buffers" in known
    return {"forward_sync_buffers" if newer else "broadcast_buffers": False}


def layer_classes(model: nn.Module) -> set[type[nn.Module]]:
    """The classes of a model's layers, which are sharded one by one."""
    from optuna_mde_trainers.training.decoder import Layer

    names = getattr(getattr(model, "net", None), "_no_split_modules", None) or ()
    named = {type(module) for module in model.modules() if type(module).__name__ in names}
    return named or {Layer}


def callbacks(launch: LaunchConfig) -> list[Callback]:
    """The callbacks that a spec names by their import path.

    Raises:
        LaunchError: If one cannot be imported or made.
    """
    return [_callback(path, options) for path, options in launch.callbacks]


def _callback(path: str, options: dict[str, Any]) -> Callback:
    from lightning.pytorch import Callback

    module, _, name = path.rpartition(".")
    try:
        made = getattr(importlib.import_module(module), name)(**options)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise LaunchError(f"launch.callbacks: {path}: {error}") from error
    if not isinstance(made, Callback):
        raise LaunchError(f"launch.callbacks: {path} is no Lightning Callback")
    return made
