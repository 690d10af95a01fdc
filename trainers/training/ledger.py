"""What a run cost: tokens, operations, seconds, memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from optuna_mde_trainers.spec import Ledger

if TYPE_CHECKING:
    from optuna_mde_trainers.spec import RunSpec
    from optuna_mde_trainers.training.fit import Fitted
    from optuna_mde_trainers.training.flops import Size


def ledger(
    spec: RunSpec, fitted: Fitted, size: Size, *, tokens: int, wall_seconds: float
) -> Ledger:
    """The cost of a finished run.

    Args:
        spec: The run.
        fitted: What its training left.
        size: Of its model.
        tokens: Training tokens.
        wall_seconds: From its start to the end of its training.
    """
    devices = spec.launch.world_size
    flops = float(size.exact * tokens)
    peak = peak_flops(fitted.device, spec.training.precision)
    seconds = fitted.seconds
    return Ledger(
        tokens=tokens,
        flops_6nd=float(size.rule * tokens),
        flops=flops,
        wall_seconds=wall_seconds,
        device_seconds=seconds * devices,
        peak_memory_bytes=fitted.peak_memory_bytes,
        devices=devices,
        device=device_name(fitted.device),
        tokens_per_second=tokens / seconds if seconds else None,
        mfu=flops / (seconds * devices * peak) if peak and seconds else None,
    )


def peak_flops(device: torch.device, precision: str) -> float | None:
    """FLOP/s that the device can do at most; None where that is not known, as for CPUs."""
    from lightning.fabric.utilities.throughput import get_available_flops

    if device.type != "cuda":
        return None
    return get_available_flops(
        device, torch.bfloat16 if precision == "bf16-mixed" else torch.float32
    )


def device_name(device: torch.device) -> str:
    """What people call the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
