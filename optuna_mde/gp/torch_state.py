"""Torch's global modes: a caller may have set any, the model needs ordinary ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any


@contextlib.contextmanager
def gradients() -> Iterator[None]:
    """Compute on the CPU with gradients, whatever modes a caller has set.

    Asks, `predict` and `recommend` enter it once, and nothing below them sets a mode again.
    """
    import torch

    with torch.inference_mode(False), torch.enable_grad(), _on_cpu():
        yield


def _on_cpu() -> AbstractContextManager[Any]:
    """New tensors on the CPU.

    Where that is a caller's default already nothing is set: torch then runs a Python function
    around each of its own, a quarter of the time of a fit to 20 runs.
    """
    import torch

    ours = torch.device("cpu")
    return contextlib.nullcontext() if torch.get_default_device() == ours else ours
