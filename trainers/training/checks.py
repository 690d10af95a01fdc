"""What a run asks of this machine, looked at before a corpus is built or a step is trained.

Imports of torch and Lightning are paid for only by the fields that need them.
"""

from __future__ import annotations

import importlib
import inspect
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from optuna_mde_trainers.spec import RunError

if TYPE_CHECKING:
    from optuna_mde_trainers.spec import LaunchConfig, ModelConfig, TrainingConfig

# Packages of which each logger needs one.
LOGGER_PACKAGES = {
    "csv": (),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
}

# Arguments of the Trainer that other fields say, and those that would change what is trained.
SAID_BY = {
    "accelerator": "launch.accelerator",
    "devices": "launch.devices",
    "num_nodes": "launch.num_nodes",
    "strategy": "launch.strategy",
    "precision": "training.precision",
    "max_steps": "training.max_steps",
    "accumulate_grad_batches": "training.micro_batch_size",
    "gradient_clip_val": "training.gradient_clip_val",
    "logger": "launch.logger",
    "callbacks": "launch.callbacks",
    "enable_checkpointing": "launch.checkpoint_every_n_steps",
}
OURS = {
    *("max_epochs", "min_epochs", "min_steps", "max_time", "fast_dev_run", "overfit_batches"),
    *("limit_train_batches", "gradient_clip_algorithm", "default_root_dir", "plugins"),
    *("use_distributed_sampler", "num_sanity_val_steps", "reload_dataloaders_every_n_epochs"),
    *("barebones", "sync_batchnorm"),
}


class LaunchError(RunError):
    """A run cannot be launched as it is asked for; the message names the field and the mend."""


def check_launch(
    launch: LaunchConfig, training: TrainingConfig, model: ModelConfig, *, is_here: bool = True
) -> None:
    """Whether this machine can do what a run asks of it.

    Args:
        launch: How the run is launched.
        training: Its training.
        model: Its model.
        is_here: Whether this machine is the one, whose devices count.

    Raises:
        LaunchError: If it cannot.
    """
    _check_packages(launch, model)
    _check_share(launch, training)
    _check_trainer(launch)
    if is_here:
        _check_devices(launch)


def _check_packages(launch: LaunchConfig, model: ModelConfig) -> None:
    for name in launch.logger:
        packages = LOGGER_PACKAGES[name]
        if packages and not any(map(find_spec, packages)):
            raise LaunchError(
                f"launch.logger: {name} needs the package {packages[0]}, which is not installed: "
                f"pip install {packages[0]}, or leave the logger out"
            )
    for path, arguments in launch.callbacks:
        module = path.rpartition(".")[0]
        try:
            found = bool(module) and find_spec(module) is not None
        except ImportError:  # of a package above it
            found = False
        if not found:
            raise LaunchError(
                f"launch.callbacks: there is no module {module or path!r} to import "
                f"{path} from: write package.module.Class"
            )
        _check_callback(path, arguments)
    if model.pretrained_config is not None and find_spec("transformers") is None:
        raise LaunchError(
            "model.pretrained_config needs the package transformers, which is not installed: "
            'pip install "optuna-mde[hf]"'
        )


def _check_callback(path: str, arguments: dict[str, Any]) -> None:
    """Whether there is such a callback that takes these arguments; a run makes it later."""
    from lightning.pytorch import Callback

    module, _, name = path.rpartition(".")
    try:
        made_by = getattr(importlib.import_module(module), name)
        inspect.signature(made_by).bind(**arguments)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise LaunchError(f"launch.callbacks: {path}: {error}") from error
    if isinstance(made_by, type) and not issubclass(made_by, Callback):
        raise LaunchError(f"launch.callbacks: {path} is no Lightning Callback")


def _check_share(launch: LaunchConfig, training: TrainingConfig) -> None:
    world_size = launch.world_size
    share, rest = divmod(training.global_batch_size, world_size)
    if rest:
        raise LaunchError(
            f"launch.devices: {world_size} devices cannot share training.global_batch_size "
            f"{training.global_batch_size}: make it a multiple of {world_size}"
        )
    if share % micro_batch_size(training, world_size):
        raise LaunchError(
            f"training.micro_batch_size: {share} sequences a step on each of {world_size} devices "
            f"are no multiple of {training.micro_batch_size}"
        )


def micro_batch_size(training: TrainingConfig, world_size: int) -> int:
    """Sequences of a forward pass on one of the devices."""
    share = training.global_batch_size // world_size
    return min(training.micro_batches, share)


def _check_trainer(launch: LaunchConfig) -> None:
    if not launch.trainer:
        return
    from lightning.pytorch import Trainer

    known = inspect.signature(Trainer).parameters
    for name in launch.trainer:
        if name in SAID_BY:
            raise LaunchError(f"launch.trainer.{name}: {SAID_BY[name]} says it")
        if name in OURS:
            raise LaunchError(
                f"launch.trainer.{name}: a run sets it itself, so that it is what its spec says"
            )
        if name not in known:
            import lightning

            raise LaunchError(
                f"launch.trainer.{name}: the Trainer of lightning {lightning.__version__} has no "
                f"such argument; it has {', '.join(n for n in known if n not in SAID_BY)}"
            )


def _check_devices(launch: LaunchConfig) -> None:
    wanted = launch.devices_per_node
    if launch.strategy not in (None, "ddp", "fsdp"):
        from lightning.pytorch.strategies import StrategyRegistry

        if launch.strategy not in StrategyRegistry.available_strategies():
            raise LaunchError(
                f"launch.strategy: Lightning knows no {launch.strategy!r}; it knows "
                f"{', '.join(StrategyRegistry.available_strategies())}"
            )
    if launch.accelerator == "cpu" or (launch.accelerator == "auto" and wanted == 1):
        if launch.strategy == "fsdp" and launch.accelerator == "cpu":
            raise LaunchError("launch.strategy: fsdp shards over GPUs; on CPUs, use ddp")
        return
    import torch

    cuda, mps = torch.cuda.device_count(), int(torch.backends.mps.is_available())
    found = {"cuda": cuda, "mps": mps, "gpu": cuda or mps}.get(launch.accelerator, cuda or mps)
    if launch.accelerator == "auto" and not found:
        return  # processes of the CPU
    highest = max(launch.devices) + 1 if isinstance(launch.devices, list) else wanted
    if not found:
        raise LaunchError(
            f"launch.accelerator: {launch.accelerator} is asked for, and torch "
            f"{torch.__version__} finds none here: use cpu or auto, or install a torch that knows "
            "the device"
        )
    if highest > found:
        raise LaunchError(
            f"launch.devices: {launch.devices} asked for, and this machine has {found}"
        )
