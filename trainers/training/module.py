"""How a model is trained: loss and optimiser, as a LightningModule."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Any

import torch
from lightning.pytorch import LightningModule
from optuna_mde_trainers.spec import DivergedError, OptimizerConfig
from optuna_mde_trainers.training.loss import next_token_loss
from optuna_mde_trainers.training.net import LanguageNet
from optuna_mde_trainers.training.optimizer import adamw, learning_rate_factor
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

# Reading the loss waits for a GPU; a diverged run loses at most this many steps.
CHECK_EVERY_N_STEPS = 10

# A run is given up when the mean loss of as many steps is this multiple of the first one, which is
# near the logarithm of the vocabulary: no run that learns comes near it.
DIVERGED_RATIO = 2.0

CURVE_POINTS = 50  # of a run's training loss in its result: what a picture of it can show


class LanguageModel(LightningModule):
    """Next-token prediction with AdamW.

    Args:
        model: From token ids `[b, t]` to logits `[b, t, V]`.
        optimizer: Settings of AdamW and its schedule.
        max_steps: Steps of the run.
        seed: Of the dropout, where the model has any.
    """

    def __init__(
        self, model: LanguageNet, optimizer: OptimizerConfig, max_steps: int, *, seed: int = 0
    ) -> None:
        super().__init__()
        self.model = model
        self.settings = optimizer
        self.max_steps = max_steps
        self.seed = seed
        # Of this rank's share from `_pooled` on, of the whole batch before. In the checkpoint, so
        # that a resumed run reports what an uninterrupted one does; no buffer, which some
        # strategies would copy from rank to rank, or round.
        self.train_losses = torch.zeros(max_steps)
        self._pooled = 0

    def forward(self, ids: Tensor) -> Any:
        return self.model(ids)

    def on_fit_start(self) -> None:
        self.train_losses = self.train_losses.to(self.device)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Mean loss of a batch of blocks `[b, T + 1]`, nats per token."""
        if self.model.draws_at_random:
            # A function of the step: a resumed run drops what an undisturbed one does.
            torch.manual_seed(hash((self.seed, batch_idx, self.global_rank)) % 2**63)
        loss = next_token_loss(self.model, batch[:, :-1], batch[:, 1:])
        passes = self.trainer.accumulate_grad_batches
        self.train_losses[self.global_step] += loss.detach() / passes
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Tensor, batch_idx: int) -> None:
        if (batch_idx + 1) % self.trainer.accumulate_grad_batches:
            return
        step = self.global_step  # steps done
        logs = self.loggers and step % self.log_every_n_steps == 0
        checks = step % CHECK_EVERY_N_STEPS == 0 or step == self.max_steps
        if logs or checks:
            self.pool_losses()
        if checks:
            self._check_losses(step)
        if logs:
            # Past `self.log`, which costs half a millisecond a step.
            factor = learning_rate_factor(step - 1, self.max_steps, self.settings)
            loss = float(self.train_losses[step - 1])
            for logger in self.loggers:
                logger.log_metrics(
                    {"train_loss": loss, "lr": factor * self.settings.lr}, step=step
                )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.pool_losses()
        checkpoint["train_losses"] = self.train_losses[: self.global_step].cpu()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        losses = checkpoint["train_losses"]
        self.train_losses[: len(losses)] = losses
        self._pooled = len(losses)

    def configure_optimizers(self) -> Any:
        optimizer = adamw(self.model, self.settings)
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
        if not gradient_clip_val:
            return
        # A sharded model alone knows the norm of all of its gradient.
        sharded = getattr(self.trainer.strategy.model, "clip_grad_norm_", None)
        if sharded is not None:
            sharded(gradient_clip_val)
        else:
            # Lightning refuses to clip for a fused optimizer in mixed precision, because of
            # float16's scaled gradients; bfloat16 has none.
            nn.utils.clip_grad_norm_(self.model.parameters(), gradient_clip_val)

    @property
    def log_every_n_steps(self) -> int:
        """Steps between two lines of the log."""
        return int(self.trainer.log_every_n_steps)  # type: ignore[attr-defined]

    def pool_losses(self) -> None:
        """Make the losses of the steps so far those of the whole batches. All ranks together."""
        step = self.global_step
        if self.trainer.world_size > 1 and step > self._pooled:
            part = self.train_losses[self._pooled : step]
            part.copy_(self.trainer.strategy.reduce(part.clone(), reduce_op="mean"))
        self._pooled = step

    def final_train_loss(self) -> float:
        """Mean loss of the last tenth of the steps, nats per token."""
        return float(self.train_losses[-math.ceil(self.max_steps / 10) :].cpu().double().mean())

    def train_curve(self) -> list[tuple[int, float]]:
        """(steps done, mean loss of the steps since the entry before), in spans as even as can
        be; nats per token."""
        spans = self.train_losses.cpu().double().tensor_split(min(CURVE_POINTS, self.max_steps))
        ends = accumulate(len(span) for span in spans)
        return [(end, float(span.mean())) for end, span in zip(ends, spans, strict=True)]

    def _check_losses(self, steps: int) -> None:
        losses = self.train_losses[:steps]
        bad = (~losses.isfinite()).nonzero()
        mend = f"lower training.optimizer.lr ({self.settings.lr:g}) or warm up for longer"
        if len(bad):
            step = int(bad[0])
            raise DivergedError(
                f"the training loss is {float(losses[step])} at step {step + 1} of "
                f"{self.max_steps}: {mend}",
                step,
            )
        recent = losses[-CHECK_EVERY_N_STEPS:]
        if len(recent) == CHECK_EVERY_N_STEPS and recent.mean() > DIVERGED_RATIO * losses[0]:
            raise DivergedError(
                f"the training loss has risen from {float(losses[0]):.3g} to "
                f"{float(recent.mean()):.3g} at step {steps} of {self.max_steps}: {mend}",
                steps - 1,
            )
