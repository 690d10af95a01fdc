"""Where text comes from: collections of the environment, files, or the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

from optuna_mde_trainers.corpus.builtin import environment
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

FILE_BUILDERS = ("json", "csv", "parquet", "text", "arrow")  # of `datasets`
FORMATS = {
    "json": (".json", ".jsonl", ".ndjson"),
    "csv": (".csv",),
    "parquet": (".parquet", ".pq"),
    "text": (".txt", ".md", ".text"),
    "arrow": (".arrow",),
    "npy": (".npy",),
    "bin": (".bin",),
}
"""`path`s that read `data_files`, and what their files are called in a folder."""
TOKEN_FORMATS = ("bin", "npy")
SPLIT = re.compile(r"(?P<name>\w[\w.-]*)(?P<slice>\[[^\]]*\])?")
FILES_FIELDS = (
    "name", "data_files", "revision", "validation_split", "filter", "tokens_column", "dtype",
    "tokenizer",
)  # fmt: skip

Scalar = str | int | float | bool | None


class DomainSource(BaseModel):
    """One source: `environment`, or `path` with the arguments of `datasets.load_dataset`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    environment: str | None = None
    """A built-in collection of text that the Python environment holds."""
    path: str | None = None
    """A format (json, csv, parquet, arrow; text: one document a file; npy, bin: token ids), a
    dataset on the Hugging Face hub, or a local folder."""
    name: str | None = None
    """Configuration of a dataset of the hub."""
    data_files: str | list[str] | dict[str, str | list[str]] | None = None
    """Files, folders or patterns, also by split; relative ones start from the current folder."""
    split: str = "train"
    """Split to read; slices such as `train[:10%]` too."""
    validation_split: str | None = None
    """Split that is the domain's validation set. None: part of its documents is held out."""
    revision: str | None = None
    """Version of a dataset of the hub."""
    streaming: bool = False
    """Stop reading once `max_train_bytes` is full. False: read all, and keep a random part."""
    text_column: str = Field(default="text", min_length=1)
    """Column that holds the text; a dot leads into a field, as in `post.body.text`."""
    filter: dict[str, Scalar | list[Scalar]] | None = None
    """Rows that are taken: column, with dots, -> the value it has, or a list of such."""
    tokens_column: str | None = None
    """Column that holds lists of token ids, in place of text."""
    dtype: Literal["uint8", "uint16", "uint32", "int32", "int64"] | None = None
    """Type of the ids in `bin` files."""
    tokenizer: str | None = None
    """Tokenizer that gave the ids; must be `corpus.tokenizer.path`."""

    @field_validator("environment")
    @classmethod
    def _is_a_collection(cls, value: str | None) -> str | None:
        if value is not None and value not in environment.COLLECTIONS:
            known = ", ".join(environment.COLLECTIONS)
            raise ValueError(f"no collection is called {value!r}; there are {known}")
        return value

    @field_validator("split", "validation_split")
    @classmethod
    def _is_one_split(cls, value: str | None) -> str | None:
        if value is not None and SPLIT.fullmatch(value) is None:
            raise ValueError(
                f"{value!r} is no split with at most one slice, such as train or train[:10%]"
            )
        return value

    @field_validator("filter")
    @classmethod
    def _lets_something_through(
        cls, value: dict[str, Scalar | list[Scalar]] | None
    ) -> dict[str, Scalar | list[Scalar]] | None:
        for column, wanted in (value or {}).items():
            if wanted == []:
                raise ValueError(f"an empty list for {column!r} lets nothing through")
        return value

    @model_validator(mode="after")
    def _is_one_source(self) -> Self:
        if (self.environment is None) == (self.path is None):
            raise ValueError(
                "give either environment (a built-in collection) or path (a dataset, or json, "
                "parquet, text with data_files)"
            )
        if self.environment is not None:
            given = [field for field in FILES_FIELDS if getattr(self, field) is not None]
            if given:
                raise ValueError(f"{', '.join(given)} go with path, not with environment")
        if self.path in FORMATS and not self.data_files:
            raise ValueError(f"path {self.path!r} is a format and needs data_files")
        suffix = Path(self.path or "").suffix
        file_format = next((f for f, suffixes in FORMATS.items() if suffix in suffixes), None)
        if suffix and file_format is not None:
            raise ValueError(
                f"path {self.path!r} looks like a file; write path: {file_format}, "
                f"data_files: {self.path}"
            )
        if self.streaming and "[" in self.split:
            raise ValueError(
                "a slice of the split counts rows from the end too, which streaming: true does "
                "not reach; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _ids_are_described(self) -> Self:
        if self.path == "bin" and self.dtype is None:
            raise ValueError("path 'bin' holds plain numbers and needs their dtype: uint16, …")
        if self.path != "bin" and self.dtype is not None:
            raise ValueError("dtype goes with path 'bin'; other formats say their own")
        if self.path in TOKEN_FORMATS and self.tokens_column is not None:
            raise ValueError(f"path {self.path!r} has no columns; leave tokens_column out")
        if self.path in TOKEN_FORMATS and self.filter:
            raise ValueError(f"path {self.path!r} has no columns; leave filter out")
        if self.holds_ids and self.tokenizer is None:
            raise ValueError(
                "token ids say nothing without their tokenizer; name it in tokenizer, as "
                "corpus.tokenizer.path has it"
            )
        if not self.holds_ids and self.tokenizer is not None:
            raise ValueError(
                "tokenizer goes with tokens_column, npy or bin; text is tokenised by "
                "corpus.tokenizer"
            )
        return self

    @property
    def holds_ids(self) -> bool:
        """Whether the source holds token ids in place of text."""
        return self.path in TOKEN_FORMATS or self.tokens_column is not None

    @property
    def label(self) -> str:
        """The source in a few words, for messages."""
        if self.path in FORMATS:
            files = list(_file_names(self))
            return files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
        return self.environment or self.path or ""


def _file_names(source: DomainSource) -> Iterator[str]:
    by_split = source.data_files
    for group in by_split.values() if isinstance(by_split, dict) else [by_split or []]:
        yield from [group] if isinstance(group, str) else group
