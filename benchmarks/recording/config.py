"""What a recording is to hold: `recording.yaml`, beside the study definition of its runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from optuna_mde_studies.definition.reading import DefinitionError
from optuna_mde_trainers.corpus.builtin.environment import Tree
from optuna_mde_trainers.spec import explain
from pydantic import BaseModel, ConfigDict, Field, ValidationError

RECORDING_FILE = "recording.yaml"

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, lt=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TreeConfig(_Section):
    """Files of installed packages; the fields of `Tree` in `corpus.builtin.environment`."""

    packages: Annotated[tuple[str, ...], Field(min_length=1)]
    """Distributions, or `stdlib`; those that are not installed are skipped."""
    suffixes: Annotated[tuple[str, ...], Field(min_length=1)] = (".py",)
    """Endings of the files' names."""
    within: tuple[str, ...] = ("",)
    """Folders below the package, one after the other."""
    take: Literal["text", "docstrings"] = "text"
    """What of each file."""
    generated: Literal["left out", "wanted", "any"] = "left out"
    """Files that say in their first lines that a program wrote them."""

    @property
    def trees(self) -> list[Tree]:
        return [
            Tree(
                self.packages,
                self.suffixes,
                within=folder,
                take=self.take,
                generated=self.generated,
            )
            for folder in self.within
        ]


class TextConfig(_Section):
    """Text that no built-in collection has, written to `texts/<name>.jsonl`."""

    sources: Annotated[tuple[TreeConfig, ...], Field(min_length=1)]
    """Where it lies, in this order."""
    max_bytes: Count
    """Text that suffices: no document is begun beyond it."""
    document_bytes: Count = 80_000
    """Longer files are cut into documents of this size, at the ends of lines."""


class DirichletConfig(_Section):
    """Mixtures from a symmetric Dirichlet distribution."""

    concentration: Annotated[float, Field(gt=0)]
    number: Count


class FaceConfig(_Section):
    """Mixtures of some of the domains, with exact zeros."""

    domains: Annotated[int, Field(ge=2)]
    number: Count


class RepeatConfig(_Section):
    """Runs that stand in the table already, with further seeds."""

    mixtures: Annotated[int, Field(ge=0)]
    """Drawn mixtures that are repeated, spread over all kinds."""
    seeds: Count
    """Further seeds of each."""
    reference_seeds: Annotated[int, Field(ge=0)] = 0
    """Further seeds of the natural and of the uniform mixture."""


class RecordingConfig(_Section):
    """The whole design."""

    texts: dict[str, TextConfig] = {}
    """Texts that the definition reads as `path: json, data_files: texts/<name>.jsonl`."""
    expert_budgets: tuple[Share, ...] = ()
    """Shares of a full run's steps at which experts are trained, besides the full one."""
    dirichlet: tuple[DirichletConfig, ...]
    faces: tuple[FaceConfig, ...] = ()
    repeats: RepeatConfig
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the drawn mixtures; that of the runs is the definition's `training.seed`."""


def read(path: Path) -> RecordingConfig:
    """Reads and checks a `recording.yaml`.

    Raises:
        DefinitionError: the file is missing or says something else; the message names the field.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DefinitionError(
            f"{path}: a recording needs this file beside its definition ({error.strerror})"
        ) from None
    except yaml.YAMLError as error:
        raise DefinitionError(f"{path}: not valid YAML: {error}") from None
    try:
        return RecordingConfig.model_validate(data)
    except ValidationError as error:
        raise DefinitionError(f"{path}: {explain(error)}") from None
