"""One pass over the files of some sources: which documents they hold, without their text.

Sources that read the same files make one group: seven domains that a field of one file tells
apart cost one reading of it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna_mde_trainers.corpus import identity, stores
from optuna_mde_trainers.corpus.documents import CorpusError, content_key, digest, num_bytes
from optuna_mde_trainers.corpus.progress import Meter, Say
from optuna_mde_trainers.corpus.reading.chunks import chunks
from optuna_mde_trainers.corpus.reading.files import locate
from optuna_mde_trainers.corpus.reading.rows import rows, tag
from optuna_mde_trainers.corpus.reading.scans import Chunk, Scan
from optuna_mde_trainers.corpus.selection import Chosen
from optuna_mde_trainers.corpus.sources import SPLIT, DomainSource
from optuna_mde_trainers.corpus.tokenizer import bytes_of_tokens

if TYPE_CHECKING:
    from optuna_mde_trainers.corpus.processes import Workers

VERSION = "2"  # raise it when the same files give another index
UINT32, UINT64 = np.dtype(np.uint32), np.dtype(np.uint64)
COLUMNS: dict[str, np.dtype[Any]] = {"keys": UINT64, "sizes": UINT32, "counts": UINT32}
PARALLEL_BYTES = 8_000_000  # of files, from which other processes are worth their start
MAX_VALUES = 100_000  # of a filter's column: more are no categories


@dataclass
class Group:
    """Sources that read the same files."""

    scan: Scan
    fields: list[str] = field(default_factory=list)
    """Their places in the definition, for messages."""
    until: str = ""
    """Where reading stops, for groups that are streamed: part of their identity."""
    tokenizer: str = ""
    """Fingerprint of the tokenizer of token ids, whose bytes are counted with it."""

    @property
    def num_bytes(self) -> int:
        """Bytes of all files, packed as they are; 0: not known."""
        return sum(identity.size(file) for file in self.scan.files)

    @property
    def label(self) -> str:
        """Its sources in a few words, for lines of progress."""
        first, *others = [place.split(".", 1)[-1] for place in self.fields]
        return f"{first} and {len(others)} more" if others else first

    @cached_property
    def identity(self) -> str:
        """Hash of the content of all files and of what is taken from them."""
        scan = self.scan
        if scan.collection is not None:
            from optuna_mde_trainers.corpus.builtin import environment

            held = sorted(environment.inventory(scan.collection).items())
            return digest(VERSION, scan.collection, json.dumps(held))
        options = [
            scan.format, scan.column, *scan.tags, scan.holds_ids, scan.dtype, scan.end_of_text
        ]  # fmt: skip
        contents = [identity.content(file) for file in scan.files]
        remote = [file if "://" in file else "" for file in scan.files]
        return digest(VERSION, json.dumps([options, self.until, self.tokenizer, contents, remote]))


def group_of(
    place: str, source: DomainSource, split: str, *, end_of_text: int | None, tokenizer: str
) -> Group:
    """The pass that one split of a source needs, alone.

    Args:
        place: the source's place in the definition, for messages.
        source: the source.
        split: the split, perhaps with a slice.
        end_of_text: token that ends documents, for sources of token ids.
        tokenizer: fingerprint of the tokenizer, for sources of token ids.
    """
    if source.environment is not None:
        return Group(Scan("", (), "", collection=source.environment), [place])
    named = SPLIT.fullmatch(split)
    assert named is not None
    located = locate(place, source, named["name"])
    flat = located.format in ("npy", "bin")
    scan = Scan(
        format=located.format,
        files=located.files,
        column=source.tokens_column or source.text_column,
        tags=tuple(sorted(source.filter or ())),
        holds_ids=source.tokens_column is not None,
        dtype=source.dtype,
        end_of_text=end_of_text if flat else None,
    )
    return Group(scan, [place], tokenizer=tokenizer if source.holds_ids else "")


def joined(groups: Iterable[Group]) -> list[Group]:
    """Groups of one pass each; those of the same files become one, with the filters of all."""
    by_files: dict[tuple[Scan, bool], Group] = {}
    for group in groups:
        bare = replace(group.scan, tags=()), group.until != ""
        if bare not in by_files:
            by_files[bare] = Group(group.scan, tokenizer=group.tokenizer)
        held = by_files[bare]
        held.until += group.until
        tags = tuple(sorted({*held.scan.tags, *group.scan.tags}))
        held.scan = replace(held.scan, tags=tags)
        held.fields += group.fields
    return list(by_files.values())


@dataclass(frozen=True)
class Index:
    """What one pass found; arrays `[n]` over its rows, read from disk as they are used."""

    keys: np.ndarray
    names: np.ndarray
    sizes: np.ndarray
    counts: np.ndarray
    """Rows of every chunk."""
    tags: dict[str, np.ndarray]
    values: dict[str, list[str]]
    """Filter column -> its values as JSON text, by the numbers in `tags`."""
    read: float
    """Share of the files' bytes that was read; less than 1 where reading stopped early."""

    def all(self) -> Chosen:
        """Every row."""
        sizes = self.sizes.astype(np.int64)
        rows_ = np.arange(len(sizes), dtype=np.int64)
        return Chosen(rows_, np.asarray(self.keys), np.asarray(self.names), sizes)

    def chosen(self, source: DomainSource, split: str) -> Chosen:
        """The rows of a source: what its filter and the slice of its split let through."""
        mask = np.ones(len(self.sizes), bool)
        for column, wanted in (source.filter or {}).items():
            accepted = {tag(value) for value in _listed(wanted)}
            codes = [i for i, value in enumerate(self.values[column]) if value in accepted]
            mask &= np.isin(self.tags[column], codes)
        if "[" in split:
            from datasets import ReadInstruction

            name = split.partition("[")[0]
            taken = ReadInstruction.from_spec(split).to_absolute({name: len(mask)})[0]
            inside = np.zeros(len(mask), bool)
            inside[taken.from_ : taken.to] = True
            mask &= inside
        return self.all().take(mask)


