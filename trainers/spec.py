"""The contract of a run: what it is to do (`RunSpec`), and what came of it (`RunResult`).

Both are plain JSON. A run is a function of the *training* part of its spec, and its folder is
named by the hash of that part alone; *launch* says where and how it runs, *score* what is asked
of the finished weights. Losses are nats per token everywhere.

This room reads and writes text and imports neither torch nor lightning.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

# Files of a run's folder.
SPEC_FILE = "spec.json"
CHECKPOINT_FILE = "last.ckpt"  # while the run is unfinished
WEIGHTS_FILE = "model.safetensors"  # float32, with the names of LlamaForCausalLM
LOGPROBS_FILE = "logprobs.safetensors"  # if they were asked for: an expert's file
RESULT_FILE = "result.json"  # written last: a folder that has one is finished
LOCK_FILE = "run.lock"  # held by the process that works here

# Rates are written by people as well as by samplers: 0.333 + 0.333 + 0.333 is a mistake worth a
# word, the last digit of a float is not.
SUM_TOLERANCE = 1e-6

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Model = TypeVar("Model", bound=BaseModel)


class SpecError(ValueError):
    """A spec or result that cannot be used; the message names the file, the field and the mend."""


class DivergedError(RuntimeError):
    """The loss of a run is no longer a number. The same spec will always diverge.

    Args:
        step: The first step without a finite loss; None if only the scores are not finite.
    """

    def __init__(self, message: str, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step


class _Group(BaseModel):
    """A group of settings: unknown keys, NaN and later assignments are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DecoderConfig(_Group):
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


class OptimizerConfig(_Group):
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


class TrainingSpec(_Group):
    """Everything that the trained weights depend on."""

    mixture: dict[str, Annotated[float, Field(ge=0)]]
    """Rate of every domain in the training sequences; the rates sum to 1."""
    corpus: str
    """Fingerprint of the corpus."""
    tokenizer: str
    """Fingerprint of its tokenizer."""
    model: DecoderConfig = DecoderConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    max_steps: Count
    """Optimizer steps."""
    global_batch_size: Count
    """Sequences a step."""
    micro_batch_size: Count | None = None
    """Sequences a forward pass; gradients are accumulated. None: the whole step at once."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the initial weights and of the order of the blocks."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Lightning's precision; weights and scores are float32 in both."""
    gradient_clip_val: Annotated[float, Field(ge=0)] = 1.0
    """Largest norm of a step's gradient. 0: no clipping."""

    @field_validator("mixture")
    @classmethod
    def _check_mixture(cls, mixture: dict[str, float]) -> dict[str, float]:
        total = math.fsum(mixture.values())
        if abs(total - 1) > SUM_TOLERANCE:
            rates = " + ".join(f"{rate:g}" for rate in mixture.values()) or "nothing"
            raise ValueError(f"rates must sum to 1, and {rates} = {total:.9g}: divide each by it")
        return mixture

    @model_validator(mode="after")
    def _check_steps(self) -> Self:
        if self.global_batch_size % self.micro_batches:
            raise ValueError(
                f"global_batch_size ({self.global_batch_size}) must be a multiple of "
                f"micro_batch_size ({self.micro_batch_size})"
            )
        if (self.optimizer.warmup_steps or 0) > self.max_steps:
            raise ValueError(
                f"optimizer.warmup_steps ({self.optimizer.warmup_steps}) must not exceed "
                f"max_steps ({self.max_steps})"
            )
        return self

    @property
    def micro_batches(self) -> int:
        """Sequences a forward pass."""
        return self.micro_batch_size or self.global_batch_size


class LaunchSpec(_Group):
    """Where and how the run takes place: nothing that should change the weights.

    Bit-identical losses are promised for the same machine type and the same number of threads.
    """

    corpus_folder: str
    """Folder that `corpora.prepare` made."""
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    """Lightning's accelerator."""
    devices: Literal[1] = 1
    """One device a run: trials side by side use a machine better than one run on all of it."""
    num_threads: Count | None = None
    """Threads of torch in this process. None: as they are. One a worker where runs share cores:
    OpenMP spins at its barriers, so two threads beside a busy process can be 70 times slower."""
    num_workers: Annotated[int, Field(ge=0)] = 0
    """Processes that read blocks. 0: the training process itself, best for small runs."""
    logger: Literal["csv", "tensorboard"] | None = None
    """Log of the training loss and the learning rate, in the run's folder."""
    checkpoint_every_n_steps: Count = 200
    """Steps between two checkpoints, from which a killed run goes on."""


