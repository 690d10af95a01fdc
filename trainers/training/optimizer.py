"""AdamW's groups of weights, and the learning rate of every step.

Width-scaled rates ([M]_, table 8, for Adam): where `base_width` is given, the rate `lr` is that of
a model of this width, and at width D

    matrices of the layers, untied output      lr · base_width / D
    embedding (also as the tied output)        lr · √(base_width / D)
    gains, biases                              lr

so that one rate serves all widths (benchmarks/training.md). The initial weights scale with the
fan-in already. The tied embedding takes the mean of what [M]_ gives to an input (lr) and an output
(lr · base_width / D).

.. [M] G. Yang et al., Tensor Programs V: tuning large neural networks via zero-shot hyperparameter
   transfer. arXiv 2203.03466 (2022).
"""

from __future__ import annotations

import math
from typing import Any

from optuna_mde_trainers.spec import OptimizerConfig
from torch import nn
from torch.optim import AdamW


def adamw(model: nn.Module, settings: OptimizerConfig) -> AdamW:
    """The optimizer of a model."""
    return AdamW(
        weight_groups(model, settings),
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def weight_groups(model: nn.Module, settings: OptimizerConfig) -> list[dict[str, Any]]:
    """Groups of weights with their peak rate and decay; the last is of gains and biases."""
    embeddings = {
        id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)
    }
    matrices, embedded, rest = [], [], []
    for weight in model.parameters():
        if weight.ndim < 2:
            rest.append(weight)
        elif id(weight) in embeddings:
            embedded.append(weight)
        else:
            matrices.append(weight)
    plain = {"params": rest, "weight_decay": 0.0}
    if settings.base_width is None:
        return [{"params": [w for w in model.parameters() if w.ndim >= 2]}, plain]
    scale = settings.base_width / embedded[0].shape[1]
    return [
        {"params": matrices, "lr": settings.lr * scale},
        {"params": embedded, "lr": settings.lr * math.sqrt(scale)},
        plain,
    ]


def warmup_steps(max_steps: int, settings: OptimizerConfig) -> int:
    """Steps in which the learning rate rises."""
    if settings.warmup_steps is not None:
        return settings.warmup_steps
    return round(settings.warmup_ratio * max_steps)


def learning_rate_factor(step: int, max_steps: int, settings: OptimizerConfig) -> float:
    """Learning rate of a step (from 0) as a share of its peak.

    It rises linearly over the w warm-up steps, as (step + 1) / w, and then falls so that it would
    be 0 at step `max_steps`; under `warmup_stable_decay` it is held until the last `decay_ratio`
    of the steps, and falls linearly in them.
    """
    warmup = warmup_steps(max_steps, settings)
    if step < warmup:
        return (step + 1) / warmup
    if settings.lr_scheduler_type == "constant":
        return 1.0
    if settings.lr_scheduler_type == "warmup_stable_decay":
        decay = settings.decay_ratio * max_steps
        return min(1.0, max(0.0, max_steps - step) / decay) if decay else 1.0
    progress = (step - warmup) / max(1, max_steps - warmup)
    if settings.lr_scheduler_type == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return max(0.0, 1 - progress)
