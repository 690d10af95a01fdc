"""Which files a source names: literal names, folders, patterns, URLs, datasets of the hub."""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna_mde_trainers.corpus.documents import CorpusError
from optuna_mde_trainers.corpus.reading.streams import ARCHIVES, SUFFIXES, is_data
from optuna_mde_trainers.corpus.sources import FORMATS, DomainSource

LINES = "lines"
"""Text files of a folder or of the hub, where `datasets` takes every line for a document."""


@dataclass(frozen=True)
class Located:
    """The files of one split of a source."""

    format: str
    files: tuple[str, ...]
    """Local paths or URLs, in the order in which they are read; those of the hub name a commit."""


def locate(field: str, source: DomainSource, split: str) -> Located:
    """The files of a split.

    Args:
        field: the source's place in the definition, for messages.
        source: a source with a `path`.
        split: name of a split, without a slice.

    Raises:
        CorpusError: no such file, split or dataset.
    """
    assert source.path is not None
    if source.path not in FORMATS:
        return _from_datasets(field, source, split)
    by_split = source.data_files
    if not isinstance(by_split, dict):
        by_split = {"train": by_split or []}
    if split not in by_split:
        raise CorpusError(
            f"{field}.split: data_files of {source.label} have no split {split!r}; "
            f"they have {', '.join(by_split)}"
        )
    return Located(source.path, _expanded(field, _listed(by_split[split]), source.path))


def named_files(field: str, source: DomainSource) -> tuple[str, ...]:
    """Local files of all splits, looked for without asking the hub.

    Raises:
        CorpusError: a pattern matches no file.
    """
    if source.path in FORMATS:
        by_split = source.data_files
        groups = by_split.values() if isinstance(by_split, dict) else [by_split or []]
        patterns = [pattern for group in groups for pattern in _listed(group)]
        found = _expanded(field, patterns, source.path)
        return tuple(file for file in found if "://" not in file)
    folder = Path(source.path or "")
    if not folder.is_dir():
        return ()
    return tuple(str(p) for p in sorted(folder.rglob("*")) if p.is_file() and is_data(p.name))


def _listed(group: str | list[str]) -> list[str]:
    return [group] if isinstance(group, str) else list(group)


def _expanded(field: str, patterns: Iterable[str], file_format: str) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for pattern in patterns:
        matched = _matches(pattern, file_format)
        if not matched:
            raise CorpusError(f"{field}.data_files: {_why_nothing(pattern, file_format)}")
        found |= dict.fromkeys(matched)
    return tuple(found)


def _matches(pattern: str, file_format: str) -> list[str]:
    """A name that exists is itself, whatever signs it holds; then folders; then patterns."""
    pattern = pattern.removeprefix("file://")
    if "://" in pattern:
        return _remote_matches(pattern)
    path = os.path.expanduser(pattern)
    if os.path.isfile(path):
        return [path]
    if os.path.isdir(path):
        return _within(path, file_format)
    matched = sorted(glob.glob(_literal_folders(path), recursive=True))
    return [name for name in matched if os.path.isfile(name) and is_data(os.path.basename(name))]


def _literal_folders(pattern: str) -> str:
    """A pattern whose leading folders, as far as they exist, are taken as they are written."""
    parts = pattern.split("/")
    for end in range(len(parts) - 1, 0, -1):
        folder = "/".join(parts[:end])
        if folder and os.path.isdir(folder):
            return "/".join([glob.escape(folder), *parts[end:]])
    return pattern


def _within(folder: str, file_format: str) -> list[str]:
    packed = ("", *SUFFIXES)
    suffixes = tuple(s + p for s in FORMATS[file_format] for p in packed) + ARCHIVES
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if is_data(name))
        found += [
            os.path.join(place, name)
            for name in sorted(names)
            if is_data(name) and name.lower().endswith(suffixes)
        ]
    return found


def _remote_matches(pattern: str) -> list[str]:
    if not any(sign in pattern for sign in "*?["):
        return [pattern]
    from fsspec.core import url_to_fs

    system, path = url_to_fs(pattern)
    return sorted(
        system.unstrip_protocol(name)
        for name in system.glob(path)
        if is_data(name.rsplit("/", 1)[-1])
    )


def _why_nothing(pattern: str, file_format: str) -> str:
    if os.path.isdir(os.path.expanduser(pattern)):
        kinds = ", ".join(FORMATS[file_format])
        return f"the folder {pattern!r} holds no {file_format} files ({kinds}, packed or not)"
    return (
        f"no file matches {pattern!r} (looked in {Path.cwd()}); mend the name or start from "
        "another folder"
    )


# -- what `datasets` resolves ----------------------------------------------------------------


def _from_datasets(field: str, source: DomainSource, split: str) -> Located:
    """Files of a local folder or of a dataset of the hub, as `datasets` finds them."""
    builder = _builder(field, source)
    splits: dict[str, Any] = dict(builder.config.data_files or {})
    if split not in splits:
        raise CorpusError(
            f"{field}.split: {source.label} has no split {split!r}; it has "
            f"{', '.join(map(str, splits)) or 'none'}"
        )
    files = tuple(str(file) for file in splits[split])
    kind = _kind(files) or type(builder).__module__.rsplit(".", 1)[-1]
    known = {"json", "csv", "parquet", "text", "arrow"}
    if kind not in known:
        raise CorpusError(
            f"{field}.path: {source.path} is read by the builder {kind!r} of datasets, which "
            f"gives no text; {', '.join(sorted(known))} do"
        )
    return Located(LINES if kind == "text" else kind, files)


def _kind(files: tuple[str, ...]) -> str | None:
    """Format that all files' names say; `datasets` takes one for all configurations."""
    kinds = set()
    for file in files:
        name = file.lower()
        for packed in SUFFIXES:
            name = name.removesuffix(packed)
        kinds.add(next((f for f, suffixes in FORMATS.items() if name.endswith(suffixes)), None))
    return kinds.pop() if len(kinds) == 1 else None


def _builder(field: str, source: DomainSource) -> Any:
    from datasets import load_dataset_builder

    assert source.path is not None
    with tempfile.TemporaryDirectory() as nowhere:  # nothing is prepared in datasets' own cache
        try:
            return load_dataset_builder(
                source.path,
                source.name,
                data_files=source.data_files,
                revision=source.revision,
                cache_dir=nowhere,
            )
        except Exception as error:  # of datasets, huggingface_hub, fsspec and httpx
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise CorpusError(
                f"{field}: datasets cannot find {source.label} ({reason}); if it is on the "
                "Hugging Face hub, check path, name and revision, the connection, and, for a "
                "gated dataset, HF_TOKEN; a local folder or file is not there"
            ) from error
