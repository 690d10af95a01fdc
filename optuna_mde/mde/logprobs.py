"""The file that an expert leaves: token log-probabilities of every validation set, at a URL."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from optuna_mde.mde.urls import is_local, local_path, trust

FORMAT_VERSION = "1"

# What fsspec's file systems call the things that a file written anew has others of. (Their `ukey`
# takes what lies at http for unchanging, and elsewhere holds times of access, too.)
_FINGERPRINTS = (
    *("ETag", "etag", "Content-MD5", "Digest", "md5Hash", "crc32c", "content_md5", "generation"),
    *("Last-Modified", "LastModified", "last_modified", "updated", "mtime", "modified", "created"),
    *("modificationTime", "VersionId", "size"),
)


class ExpertFileError(ValueError):
    """A log-probability file cannot be read, or does not belong to the others."""


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
    from safetensors.numpy import load

    try:
        data = _read_bytes(str(url))
        tensors = load(data)
        metadata = _metadata(data)
    except Exception as error:  # every file system has its own
        raise ExpertFileError(f"{url}: no readable log-probability file ({error})") from error
    names = sorted(tensors)  # the format keeps no order
    return {name: _checked(f"{url}: {name}", tensors[name]) for name in names}, metadata


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
    # float32 rounding of log-softmax may end a hair above zero
    if np.isnan(array).any() or array.max() > 1e-3:
        raise ExpertFileError(f"{name}: log-probabilities must be numbers of at most 0")
    return array


def _metadata(data: bytes) -> dict[str, Any]:
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    metadata = header.get("__metadata__", {})
    return metadata if isinstance(metadata, dict) else {}


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
    """A URL as it can be opened from here; relative paths start from ``folder``."""
    if folder is None or "://" in url or os.path.isabs(url):
        return url
    return str(Path(folder) / url)


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


def _read_bytes(url: str) -> bytes:
    with opened(url) as stream:
        return stream.read()
