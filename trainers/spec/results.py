"""What came of a run, as `result.json` holds it.

A result of another version is read: fields that this one does not know are kept, and written
again when more is scored; fields that an older one did not have are at their defaults.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from optuna_mde_trainers.spec.files import SpecError, explain, write_atomic
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

RESULT_VERSION = 2  # of the set of fields; 1 was release 0.1.0


def _is_inside(name: str | None) -> str | None:
    """Results may be of another hand: what they name is read below their own folder alone."""
    if name is None:
        return None
    parts = name.replace("\\", "/").split("/")
    if "\0" in name or ":" in name or not all(parts) or {".", ".."} & set(parts):
        raise ValueError(f"{name!r:.80} is no file of the run's folder")
    return name


FileName = Annotated[str | None, AfterValidator(_is_inside)]


class _Record(BaseModel):
    """Facts that a program wrote down; those of a newer version are kept."""

    model_config = ConfigDict(
        extra="allow", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @classmethod
    def read(cls, path: Path) -> Self:
        """What a JSON file holds.

        Raises:
            SpecError: If it is something else; the message names the field.
            OSError: If it cannot be read.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise SpecError(f"{path}: {explain(error)}") from error

    def write(self, path: Path) -> None:
        """Write a JSON file, atomically."""
        write_atomic(path, self.model_dump_json(indent=2) + "\n")


class Realised(_Record):
    """What a run truly drew from one domain."""

    rate: float
    """Share of the training sequences."""
    tokens: int
    """Training tokens."""
    epochs: float
    """Times that the domain was seen: sequences drawn / blocks held."""


class TaskResult(_Record):
    """What a run makes of a prompt/target set, beside the loss per target token."""

    examples: int
    """Examples of the set."""
    example_loss: float
    """Mean over the examples of each one's mean loss, nats per target token."""
    accuracy: float | None = None
    """Share of the examples whose right choice has the largest log-probability. None: no
    choices."""
    accuracy_norm: float | None = None
    """The same with log-probabilities divided by the choices' UTF-8 bytes."""


class Point(_Record):
    """Losses on the way, before the end of a run."""

    step: int
    """Steps done."""
    tokens: int
    """Training tokens until then."""
    schedule: float | None = None
    """Share of the run's own learning-rate schedule that was done, in (0, 1)."""
    losses: dict[str, float]
    """Validation loss of every set, nats per token."""
    tasks: dict[str, TaskResult] = {}
    """Prompt/target sets: accuracy, and the loss by example."""
    logprobs: FileName = None
    """File of the token log-probabilities in the run's folder, if they were asked for."""


class TrainPoint(_Record):
    """Training loss on the way."""

    step: int
    """Steps done."""
    tokens: int
    """Training tokens until then."""
    loss: float
    """Mean training loss of the steps since the point before, nats per token."""


class Ledger(_Record):
    """What a run cost."""

    tokens: int | None = None
    """Training tokens."""
    flops_6nd: float | None = None
    """Floating-point operations by the rule 6 x parameters x tokens."""
    flops: float | None = None
    """Matrix products and causal attention, forward and backward (`training.flops`)."""
    wall_seconds: float | None = None
    """From the start of the run to the end of its training, earlier attempts up to their
    checkpoint included; scoring is not."""
    device_seconds: float | None = None
    """Wall seconds of the training steps x devices."""
    peak_memory_bytes: int | None = None
    """Largest memory of a device, or of the process where that is the CPU."""
    devices: int | None = None
    """Devices that trained."""
    device: str | None = None
    """What they are."""
    tokens_per_second: float | None = None
    """Over the training steps, of all devices together."""
    mfu: float | None = None
    """Share of the devices' peak that `flops` took; None where the peak is not known."""


class RunResult(_Record):
    """What came of a run."""

    version: Annotated[int, Field(ge=1)] = RESULT_VERSION
    losses: dict[str, float]
    """Validation loss of every set, nats per token."""
    bits_per_byte: dict[str, float]
    """The same per byte of text, in bits: comparable between tokenizers."""
    set_fingerprints: dict[str, str]
    """Fingerprint of each set when it was scored: a set that has changed is scored again."""
    logprobs: FileName = None
    """File of the token log-probabilities in the run's folder, if they were asked for."""
    tasks: dict[str, TaskResult] = {}
    """Prompt/target sets: accuracy, and the loss by example."""
    train_loss: float | None
    """Mean training loss of the last tenth of the steps, nats per token. None if diverged."""
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
    """Losses at earlier points of the run, in their order."""
    train_curve: list[TrainPoint] = []
    """Training loss from the first step to the last, thinned."""
    ledger: Ledger | None = None
    """What the run cost."""
    diverged: str | None = None
    """Why the run was given up before its end: the same spec will always diverge. It then has no
    losses."""


class LaterScore(_Record):
    """A set that kept weights were scored on later."""

    version: Annotated[int, Field(ge=1)] = RESULT_VERSION
    loss: float
    """Nats per token; of a prompt/target set, per target token of the right choices."""
    bits_per_byte: float
    tokens: int
    """Tokens that the loss is the mean of."""
    fingerprint: str
    """Of the set."""
    weights: str
    """Precision of the weights on disk."""
    task: TaskResult | None = None
    """Of a prompt/target set."""
    logprobs: FileName = None
    """File of the token log-probabilities, beside this one, if they are kept."""
