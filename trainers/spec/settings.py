"""Groups of settings that a study's definition and a run's spec have in common.

Losses are nats per token everywhere. Where a field is added, or a default changed, `naming` says
what keeps the names of finished runs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from optuna_mde_trainers.spec.presets import PresetName, with_shape
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
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

    preset: PresetName | None = None
    """A size by its name (`presets`), in the place of the fields below; those that are written
    beside it count before it. None once it is read: the fields are then the preset's."""
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

    @model_validator(mode="before")
    @classmethod
    def _with_shape(cls, fields: Any) -> Any:
        return with_shape(fields)

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


# Keys of a transformers configuration that say where it comes from, not what it is.
_ORIGIN = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures")


class ModelConfig(DecoderConfig):
    """The model of a run: our decoder by its shape, or a causal language model of transformers."""

    pretrained_config: str | dict[str, Any] | None = None
    """A configuration of transformers: a name on the hub, a folder with a config.json, or its
    content with `model_type`. The weights are new, initialised as transformers does for this
    model. No other field may then be given. None: our decoder."""

    @field_validator("pretrained_config")
    @classmethod
    def _read(cls, source: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
        # A folder's content, not its place, is what the run depends on.
        content: Any = source
        if isinstance(source, str):
            path = Path(source)
            path = path / "config.json" if path.is_dir() else path
            if not path.is_file():
                return source
            try:
                content = json.loads(path.read_bytes())
            except (OSError, ValueError, RecursionError) as error:
                raise ValueError(f"{path} holds no configuration ({error})") from error
        if content is None:
            return None
        if not isinstance(content, dict) or "model_type" not in content:
            raise ValueError("model_type is missing: it says which model this is, such as gpt2")
        return {key: value for key, value in content.items() if key not in _ORIGIN}

    @model_validator(mode="after")
    def _check_alone(self) -> Self:
        if self.pretrained_config is not None:
            shape = [
                name
                for name, field in DecoderConfig.model_fields.items()
                if getattr(self, name) != field.default
            ]
            if shape:
                raise ValueError(
                    f"{', '.join(shape)} cannot stand beside pretrained_config: they shape our "
                    "decoder, and the configuration shapes its own model"
                )
        return self


class OptimizerConfig(Group):
    """AdamW and its schedule; the names are those of `torch.optim.AdamW` and `transformers`.

    The defaults suit the default decoder in a few hundred steps. Mean loss of three sets after
    180 steps, two seeds, sd .03: .008 cosine, warm-up .1: 4.53; .012 linear, .1: 4.46;
    .012 linear, .2: 4.45; .02 linear, .2: 4.44. Larger models and longer runs want a lower rate.
    """

    lr: Positive = 1.2e-2
    """Peak learning rate."""
    base_width: Count | None = None
    """Width of the model that `lr` is meant for: at another width D, matrices train at lr x
    base_width / D, the embedding at lr x √(base_width / D). None: `lr` whatever the width; a
    preset sets it to 96, the width of the default decoder."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (
        0.9,
        0.95,
    )
    """Decay of the running means of the gradient and of its square."""
    eps: Positive = 1e-8
    """Added to the root of the second moment."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Decoupled weight decay of matrices; gains of the norms are never decayed."""
    lr_scheduler_type: Literal["linear", "cosine", "constant", "warmup_stable_decay"] = "linear"
    """What follows the warm-up: down to zero at the last step, or held, or held and then down."""
    decay_ratio: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of the steps in which `warmup_stable_decay` goes down to zero, linearly."""
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
    mask_documents: bool = False
    """Whether positions see their own document alone, where a block holds several."""

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


SHARDED = ("fsdp", "deepspeed", "model_parallel")  # strategies of Lightning, by their beginnings
KeepWeights = Literal["float32", "bfloat16", "none"]
LoggerName = Literal["csv", "tensorboard", "wandb", "mlflow"]
WrittenLoggers = LoggerName | list[LoggerName] | dict[LoggerName, dict[str, Any] | None] | None
WrittenImports = list[str | dict[str, dict[str, Any] | None]]


def _named_options(value: Any) -> Any:
    """`csv`, `[csv, wandb]` or `{wandb: {project: x}}` as name -> options."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {value: {}}
    if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
        return {name: {} for name in value}
    if isinstance(value, dict):
        return {name: {} if options is None else options for name, options in value.items()}
    return value


def _imports(value: Any) -> Any:
    """Import paths, some with arguments (`{path: {argument: value}}`), as pairs."""
    if not isinstance(value, list | tuple):
        return value
    pairs: list[Any] = []
    for item in value:
        if isinstance(item, str):
            pairs.append((item, {}))
        elif isinstance(item, dict):
            pairs += [(path, options or {}) for path, options in item.items()]
        else:
            pairs.append(item)
    return pairs


class LaunchConfig(Group):
    """How a run takes place: nothing that should change the weights.

    Bit-identical losses are promised for the same machine type and the same number of threads;
    on other numbers of devices they agree to 1e-4.
    """

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    """Lightning's accelerator."""
    devices: Count | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = 1
    """Devices of each node that one run uses, or the list of them. They share a step's sequences,
    so that what is trained stays the same. Small runs use a machine better side by side."""
    num_nodes: Count = 1
    """Nodes that one run uses; `srun` or `torchrun` then starts its processes."""
    strategy: str | None = None
    """Lightning's strategy: ddp, fsdp, or another of its names. None: ddp on several devices."""
    num_workers: Annotated[int, Field(ge=0)] = 0
    """Processes that read blocks. 0: the training process itself, best for small runs."""
    logger: Annotated[
        dict[LoggerName, dict[str, Any]],
        BeforeValidator(_named_options, json_schema_input_type=WrittenLoggers),
    ] = {}
    """Logs of the training loss and the learning rate: csv and tensorboard in the run's folder,
    wandb, mlflow. A name, a list of names, or names with arguments of Lightning's loggers."""
    callbacks: Annotated[
        list[tuple[str, dict[str, Any]]],
        BeforeValidator(_imports, json_schema_input_type=WrittenImports),
    ] = []
    """Lightning callbacks by their import path, `package.module.Class`, or with arguments,
    `{package.module.Class: {argument: value}}`."""
    trainer: dict[str, Any] = {}
    """Further arguments of Lightning's Trainer."""
    compile: bool = False
    """Whether the model is compiled (torch.compile): some 20 s and more, once a process."""
    activation_checkpointing: bool = False
    """Whether activations inside layers are computed again for the gradient, to save memory."""
    checkpoint_every_n_steps: Count = 200
    """Steps between two checkpoints, from which a killed run goes on."""
    checkpoint_every_n_minutes: Positive | None = None
    """Minutes between two checkpoints, if that is sooner. None: steps alone count."""
    keep_weights: KeepWeights = "float32"
    """Precision of the finished weights on disk, a checkpoint of transformers. none: they are
    scored and not kept, and no other set can be scored later."""

    @property
    def devices_per_node(self) -> int:
        """Number of devices of each node."""
        return len(self.devices) if isinstance(self.devices, list) else self.devices

    @property
    def shards_weights(self) -> bool:
        """Whether no device has all weights while a run trains."""
        return (self.strategy or "").startswith(SHARDED)

    @property
    def world_size(self) -> int:
        """Devices in all: as many processes train."""
        return self.devices_per_node * self.num_nodes


class ScoreConfig(Group):
    """When a run is scored, beside its end."""

    at: list[Annotated[float, Field(gt=0, lt=1)]] = []
    """Shares of a run's steps after which all sets are scored, for experts with their
    log-probabilities: points of a learning curve, in `result.json`."""
