"""What a run is to do. Plain JSON: between a study and a trainer stands nothing else.

A run is a function of the *training* part of its spec, and its folder is named by that part alone
(`naming`); *launch* says where and how it runs, *score* what is asked of the finished weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from optuna_mde_trainers.spec import naming
from optuna_mde_trainers.spec.files import SpecError, explain, write_atomic
from optuna_mde_trainers.spec.presets import with_base_width
from optuna_mde_trainers.spec.settings import (
    Count,
    Group,
    LaunchConfig,
    ModelConfig,
    OptimizerConfig,
    ScoreConfig,
    TrainingConfig,
)
from pydantic import Field, ValidationError, field_validator, model_validator

SPEC_VERSION = 2  # of the set of fields; raise it when one is added. 1 was release 0.1.0

# Rates are written by people as well as by samplers: 0.333 + 0.333 + 0.333 is a mistake worth a
# word, the last digit of a float is not.
SUM_TOLERANCE = 1e-6


class TrainingSpec(TrainingConfig):
    """Everything that the trained weights depend on."""

    mixture: dict[str, Annotated[float, Field(ge=0)]]
    """Rate of every domain in the training sequences; the rates sum to 1."""
    corpus: str
    """Fingerprint of the corpus."""
    tokenizer: str
    """Fingerprint of its tokenizer."""
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()

    @model_validator(mode="before")
    @classmethod
    def _with_base_width(cls, fields: Any) -> Any:
        return with_base_width(fields)

    @field_validator("mixture")
    @classmethod
    def _check_mixture(cls, mixture: dict[str, float]) -> dict[str, float]:
        total = math.fsum(mixture.values())
        if abs(total - 1) > SUM_TOLERANCE:
            rates = " + ".join(f"{rate:g}" for rate in mixture.values()) or "nothing"
            raise ValueError(f"rates must sum to 1, and {rates} = {total:.9g}: divide each by it")
        return mixture

    @model_validator(mode="after")
    def _check_warmup(self) -> Self:
        if (self.optimizer.warmup_steps or 0) > self.max_steps:
            raise ValueError(
                f"optimizer.warmup_steps ({self.optimizer.warmup_steps}) must not exceed "
                f"max_steps ({self.max_steps})"
            )
        return self


class LaunchSpec(LaunchConfig):
    """Where and how the run takes place."""

    corpus_folder: str
    """Folder that `corpora.prepare` made."""
    num_threads: Count | None = None
    """Threads of torch in this process. None: as they are. One a worker where runs share cores:
    OpenMP spins at its barriers, so two threads beside a busy process can be 70 times slower."""


class ScoreSpec(ScoreConfig):
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


class RunSpec(Group):
    """One run, complete in itself."""

    version: Annotated[int, Field(ge=1)] = SPEC_VERSION
    """Of the set of fields."""
    training: TrainingSpec
    launch: LaunchSpec
    score: ScoreSpec = ScoreSpec()

    @field_validator("version")
    @classmethod
    def _filled(cls, version: int) -> int:
        return max(version, SPEC_VERSION)  # what an older one left out is at its default by now

    @property
    def folder_name(self) -> str:
        """Name of the run's folder: a hash of the training part alone."""
        return naming.name(self.training)

    def folder(self, runs: Path) -> Path:
        """The run's folder among all runs: the one that release 0.1.0 made, if it is there."""
        first = naming.first_release_name(self.training)
        if first is not None and (runs / first).is_dir():
            return runs / first
        return runs / self.folder_name

    @property
    def unknown_fields(self) -> list[str]:
        """Paths of fields that a newer version wrote and that mean nothing to this one."""
        return naming.unknown_fields(self)

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> RunSpec:
        """The spec in a JSON object. Unknown fields are a mistake, except in what a newer version
        wrote: there they are kept.

        Raises:
            ValidationError: If it is no spec.
        """
        version = content.get("version")
        newer = isinstance(version, int) and version > SPEC_VERSION
        return cls.model_validate(content, extra="allow" if newer else None)

    @classmethod
    def read(cls, path: Path) -> RunSpec:
        """The spec in a JSON file.

        Raises:
            SpecError: If the file holds no spec; the message names the field.
            OSError: If it cannot be read.
        """
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise SpecError(f"{path}: no JSON ({error})") from error
        if not isinstance(content, dict):
            raise SpecError(f"{path}: holds no spec, which is a JSON object")
        try:
            return cls.parse(content)
        except ValidationError as error:
            raise SpecError(f"{path}: {explain(error)}") from error

    def write(self, path: Path) -> None:
        """Write the spec as JSON, atomically."""
        write_atomic(path, self.model_dump_json(indent=2) + "\n")
