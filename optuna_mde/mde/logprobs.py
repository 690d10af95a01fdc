"""The file that an expert leaves: token log-probabilities of every validation set, at a URL."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from optuna_mde.mde.urls import is_local, local_path, trust

FORMAT_VERSION = "1"

_TYPES = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}
_LONGEST_HEADER = 100_000_000  # bytes, as in safetensors
_NO_LOGPROBS = "log-probabilities must be numbers of at most 0"
_ROUNDING = 1e-3  # float32 rounding of log-softmax may end a hair above zero

# What fsspec's file systems call the things that a file written anew has others of. (Their `ukey`
# takes what lies at http for unchanging, and elsewhere holds times of access, too.)
_FINGERPRINTS = (
    *("ETag", "etag", "Content-MD5", "Digest", "md5Hash", "crc32c", "content_md5", "generation"),
    *("Last-Modified", "LastModified", "last_modified", "updated", "mtime", "modified", "created"),
    *("modificationTime", "VersionId", "size"),
)


class ExpertFileError(ValueError):
    """A log-probability file cannot be read, or does not belong to the others."""


class UnusableFileError(ExpertFileError):
    """An expert's file that turned out to be unreadable, or to hold no log-probabilities."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{url}: {reason}")
        self.url = url


def save_logprobs(
    url: str | os.PathLike[str], logprobs: Mapping[str, Any], **metadata: Any
) -> str:
    """Write the token log-probabilities of one expert, from any trainer.

    Args:
        url: a path, or any URL that fsspec can write (``s3://…``).
        logprobs: validation set to a `[T]` array: natural logarithm of the probability given to
            each observed token, in the same order for every expert.
        metadata: anything that identifies the run, such as ``domain``, ``tokens``, ``tokenizer``;
            ``sets={set: fingerprint}`` lets files on other validation tokens be refused by name.

    Returns:
        The URL, for ``report_losses(..., logprobs=url)``.

    Raises:
        ExpertFileError: if an array is not one-dimensional or holds a value that is not a
            log-probability (NaN, +inf or positive), or the URL's scheme needs a package that is
            not installed.
    """
    from safetensors.numpy import save

    tensors = {str(name): _checked(str(name), values) for name, values in logprobs.items()}
    if not tensors:
        raise ExpertFileError("logprobs holds no validation set; give {set: array of shape [T]}")
    texts = {k: v if isinstance(v, str) else _json(v) for k, v in metadata.items()}
    data = save(tensors, metadata={"format": FORMAT_VERSION, **texts})
    try:
        _write_bytes(str(url), data)
    except ImportError as error:  # of the package that knows the scheme
        raise ExpertFileError(f"{url}: cannot be written ({error})") from error
    trust(str(url))
    return str(url)


