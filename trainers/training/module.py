"""How a decoder is trained: loss, optimiser and learning rate, as a LightningModule."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule
from optuna_mde_trainers.spec import DivergedError, OptimizerConfig
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

# Reading the loss waits for a GPU; a diverged run loses at most this many steps.
CHECK_EVERY_N_STEPS = 10

LOG_EVERY_N_STEPS = 10


class LanguageModel(LightningModule):
    """Next-token prediction with AdamW.

    Args:
        model: From token ids `[b, t]` to logits `[b, t, V]`.
        optimizer: Settings of AdamW and its schedule.
        max_steps: Steps of the run.
    """

    train_losses: Tensor

    def __init__(self, model: nn.Module, optimizer: OptimizerConfig, max_steps: int) -> None:
        super().__init__()
        self.model = model
        self.settings = optimizer
        self.max_steps = max_steps
        # In the checkpoint, so that a resumed run reports what an uninterrupted one does.
        self.register_buffer("train_losses", torch.zeros(max_steps))

    def forward(self, ids: Tensor) -> Any:
        return self.model(ids)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Mean loss of a batch of blocks `[b, T + 1]`, nats per token."""
        logits = self(batch[:, :-1])
        loss = cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        passes = self.trainer.accumulate_grad_batches
        self.train_losses[self.global_step] += loss.detach() / passes
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Tensor, batch_idx: int) -> None:
        if (batch_idx + 1) % self.trainer.accumulate_grad_batches:
            return
        step = self.global_step  # steps done
        if step % CHECK_EVERY_N_STEPS == 0 or step == self.max_steps:
            self._check_finite(step)
        if self.logger is not None and step % LOG_EVERY_N_STEPS == 0:
            # Past `self.log`, which costs half a millisecond a step.
            factor = learning_rate_factor(step - 1, self.max_steps, self.settings)
            loss = float(self.train_losses[step - 1])
            self.logger.log_metrics(
                {"train_loss": loss, "lr": factor * self.settings.lr}, step=step
            )

    def configure_optimizers(self) -> Any:
        weights = list(self.model.parameters())
        groups: list[dict[str, Any]] = [
            {"params": [weight for weight in weights if weight.ndim >= 2]},
            {"params": [weight for weight in weights if weight.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = AdamW(
            groups,
            lr=self.settings.lr,
            betas=self.settings.betas,
            eps=self.settings.eps,
            weight_decay=self.settings.weight_decay,
            fused=True,
        )
        schedule = LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, self.max_steps, self.settings)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        # Lightning refuses to clip for a fused optimizer in mixed precision, because of float16's
        # scaled gradients; bfloat16 has none.
        if gradient_clip_val:
            nn.utils.clip_grad_norm_(self.model.parameters(), gradient_clip_val)

    def final_train_loss(self) -> float:
        """Mean loss of the last tenth of the steps, nats per token."""
        return float(self.train_losses[-math.ceil(self.max_steps / 10) :].cpu().double().mean())

    def _check_finite(self, steps: int) -> None:
        bad = (~self.train_losses[:steps].isfinite()).nonzero()
        if len(bad):
            step = int(bad[0])
            raise DivergedError(
                f"the training loss is {float(self.train_losses[step])} at step {step + 1} of "
                f"{self.max_steps}: lower training.optimizer.lr ({self.settings.lr:g}) or warm up "
                "for longer",
                step,
            )


def warmup_steps(max_steps: int, settings: OptimizerConfig) -> int:
    """Steps in which the learning rate rises."""
    if settings.warmup_steps is not None:
        return settings.warmup_steps
    return round(settings.warmup_ratio * max_steps)


def learning_rate_factor(step: int, max_steps: int, settings: OptimizerConfig) -> float:
    """Learning rate of a step (from 0) as a share of its peak.

    It rises linearly over the w warm-up steps, as (step + 1) / w, and then falls so that it would
    be 0 at step `max_steps`.
    """
    warmup = warmup_steps(max_steps, settings)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, max_steps - warmup)
    if settings.lr_scheduler_type == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    if settings.lr_scheduler_type == "linear":
        return max(0.0, 1 - progress)
    return 1.0
