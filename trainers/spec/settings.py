"""Groups of settings that a study's definition and a run's spec have in common.

Losses are nats per token everywhere. Where a field is added, or a default changed, `naming` says
what keeps the names of finished runs.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class Group(BaseModel):
    """A group of settings: unknown keys, NaN and later assignments are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_serializer(mode="wrap")
    def _with_unknown_fields(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Those that `RunSpec.parse` lets in, which pydantic would leave out.
        return {**handler(self), **(self.model_extra or {})}


class DecoderConfig(Group):
    """Shape of the Transformer; the names are those of `transformers.LlamaConfig`."""

    vocab_size: Count | None = None
    """Rows of the embedding. None: the tokenizer's."""
    hidden_size: Count = 96
    """Width of the residual stream."""
    intermediate_size: Count = 256
    """Width of the SwiGLU."""
    num_hidden_layers: Count = 2
    """Number of blocks."""
    num_attention_heads: Count = 4
    """Query heads; the head dimension is hidden_size / num_attention_heads."""
    num_key_value_heads: Count | None = None
    """Key and value heads (grouped-query attention). None: one for every query head."""
    rope_theta: Positive = 10_000.0
    """Base of the rotary frequencies."""
    rms_norm_eps: Positive = 1e-6
    """Added to the mean square before its root."""
    tie_word_embeddings: bool = True
    """Whether the output projection is the embedding."""

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be an even multiple of "
                f"num_attention_heads ({self.num_attention_heads}): rotary positions turn pairs"
            )
        if self.num_attention_heads % self.key_value_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) must be a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})"
            )
        return self

    @property
    def key_value_heads(self) -> int:
        """The number of key and value heads."""
        return self.num_key_value_heads or self.num_attention_heads


class OptimizerConfig(Group):
    """AdamW and its schedule; the names are those of `torch.optim.AdamW` and `transformers`.

    The defaults suit the default decoder in a few hundred steps. Mean loss of three sets after
    180 steps, two seeds, sd .03: .008 cosine, warm-up .1: 4.53; .012 linear, .1: 4.46;
    .012 linear, .2: 4.45; .02 linear, .2: 4.44. Larger models and longer runs want a lower rate.
    """

    lr: Positive = 1.2e-2
    """Peak learning rate."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (
        0.9,
        0.95,
    )
    """Decay of the running means of the gradient and of its square."""
    eps: Positive = 1e-8
    """Added to the root of the second moment."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Decoupled weight decay of matrices; gains of the norms are never decayed."""
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "linear"
    """What follows the warm-up: down to zero at the last step, or held."""
    warmup_ratio: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of the steps in which the learning rate rises linearly."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """The same in steps; where given, it counts and warmup_ratio does not."""


class TrainingConfig(Group):
    """Length and loop of a run; the names are those of Lightning's Trainer."""

    max_steps: Count
    """Optimizer steps."""
    global_batch_size: Count
    """Sequences a step."""
    micro_batch_size: Count | None = None
    """Sequences a forward pass; gradients are accumulated. None: the whole step at once."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the initial weights and of the order of the blocks."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Lightning's precision; weights and scores are float32 in both. It changes the losses, so it
    never changes by itself."""
    gradient_clip_val: Annotated[float, Field(ge=0)] = 1.0
    """Largest norm of a step's gradient. 0: no clipping."""

    @model_validator(mode="after")
    def _check_micro_batches(self) -> Self:
        if self.global_batch_size % self.micro_batches:
            raise ValueError(
                f"global_batch_size ({self.global_batch_size}) must be a multiple of "
                f"micro_batch_size ({self.micro_batch_size})"
            )
        return self

    @property
    def micro_batches(self) -> int:
        """Sequences a forward pass."""
        return self.micro_batch_size or self.global_batch_size


KeepWeights = Literal["float32", "bfloat16", "none"]


class LaunchConfig(Group):
    """How a run takes place: nothing that should change the weights.

    Bit-identical losses are promised for the same machine type and the same number of threads.
    """

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    """Lightning's accelerator."""
    num_workers: Annotated[int, Field(ge=0)] = 0
    """Processes that read blocks. 0: the training process itself, best for small runs."""
    logger: Literal["csv", "tensorboard"] | None = None
    """Log of the training loss and the learning rate, in the run's folder."""
    checkpoint_every_n_steps: Count = 200
    """Steps between two checkpoints, from which a killed run goes on."""
    keep_weights: KeepWeights = "float32"
    """Precision of the finished weights on disk, a checkpoint of transformers. none: they are
    scored and not kept, and no other set can be scored later."""
