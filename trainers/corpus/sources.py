"""Where text comes from: collections of the environment, or Hugging Face `datasets`.

`read` reads a source, `inventory` says cheaply what it holds now.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

from optuna_mde_trainers.corpus.builtin import environment
from optuna_mde_trainers.corpus.documents import CorpusError, Documents
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

if TYPE_CHECKING:
    from datasets import Dataset

FILE_BUILDERS = ("json", "csv", "parquet", "text", "arrow")  # `path`s that read `data_files`
SUFFIXES = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
SUFFIXES |= {".txt": "text", ".md": "text", ".arrow": "arrow"}
DATASETS_FIELDS = ("name", "data_files", "revision", "validation_split")


class DomainSource(BaseModel):
    """One source: `environment`, or the arguments of `datasets.load_dataset`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    environment: str | None = None
    """A built-in collection of text that the Python environment holds."""
    path: str | None = None
    """A dataset on the Hugging Face hub, a local folder, or a format: json, csv, parquet, text
    (one document a file)."""
    name: str | None = None
    """Configuration of a dataset of the hub."""
    data_files: str | list[str] | dict[str, str | list[str]] | None = None
    """Files or patterns, also by split; relative ones are looked for in the current folder."""
    split: str = "train"
    """Split to read; slices such as `train[:10%]` too."""
    validation_split: str | None = None
    """Split that is the domain's validation set. None: part of its documents is held out."""
    revision: str | None = None
    """Version of a dataset of the hub."""
    text_column: str = Field(default="text", min_length=1)
    """Column that holds the text."""

    @field_validator("environment")
    @classmethod
    def _is_a_collection(cls, value: str | None) -> str | None:
        if value is not None and value not in environment.COLLECTIONS:
            known = ", ".join(environment.COLLECTIONS)
            raise ValueError(f"no collection is called {value!r}; there are {known}")
        return value

    @model_validator(mode="after")
    def _is_one_source(self) -> Self:
        if (self.environment is None) == (self.path is None):
            raise ValueError(
                "give either environment (a built-in collection) or path (a dataset, or json, "
                "parquet, text with data_files)"
            )
        if self.environment is not None:
            given = [field for field in DATASETS_FIELDS if getattr(self, field) is not None]
            if given:
                raise ValueError(f"{', '.join(given)} go with path, not with environment")
        if self.path in FILE_BUILDERS and not self.data_files:
            raise ValueError(f"path {self.path!r} is a format and needs data_files")
        file_format = SUFFIXES.get(Path(self.path or "").suffix)
        if file_format is not None:
            raise ValueError(
                f"path {self.path!r} looks like a file; write path: {file_format}, "
                f"data_files: {self.path}"
            )
        return self

    @property
    def label(self) -> str:
        """The source in a few words, for messages."""
        if self.path in FILE_BUILDERS:
            files = list(_file_names(self))
            return files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
        return self.environment or self.path or ""


def read(field: str, source: DomainSource, *, split: str | None = None) -> Documents:
    """What a source holds.

    Args:
        field: the source's place in the definition, for messages: `corpus.domains.web`.
        source: the source.
        split: another split than the source's own.

    Raises:
        CorpusError: a file, split or column is missing, or the dataset cannot be loaded.
    """
    if source.environment is not None:
        found = environment.documents(source.environment)
        return Documents([d.name for d in found], [d.text for d in found])
    dataset = _load(field, source, split or source.split)
    column = source.text_column
    if column not in dataset.column_names:
        raise CorpusError(
            f"{field}.text_column: {source.label} has no column {column!r}; "
            f"it has {', '.join(dataset.column_names)}"
        )
    kind = getattr(dataset.features[column], "dtype", str(dataset.features[column]))
    if kind not in ("string", "large_string"):
        raise CorpusError(
            f"{field}.text_column: column {column!r} of {source.label} holds {kind}, not text"
        )
    return Documents(None, dataset[column])


def _load(field: str, source: DomainSource, split: str) -> Dataset:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from optuna_mde_trainers.corpus.blocks import quiet_datasets

    _check_files(field, source)
    assert source.path is not None
    options = {"sample_by": "document"} if source.path == "text" else {}
    try:
        with quiet_datasets():
            return load_dataset(
                source.path,
                source.name,
                data_files=source.data_files,
                split=split,
                revision=source.revision,
                **options,
            )
    except (DatasetsError, OSError, ValueError, TypeError) as error:
        cause = error.__cause__ or error
        reason = " ".join(str(cause).split())[:200] or type(cause).__name__
        raise CorpusError(
            f"{field}: datasets.load_dataset cannot read split {split!r} of {source.label} "
            f"({reason}); check path, name, data_files and split"
        ) from error


def _check_files(field: str, source: DomainSource) -> None:
    for pattern in _patterns(source):
        if not glob.glob(pattern, recursive=True):
            raise CorpusError(
                f"{field}.data_files: no file matches {pattern!r} "
                f"(looked in {Path.cwd()}); mend the name or start from another folder"
            )


def _patterns(source: DomainSource) -> list[str]:
    """Local files that a source names; none for a dataset of the hub."""
    if source.path not in FILE_BUILDERS:
        return []
    return [file for file in _file_names(source) if "://" not in file]


def _file_names(source: DomainSource) -> Iterator[str]:
    by_split = source.data_files
    for group in by_split.values() if isinstance(by_split, dict) else [by_split or []]:
        yield from [group] if isinstance(group, str) else group


def inventory(field: str, source: DomainSource) -> dict[str, str]:
    """What a source holds now, without reading its text: name -> version or size and time.

    A dataset of the hub is taken at its word: `revision` says which version it is.
    """
    if source.environment is not None:
        items = environment.inventory(source.environment).items()
        return {f"{package} ({source.environment})": held for package, held in items}
    _check_files(field, source)
    return {str(path): _stamp(path) for path in _local_files(source)}


def _local_files(source: DomainSource) -> Iterator[Path]:
    for pattern in _patterns(source):
        yield from (Path(name) for name in sorted(glob.glob(pattern, recursive=True)))
    if source.path is not None and Path(source.path).is_dir():
        yield from (path for path in sorted(Path(source.path).rglob("*")) if path.is_file())


def _stamp(path: Path) -> str:
    status = path.stat()
    changed = datetime.fromtimestamp(status.st_mtime, UTC).isoformat(timespec="microseconds")
    return f"{status.st_size:,} bytes, changed {changed}"