class ScoreSpec(_Group):
    """What is asked of the finished weights. May grow later: the run is then scored again."""

    sets: Annotated[list[str], Field(min_length=1)] | None = None
    """Validation sets. None: all of the corpus."""
    logprobs: bool = False
    """Whether the log-probability of every validation token is kept (what an expert needs)."""

    @field_validator("sets")
    @classmethod
    def _check_sets(cls, sets: list[str] | None) -> list[str] | None:
        if sets is not None and len(set(sets)) < len(sets):
            raise ValueError(f"every set once, not {', '.join(sets)}")
        return sets


class RunSpec(_Group):
    """One run, complete in itself."""

    version: Literal[1] = 1
    training: TrainingSpec
    launch: LaunchSpec
    score: ScoreSpec = ScoreSpec()

    @property
    def folder_name(self) -> str:
        """Name of the run's folder: a hash of the training part alone.

        A domain at rate 0 and one that is not named are the same training.
        """
        training = self.training.model_dump(mode="json")
        training["mixture"] = {name: rate for name, rate in training["mixture"].items() if rate}
        text = json.dumps(training, sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @classmethod
    def read(cls, path: Path) -> RunSpec:
        """The spec in a JSON file.

        Raises:
            SpecError: If the file holds no spec; the message names the field.
            OSError: If it cannot be read.
        """
        return _read(cls, path)

    def write(self, path: Path) -> None:
        """Write the spec as JSON, atomically."""
        write_atomic(path, self.model_dump_json(indent=2) + "\n")


class Realised(_Group):
    """What a run truly drew from one domain."""

    rate: float
    """Share of the training sequences."""
    tokens: int
    """Training tokens."""
    epochs: float
    """Times that the domain was seen: sequences drawn / blocks held."""


class Point(_Group):
    """Losses on the way."""

    step: int
    tokens: int
    losses: dict[str, float]


class RunResult(_Group):
    """What came of a run."""

    version: Literal[1] = 1
    losses: dict[str, float]
    """Validation loss of every set, nats per token."""
    bits_per_byte: dict[str, float]
    """The same per byte of text, in bits: comparable between tokenizers."""
    set_fingerprints: dict[str, str]
    """Fingerprint of each set when it was scored: a set that has changed is scored again."""
    logprobs: str | None = None
    """File of the token log-probabilities in the run's folder, if they were asked for."""
    train_loss: float
    """Mean training loss of the last tenth of the steps, nats per token."""
    tokens: int
    """Training tokens."""
    parameters: int
    """Number of trained weights, the tied embedding counted once."""
    realised: dict[str, Realised]
    """What was drawn from every domain of the corpus."""
    seconds: float
    """Wall seconds of the training steps, those of earlier attempts up to their checkpoint
    included; scoring and start-up are not."""
    points: list[Point] = []
    """Losses at earlier points of the run."""

    @classmethod
    def read(cls, path: Path) -> RunResult:
        """The result in a JSON file.

        Raises:
            SpecError: If the file holds no result; the message names the field.
            OSError: If it cannot be read.
        """
        return _read(cls, path)

    def write(self, path: Path) -> None:
        """Write the result as JSON, atomically."""
        write_atomic(path, self.model_dump_json(indent=2) + "\n")


def explain(error: ValidationError) -> str:
    """One line for the first fault that pydantic found: field, fault, and what it got."""
    fault = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(str(part) for part in fault["loc"])
    message = fault["msg"].removeprefix("Value error, ")
    got = (
        "" if isinstance(fault["input"], (dict, list, BaseModel)) else f" (got {fault['input']!r})"
    )
    return f"{field}: {message}{got}" if field else f"{message}{got}"


def write_atomic(path: Path, text: str) -> None:
    """Write a file that a reader, or a killed writer, never leaves half-done."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def _read(model: type[Model], path: Path) -> Model:
    try:
        return model.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise SpecError(f"{path}: {explain(error)}") from error