def load_logprobs(url: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read an expert file.

    Returns:
        Arrays `[T]` of float32 by validation set, and the metadata.

    Raises:
        ExpertFileError: if the file is missing or is no file of log-probabilities.
    """
    file = LogprobFile.open(str(url))
    with file.reading() as stream:
        arrays = {name: file.read(stream, name, 0, T) for name, T in file.sets.items()}
    return arrays, dict(file.metadata)


@contextlib.contextmanager
def _errors_named(url: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # what stands behind a URL raises errors of its own
        raise UnusableFileError(url, f"no readable log-probability file ({error})") from error


def read_header(stream: BinaryIO) -> bytes:
    """The header of a safetensors file, which begins where the stream does.

    Raises:
        ValueError: if it has none.
    """
    size = int.from_bytes(stream.read(8), "little")
    if not 2 <= size <= _LONGEST_HEADER:
        raise ValueError("it is no safetensors file")
    return stream.read(size)


@dataclass(frozen=True)
class LogprobFile:
    """An expert's file of which the header has been read.

    Args:
        url: where it lies.
        header: of safetensors, as bytes.
    """

    url: str
    header: bytes

    @classmethod
    def open(cls, url: str) -> LogprobFile:
        """Read the header.

        Raises:
            UnusableFileError: if the file is missing, or is no file of log-probabilities.
        """
        with _errors_named(url), opened(url) as stream:
            file = cls(url, read_header(stream))
            end = stream.seek(0, 2) - 8 - len(file.header)
            if max((place.end for place in file._places.values()), default=0) > end:
                raise ValueError("its end is missing")
        return file

    @property
    def sets(self) -> dict[str, int]:
        """Number of tokens of each validation set; the format keeps no order."""
        return {name: self._places[name].n_tokens for name in sorted(self._places)}

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        """What the writer said of the file."""
        found = self._content.get("__metadata__", {})
        return found if isinstance(found, dict) else {}

    @cached_property
    def mark(self) -> str | None:
        """What tells this content of the file from any other; None where nothing does."""
        written = version(self.url)
        if written is None or re.fullmatch(r"\{('size': \d+)?\}", written):
            return None
        return f"{written} {hashlib.blake2b(self.header, digest_size=16).hexdigest()}"

    @contextlib.contextmanager
    def reading(self) -> Iterator[BinaryIO]:
        """The open file, for `read`. One that is not local is copied first, once."""
        with _errors_named(self.url):
            stream = self._path.open("rb")
        with stream:
            yield stream

    def read(self, stream: BinaryIO, name: str, start: int, stop: int) -> np.ndarray:
        """Log-probabilities `[stop - start]` of some tokens of a set, float32.

        Raises:
            UnusableFileError: if they cannot be read, or are no log-probabilities.
        """
        place = self._places[name]
        size = np.dtype(place.dtype).itemsize
        with _errors_named(self.url):
            stream.seek(8 + len(self.header) + place.start + start * size)
            data = stream.read((stop - start) * size)
            if len(data) != (stop - start) * size:
                raise OSError("its end is missing")
        values = np.frombuffer(data, place.dtype)
        if place.dtype == _TYPES["BF16"]:
            values = (values.astype("<u4") << 16).view("<f4")
        values = values.astype(np.float32)
        if not _are_logprobs(values):
            raise UnusableFileError(self.url, f"{name}: {_NO_LOGPROBS}")
        return values

    @cached_property
    def _path(self) -> Path:
        if is_local(self.url):
            return local_path(self.url)
        copy = copy_of(self.url)
        weakref.finalize(self, copy.unlink, missing_ok=True)
        return copy

    @cached_property
    def _content(self) -> Mapping[str, Any]:
        content = json.loads(self.header)
        if not isinstance(content, dict):
            raise ValueError("it is no safetensors file")
        return content

    @cached_property
    def _places(self) -> dict[str, _Place]:
        entries = {k: v for k, v in self._content.items() if k != "__metadata__"}
        return {name: _Place.of(name, entry) for name, entry in entries.items()}


@dataclass(frozen=True)
class _Place:
    """Where a set's log-probabilities lie, from the end of the header."""

    dtype: str
    n_tokens: int
    start: int
    end: int

    @classmethod
    def of(cls, name: str, entry: Mapping[str, Any]) -> _Place:
        shape, (start, end) = entry["shape"], entry["data_offsets"]
        if len(shape) != 1 or shape[0] < 1:
            raise ValueError(f"{name}: log-probabilities must have shape [T], got {tuple(shape)}")
        if entry["dtype"] not in _TYPES:
            raise ValueError(f"{name}: numbers of type {entry['dtype']}")
        dtype = _TYPES[entry["dtype"]]
        if start < 0 or end - start != shape[0] * np.dtype(dtype).itemsize:
            raise ValueError(f"{name}: its place does not fit its shape")
        return cls(dtype, int(shape[0]), int(start), int(end))


def _json(value: Any) -> str:
    """Metadata as text; numbers and arrays of numpy and torch as what they hold."""
    return json.dumps(value, default=lambda v: v.tolist() if hasattr(v, "tolist") else str(v))


def _checked(name: str, values: Any) -> np.ndarray:
    if hasattr(values, "detach"):  # a torch tensor: of any device, in bfloat16, with a gradient
        values = values.detach().to("cpu").float().numpy()
    try:
        if isinstance(values, (list, tuple)):
            values = [value.item() if hasattr(value, "item") else value for value in values]
        array = np.ascontiguousarray(np.asarray(values), dtype=np.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ExpertFileError(f"{name}: log-probabilities must be an array of numbers") from error
    if array.ndim != 1 or array.size == 0:
        raise ExpertFileError(f"{name}: log-probabilities must have shape [T], got {array.shape}")
    if not _are_logprobs(array):
        raise ExpertFileError(f"{name}: {_NO_LOGPROBS}")
    return array


def _are_logprobs(values: np.ndarray) -> bool:
    return bool(values.max() <= _ROUNDING)  # NaN is at most nothing


def version(url: str) -> str | None:
    """What changes when the file is written anew; None where the file cannot be asked for it."""
    try:
        if is_local(url):
            status = os.stat(local_path(url))
            return f"{status.st_mtime_ns} {status.st_size} {status.st_ino}"
        import fsspec

        files, path = fsspec.core.url_to_fs(url)
        files.invalidate_cache()
        facts = files.info(path)
    except Exception:  # every file system has its own
        return None
    return repr({key: facts[key] for key in _FINGERPRINTS if key in facts})


def is_readable(url: str) -> bool:
    """Whether the file can be opened and read, whatever it holds."""
    try:
        with opened(url) as stream:
            stream.read(1)
    except Exception:  # every file system has its own
        return False
    return True


def is_missing(url: str) -> bool:
    """Whether a local file cannot be read; of remote ones nothing is known before the attempt."""
    return is_local(url) and not os.access(local_path(url), os.R_OK)


def resolve(url: str, folder: str | None) -> str:
    """A URL as it can be opened from here; relative paths start from ``folder``, which may be a
    URL as well."""
    if folder is None or "://" in url or os.path.isabs(url):
        return url
    return f"{folder.rstrip('/')}/{url}" if "://" in folder else str(Path(folder) / url)


def _write_bytes(url: str, data: bytes) -> None:
    if not is_local(url):
        import fsspec

        with fsspec.open(url, "wb") as stream:
            stream.write(data)
        return
    path = local_path(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file in a folder that exists; no reader finds half of it."""
    # Not `mkstemp`, whose files nobody else on a shared file system may read.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def opened(url: str) -> Iterator[BinaryIO]:
    """A file at any URL, open for reading at any place of it."""
    if is_local(url):
        with local_path(url).open("rb") as local:
            yield local
        return
    import fsspec

    with fsspec.open(url, "rb") as remote:
        try:
            remote.seek(0)
        except (OSError, ValueError):  # its length is unknown
            yield io.BytesIO(remote.read())
        else:
            yield remote


def copy_of(url: str) -> Path:
    """A file that is not local, copied into the system's folder of temporary ones."""
    from fsspec.core import url_to_fs

    system, path = url_to_fs(url)
    handle, name = tempfile.mkstemp(suffix=".safetensors")
    os.close(handle)
    try:
        system.get_file(path, name)
    except BaseException:
        os.unlink(name)
        raise
    return Path(name)
