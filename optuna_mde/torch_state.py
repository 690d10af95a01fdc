"""Torch's global modes: a caller may have set any, the model needs ordinary ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def gradients() -> Iterator[None]:
    """Compute on the CPU with gradients, also inside a caller's `no_grad` or `inference_mode`."""
    import torch

    with torch.inference_mode(False), torch.enable_grad(), torch.device("cpu"):
        yield
