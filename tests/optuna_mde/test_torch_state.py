"""A caller's torch modes."""

from __future__ import annotations

import pytest
import torch

from optuna_mde.torch_state import gradients, on_cpu


@pytest.mark.parametrize("default", ["cpu", "meta"])
def test_new_tensors_are_on_the_cpu_whatever_the_default_device(default: str) -> None:
    with torch.device(default):
        with on_cpu():
            assert torch.zeros(1).device.type == "cpu"
        assert torch.zeros(1).device.type == default


def test_gradients_flow_inside_a_callers_inference_mode() -> None:
    with torch.inference_mode(), gradients():
        x = torch.ones(2, requires_grad=True)
        (slope,) = torch.autograd.grad(x.square().sum(), x)
    torch.testing.assert_close(slope, torch.full((2,), 2.0))
