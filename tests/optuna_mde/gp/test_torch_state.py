"""A caller's torch modes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from optuna_mde import predict, recommend, suggest_mixture
from optuna_mde.gp.torch_state import gradients
from tests.optuna_mde.toy import DOMAINS, Toy, quietly, study_of

pytestmark = quietly

Mode = Callable[[], AbstractContextManager[Any]]
MODES: dict[str, Mode] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "default device": lambda: torch.device("meta"),
}


def modes_now() -> tuple[bool, bool, torch.device]:
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_device()


def told(folder: Path, n_trials: int) -> optuna.Study:
    """A study whose experts' files no other study has read."""
    folder.mkdir()
    study = study_of()
    study.optimize(Toy(folder), n_trials=n_trials)
    return study


@pytest.mark.parametrize("default", ["cpu", "meta"])
def test_new_tensors_are_on_the_cpu_whatever_the_default_device(default: str) -> None:
    with torch.device(default):
        with gradients():
            assert torch.zeros(1).device.type == "cpu"
        assert torch.zeros(1).device.type == default


def test_gradients_flow_inside_a_callers_inference_mode() -> None:
    with torch.inference_mode(), gradients():
        x = torch.ones(2, requires_grad=True)
        (slope,) = torch.autograd.grad(x.square().sum(), x)
    torch.testing.assert_close(slope, torch.full((2,), 2.0))


@pytest.mark.parametrize("mode", MODES)
def test_a_callers_modes_change_no_proposal(mode: str, tmp_path: Path) -> None:
    def proposed(folder: Path, around: Mode) -> dict[str, Any]:
        trial = told(folder, 4).ask()
        with around():
            before = modes_now()
            suggest_mixture(trial, DOMAINS)
            assert modes_now() == before
        assert trial.user_attrs["phase"] == "model"
        return trial.params

    assert proposed(tmp_path / "a", MODES[mode]) == proposed(tmp_path / "b", nullcontext)


@pytest.mark.parametrize("mode", MODES)
def test_a_callers_modes_change_no_figure(mode: str, tmp_path: Path) -> None:
    def figures(folder: Path, around: Mode) -> tuple[str, list[float]]:
        study = told(folder, 4)
        with around():
            before = modes_now()
            found = str(recommend(study)), predict(study, dict.fromkeys(DOMAINS, 1 / 3)).mean
            assert modes_now() == before
        return found[0], found[1].tolist()

    assert figures(tmp_path / "a", MODES[mode]) == figures(tmp_path / "b", nullcontext)
