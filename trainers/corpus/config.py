"""What a corpus is made of, as a definition says it."""

from __future__ import annotations

from typing import Any, Self

from optuna_mde_trainers.corpus.prompts.source import TaskSource
from optuna_mde_trainers.corpus.sources import DomainSource
from optuna_mde_trainers.corpus.tokenizer import TokenizerConfig
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator


class CorpusConfig(BaseModel):
    """The text of a study."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    domains: dict[str, DomainSource]
    """Training domains; each has a validation set of its own name. Without any, the corpus is one
    of sets alone."""
    validation: dict[str, DomainSource] = {}
    """Unseen validation sets, which belong to no domain."""
    tasks: dict[str, TaskSource] = {}
    """Unseen validation sets of prompts and targets, of which the targets are scored."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """How text becomes tokens."""
    block_size: int = Field(default=64, ge=1)
    """Tokens that one block trains or scores."""
    max_train_bytes: int | None = Field(default=None, ge=1)
    """Text of a domain that is kept for training, in bytes. None: all of it."""
    validation_tokens: int = Field(default=8192, ge=1, validate_default=True)
    """Scored tokens of each validation set, rounded down to whole blocks."""
    held_out: float = Field(default=0.1, gt=0, lt=1)
    """Share of a domain's documents that is kept from training, for its validation set."""
    min_domain_bytes: int = Field(default=800_000, ge=0)
    """Training text below which a domain of the environment is dropped, in bytes."""
    min_domains: int = Field(default=4, ge=1)
    """Domains that must be left when some are dropped."""
    seed: int = 0
    """Order of the training documents, and which of them `max_train_bytes` keeps."""

    @field_validator("domains", "validation", "tasks")
    @classmethod
    def _names_are_usable(cls, value: dict[str, Any]) -> dict[str, Any]:
        folded: dict[str, str] = {}
        for name in value:
            if name in ("", ".", ".."):
                raise ValueError(f"{name!r} cannot be a name; choose another")
            other = folded.setdefault(name.casefold(), name)
            if other != name:
                raise ValueError(
                    f"{other!r} and {name!r} differ in case alone, and some file systems take "
                    "them for one; choose another name"
                )
        return value

    @field_validator("validation")
    @classmethod
    def _sets_are_unseen(
        cls, value: dict[str, DomainSource], info: ValidationInfo
    ) -> dict[str, DomainSource]:
        for name, source in value.items():
            if name in info.data.get("domains", ()):
                raise ValueError(
                    f"{name!r} is a domain, which has a validation set of this name already; "
                    "choose another name"
                )
            if source.validation_split is not None:
                raise ValueError(f"{name}.validation_split belongs to domains; set split instead")
        return value

    @field_validator("tasks")
    @classmethod
    def _tasks_are_unseen(
        cls, value: dict[str, TaskSource], info: ValidationInfo
    ) -> dict[str, TaskSource]:
        for name in value:
            if name in info.data.get("domains", ()) or name in info.data.get("validation", ()):
                raise ValueError(f"{name!r} is a validation set already; choose another name")
        return value

    @model_validator(mode="after")
    def _token_ids_have_their_tokenizer(self) -> Self:
        for place, group in (("domains", self.domains), ("validation", self.validation)):
            for name, source in group.items():
                if source.holds_ids and source.tokenizer != self.tokenizer.path:
                    raise ValueError(
                        f"{place}.{name} holds token ids of {source.tokenizer!r}, and the corpus "
                        f"is tokenised by {self.tokenizer.path or self.tokenizer.type!r}; set "
                        f"tokenizer: {{type: pretrained, path: {source.tokenizer}}}"
                    )
        return self

    @field_validator("validation_tokens")
    @classmethod
    def _fills_a_block(cls, value: int, info: ValidationInfo) -> int:
        block_size = info.data.get("block_size", 1)
        if value < block_size:
            raise ValueError(
                f"{value} tokens are less than one block of block_size {block_size}; raise it"
            )
        return value

    @property
    def set_names(self) -> tuple[str, ...]:
        """Every validation set that is asked for: of domains, unseen ones, end tasks."""
        return (*self.domains, *self.validation, *self.tasks)

    @property
    def validation_blocks(self) -> int:
        """Blocks of each validation set."""
        return self.validation_tokens // self.block_size