def _listed(wanted: Any) -> list[Any]:
    return list(wanted) if isinstance(wanted, list) else [wanted]


def index(
    group: Group,
    folder: Path,
    workers: Workers,
    say: Say,
    *,
    tokenizer_file: Path | None = None,
    enough: Callable[[Chosen, dict[str, np.ndarray], dict[str, list[str]]], bool] | None = None,
) -> Index:
    """The index of a group, made or gone on with in a folder.

    Args:
        group: what is read.
        folder: of its store.
        workers: processes that parse and hash.
        say: called with lines of progress.
        tokenizer_file: tokenizer of token ids, which says how many bytes they stand for.
        enough: whether what has been read suffices, asked after every chunk; None: all is read.

    Raises:
        CorpusError: a file cannot be read; the message begins with the group's first source.
    """
    with stores.one_writer(folder) as unfinished:
        if unfinished:
            if enough is not None:
                shutil.rmtree(folder, ignore_errors=True)  # its counts would begin in the middle
            try:
                _scan(group, folder, workers, say, tokenizer_file, enough)
            except CorpusError as error:
                raise CorpusError(placed(group.fields[0], str(error))) from error
    notes = stores.notes(folder)
    keys = stores.column(folder, "keys", UINT64)
    return Index(
        keys=keys,
        names=stores.column(folder, "names", UINT64) if group.scan.collection else keys,
        sizes=stores.column(folder, "sizes", UINT32),
        counts=stores.column(folder, "counts", UINT32),
        tags={
            name: stores.column(folder, f"tag{i}", UINT32)
            for i, name in enumerate(group.scan.tags)
        },
        values=notes["values"],
        read=notes["read"],
    )


def placed(place: str, message: str) -> str:
    """A message of a reader behind its place; one that begins with a field belongs to it."""
    named = message.startswith(("text_column: ", "tokens_column: "))
    return f"{place}.{message}" if named else f"{place}: {message}"


