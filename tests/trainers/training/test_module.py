from __future__ import annotations

import itertools
import math

import pytest
import torch
from optuna_mde_trainers.spec import ModelConfig, OptimizerConfig
from optuna_mde_trainers.training.models import build
from optuna_mde_trainers.training.module import LanguageModel
from optuna_mde_trainers.training.optimizer import learning_rate_factor, warmup_steps


def test_the_learning_rate_rises_and_falls_to_zero_after_the_last_step() -> None:
    settings = OptimizerConfig(warmup_ratio=0.1, lr_scheduler_type="cosine")
    factors = [learning_rate_factor(step, 100, settings) for step in range(101)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0)
    assert all(later < earlier for earlier, later in itertools.pairwise(factors[10:]))


@pytest.mark.parametrize(
    ("kind", "half"), [("cosine", 0.5 * (1 + math.cos(math.pi / 2))), ("linear", 0.5)]
)
def test_schedules_half_way(kind: str, half: float) -> None:
    settings = OptimizerConfig.model_validate({"lr_scheduler_type": kind, "warmup_ratio": 0})
    assert learning_rate_factor(0, 10, settings) == 1
    assert learning_rate_factor(5, 10, settings) == pytest.approx(half)


def test_a_constant_learning_rate_stays() -> None:
    settings = OptimizerConfig(lr_scheduler_type="constant", warmup_steps=2)
    assert [learning_rate_factor(step, 5, settings) for step in range(5)] == [0.5, 1, 1, 1, 1]


def test_warmup_steps_count_before_their_ratio() -> None:
    assert warmup_steps(180, OptimizerConfig(warmup_ratio=0.1)) == 18
    assert warmup_steps(180, OptimizerConfig(warmup_ratio=0.1, warmup_steps=0)) == 0
    everything = OptimizerConfig(warmup_ratio=1)
    assert learning_rate_factor(9, 10, everything) == 1


def test_gains_are_not_decayed_and_every_weight_has_its_group() -> None:
    model = build(ModelConfig(), vocab_size=64, max_positions=8, seed=0)
    module = LanguageModel(model, OptimizerConfig(weight_decay=0.2), max_steps=4)
    groups = module.configure_optimizers()["optimizer"].param_groups
    decay = {id(w): group["weight_decay"] for group in groups for w in group["params"]}
    assert len(decay) == len(list(model.parameters()))
    for name, weight in model.named_parameters():
        assert decay[id(weight)] == (0 if "norm" in name else 0.2)


def test_the_final_train_loss_is_that_of_the_last_tenth() -> None:
    model = build(ModelConfig(), vocab_size=64, max_positions=8, seed=0)
    module = LanguageModel(model, OptimizerConfig(), max_steps=25)
    module.train_losses.copy_(torch.arange(25.0))
    assert module.final_train_loss() == pytest.approx(23)  # of 22, 23, 24
