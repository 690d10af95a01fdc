from __future__ import annotations

import itertools
import math

import pytest
import torch
from optuna_mde_trainers.spec import DivergedError, ModelConfig, OptimizerConfig, TrainingSpec
from optuna_mde_trainers.training.models import build
from optuna_mde_trainers.training.module import CURVE_POINTS, LanguageModel
from optuna_mde_trainers.training.optimizer import adamw, learning_rate_factor, warmup_steps


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


@pytest.mark.parametrize("steps", [7, CURVE_POINTS, 3 * CURVE_POINTS + 1])
def test_the_curve_of_the_training_loss_is_of_all_steps(steps: int) -> None:
    model = build(ModelConfig(), vocab_size=64, max_positions=8, seed=0)
    module = LanguageModel(model, OptimizerConfig(), max_steps=steps)
    module.train_losses.copy_(torch.rand(steps))
    ends, losses = map(list, zip(*module.train_curve(), strict=True))
    assert len(ends) == min(steps, CURVE_POINTS)
    assert ends[-1] == steps
    spans = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    assert max(spans) - min(spans) <= 1
    for end, span, loss in zip(ends, spans, losses, strict=True):
        assert loss == pytest.approx(float(module.train_losses[end - span : end].mean()))


def test_a_rate_is_held_and_then_falls_to_zero() -> None:
    settings = OptimizerConfig(
        lr_scheduler_type="warmup_stable_decay", warmup_steps=2, decay_ratio=0.4
    )
    factors = [learning_rate_factor(step, 10, settings) for step in range(11)]
    assert factors == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0])


def test_rates_are_scaled_by_width() -> None:
    """Matrices by base / width, the tied embedding by its root, gains not at all."""
    model = build(ModelConfig(hidden_size=64), vocab_size=50, max_positions=8, seed=0)
    optimizer = adamw(model, OptimizerConfig(lr=0.01, base_width=16))
    rates = {id(w): group["lr"] for group in optimizer.param_groups for w in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    for name, weight in model.named_parameters():
        scale = 1 if "norm" in name else 0.5 if "embed" in name else 0.25
        assert rates[id(weight)] == pytest.approx(0.01 * scale)


def test_at_the_base_width_nothing_is_scaled() -> None:
    model = build(ModelConfig(), vocab_size=50, max_positions=8, seed=0)
    groups = adamw(model, OptimizerConfig(base_width=96)).param_groups
    assert {group["lr"] for group in groups} == {1.2e-2}
    assert [group["weight_decay"] for group in groups] == [0.1, 0.1, 0]


def test_a_preset_trains_with_scaled_rates_unless_told_otherwise() -> None:
    fields = {"mixture": {"a": 1.0}, "corpus": "c", "tokenizer": "t"}
    fields |= {"max_steps": 1, "global_batch_size": 1, "model": {"preset": "70M"}}
    preset = TrainingSpec.model_validate(fields)
    assert preset.optimizer.base_width == 96
    assert preset.model.hidden_size == 640
    again = TrainingSpec.model_validate_json(preset.model_dump_json())
    assert again == preset
    plain = TrainingSpec.model_validate({**fields, "optimizer": {"base_width": None}})
    assert plain.optimizer.base_width is None


def test_a_loss_that_has_risen_far_is_given_up() -> None:
    model = build(ModelConfig(), vocab_size=64, max_positions=8, seed=0)
    module = LanguageModel(model, OptimizerConfig(), max_steps=25)
    module.train_losses[:20] = 4.0
    module._check_losses(20)
    module.train_losses[10:20] = torch.linspace(6, 11, 10)
    with pytest.raises(DivergedError, match=r"has risen from 4 to 8\.5 at step 20 of 25"):
        module._check_losses(20)