def _scan(
    group: Group,
    folder: Path,
    workers: Workers,
    say: Say,
    tokenizer_file: Path | None,
    enough: Callable[[Chosen, dict[str, np.ndarray], dict[str, list[str]]], bool] | None,
) -> None:
    scan = group.scan
    columns: dict[str, np.dtype[Any]] = {
        **COLUMNS,
        **{f"tag{i}": UINT32 for i in range(len(scan.tags))},
    }
    if scan.collection is not None:
        columns["names"] = UINT64
    store = stores.Store(folder, columns)
    values: dict[str, dict[str, int]] = {
        name: {
            value: code for code, value in enumerate(store.notes.get("values", {}).get(name, []))
        }
        for name in scan.tags
    }
    total = group.num_bytes
    meter = Meter(say, f"reading {group.label}", total)
    position, stopped, done = 0, False, store.chunks
    make = partial(_indexed, replace(scan, files=()), tokenizer_file)
    try:
        found = workers.map(make, _numbered(scan, done), parallel=total > PARALLEL_BYTES)
        for (number, position), part in found:
            if number < done:  # an earlier process has it
                continue
            arrays = {name: part[name] for name in columns if not name.startswith("tag")}
            for i, name in enumerate(scan.tags):
                arrays[f"tag{i}"] = _coded(name, part["tags"][i], values[name])
            store.append(arrays)
            store.notes = {"values": {name: list(codes) for name, codes in values.items()}}
            meter.at(position)
            if enough is not None:
                tags = {name: arrays[f"tag{i}"] for i, name in enumerate(scan.tags)}
                sizes = arrays["sizes"].astype(np.int64)
                chosen = Chosen(np.arange(len(sizes)), arrays["keys"], arrays["keys"], sizes)
                if enough(chosen, tags, store.notes["values"]):
                    stopped = True
                    break
        store.notes.setdefault("values", {name: [] for name in scan.tags})
        store.notes["read"] = min(1.0, position / total) if stopped and total else 1.0
        store.flush(finished=True)
    finally:
        store.close()


def _numbered(scan: Scan, done: int) -> Iterator[tuple[tuple[int, int], Chunk | None]]:
    """Chunks with number and position; those that are done are read over."""
    for number, chunk in enumerate(chunks(scan)):
        yield (number, chunk.position), (chunk if number >= done else None)


def _coded(name: str, found: list[str], codes: dict[str, int]) -> np.ndarray:
    """Numbers of the values of a filter's column; new ones get the next number."""
    coded = np.fromiter((codes.setdefault(value, len(codes)) for value in found), UINT32)
    if len(codes) > MAX_VALUES:
        raise CorpusError(
            f"filter: column {name!r} has more than {MAX_VALUES:,} values; filter by one that "
            "tells domains apart"
        )
    return coded


def _indexed(scan: Scan, tokenizer_file: Path | None, chunk: Chunk | None) -> dict[str, Any]:
    """Keys, sizes and filter values of a chunk's rows."""
    if chunk is None:
        return {}
    found = rows(scan, chunk)
    if found.lacking and chunk.first <= 1:
        raise CorpusError(found.lacking)
    if scan.is_tokens:
        assert tokenizer_file is not None
        lengths = bytes_of_tokens(str(tokenizer_file))
        keys = [0 if ids is None else _key_of_ids(ids) for ids in found.values]
        sizes = [_bytes_of_ids(chunk, ids, lengths) for ids in found.values]
    else:
        kept = [text if text is not None and not text.isspace() else "" for text in found.values]
        keys = [int.from_bytes(content_key(text)[:8], "little") if text else 0 for text in kept]
        sizes = [num_bytes(text) for text in kept]
    arrays: dict[str, Any] = {
        "keys": np.array(keys, UINT64),
        "sizes": np.array(sizes, UINT32),
        "counts": np.array([len(keys)], UINT32),
        "tags": found.tags,
    }
    if chunk.names is not None:
        arrays["names"] = np.array([int(digest(n, size=8), 16) for n in chunk.names], UINT64)
    return arrays


def _key_of_ids(ids: np.ndarray) -> int:
    data = np.ascontiguousarray(ids, np.uint32).tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _bytes_of_ids(chunk: Chunk, ids: np.ndarray | None, lengths: np.ndarray) -> int:
    if ids is None or len(ids) == 0:
        return 0
    check_ids(chunk.file, ids, len(lengths))
    return max(1, int(lengths[ids].sum()))


def check_ids(file: str, ids: np.ndarray | None, vocab_size: int) -> None:
    """Token ids are a tokenizer's.

    Raises:
        CorpusError: they cannot be.
    """
    if ids is None or len(ids) == 0:
        return
    largest, least = int(ids.max()), int(ids.min())
    if largest >= vocab_size or least < 0:
        raise CorpusError(
            f"{file} holds the token id {largest if least >= 0 else least}, and the tokenizer has "
            f"{vocab_size:,}; name the tokenizer that gave the ids, and the dtype in which they "
            "were written"
        )
