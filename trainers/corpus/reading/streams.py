"""Bytes of a file, unpacked: gzip, bzip2, xz and zstandard by their first bytes; tar and zip.

A file that ends too soon is an error that names it, never a shorter text.
"""

from __future__ import annotations

import bz2
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Protocol

from optuna_mde_trainers.corpus.documents import CorpusError

READ_BYTES = 2**16  # read at once: what unpacks to a thousand times its size stays below 64 MB
TAR_MAGIC = slice(257, 262)
HEAD = 512  # bytes that show what a file is; a tar's magic lies at 257
DAMAGED = "is damaged or was cut short"


@dataclass(frozen=True)
class Member:
    """One file, or one file of an archive, as pieces of unpacked bytes."""

    name: str
    pieces: Iterator[bytes]


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def _zstandard() -> _Decompressor:
    try:
        import zstandard
    except ImportError as error:
        raise CorpusError(
            "it is compressed with zstandard, which needs the package: pip install zstandard"
        ) from error
    decompressor: Any = zstandard.ZstdDecompressor(max_window_size=2**31)  # as `zstd --long=31`
    return decompressor.decompressobj()


COMPRESSIONS: dict[bytes, tuple[str, Callable[[], _Decompressor]]] = {
    b"\x1f\x8b": ("gzip", lambda: zlib.decompressobj(31)),
    b"BZh": ("bzip2", bz2.BZ2Decompressor),
    b"\xfd7zXZ\x00": ("xz", lzma.LZMADecompressor),
    b"\x28\xb5\x2f\xfd": ("zstandard", _zstandard),
}
SUFFIXES = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstandard"}
ARCHIVES = (".tar", ".zip")


def open_raw(file: str) -> IO[bytes]:
    """A local file, or one at a URL that fsspec knows, opened for reading."""
    if "://" not in file:
        return open(file, "rb")
    import fsspec

    opened: IO[bytes] = fsspec.open(file, "rb").open()
    return opened


def members(file: str, raw: IO[bytes]) -> Iterator[Member]:
    """What a file holds: itself, or the files of a tar or zip archive, unpacked.

    Args:
        file: its name, for messages and by its suffix.
        raw: the file, open at its beginning.

    Raises:
        CorpusError: the file is empty though its suffix says that it is packed, is no file of
            its kind, or ends too soon.
    """
    head = raw.read(HEAD)
    raw.seek(0)
    suffix = next((s for s in (*SUFFIXES, *ARCHIVES) if file.endswith(s)), None)
    if not head and suffix is not None:
        raise CorpusError(f"{file} is empty (0 bytes), which no {suffix} file is; copy it again")
    if head.startswith(b"PK\x03\x04") or suffix == ".zip":
        yield from _zip_members(file, raw)
        return
    kind = next((kind for magic, (kind, _) in COMPRESSIONS.items() if head.startswith(magic)), "")
    if suffix in SUFFIXES and not kind:
        raise CorpusError(
            f"{file} is no {SUFFIXES[suffix]} file, though its name ends in {suffix}; "
            "mend the name or the file"
        )
    pieces = _pieces(file, raw)
    first = b""
    for piece in pieces:
        first += piece
        if len(first) >= HEAD:
            break
    if first[TAR_MAGIC] == b"ustar" or suffix == ".tar":
        yield from _tar_members(file, _joined(first, pieces))
    else:
        yield Member(file, _joined(first, pieces))


def _joined(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest


def _pieces(file: str, raw: IO[bytes]) -> Iterator[bytes]:
    """Pieces of a file, unpacked as often as it is packed (`.jsonl.gz`; not `.gz.gz`)."""
    data = raw.read(READ_BYTES)
    new = next((new for magic, (_, new) in COMPRESSIONS.items() if data.startswith(magic)), None)
    if new is None:
        while data:
            yield data
            data = raw.read(READ_BYTES)
        return
    decompressor = None  # of the member that is read: files may be several, joined
    try:
        while data:
            if decompressor is None and data.strip(b"\0"):  # zeros behind a member are padding
                decompressor = new()
            if decompressor is not None:
                yield decompressor.decompress(data)
                if decompressor.eof:
                    data, decompressor = decompressor.unused_data, None
                    if data:
                        continue
            data = raw.read(READ_BYTES)
    except CorpusError as error:
        raise CorpusError(f"{file}: {error}") from error
    except Exception as error:  # zlib.error, LZMAError, OSError, ZstdError: one for each library
        raise CorpusError(f"{file} {DAMAGED} ({error}); copy or pack it again") from error
    if decompressor is not None:
        raise CorpusError(f"{file} {DAMAGED} (its last member has no end); copy or pack it again")


class _Pipe(io.RawIOBase):
    """Pieces of bytes as a file that can be read once."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = memoryview(piece)
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


def as_file(pieces: Iterator[bytes]) -> io.BufferedReader:
    """Pieces of bytes as a file that can be read once, from its beginning to its end."""
    return io.BufferedReader(_Pipe(pieces), 2**18)


def _tar_members(file: str, pieces: Iterator[bytes]) -> Iterator[Member]:
    try:
        with tarfile.open(fileobj=as_file(pieces), mode="r|") as archive:
            for entry in archive:
                if entry.isfile() and is_data(entry.name):
                    opened = archive.extractfile(entry)
                    assert opened is not None
                    name = f"{file}::{entry.name}"
                    yield Member(name, _guarded(file, _pieces(name, opened)))
    except (tarfile.TarError, EOFError) as error:
        raise CorpusError(f"{file} {DAMAGED} ({error}); copy or pack it again") from error


def _zip_members(file: str, raw: IO[bytes]) -> Iterator[Member]:
    try:
        with zipfile.ZipFile(raw) as archive:
            for entry in archive.infolist():
                if not entry.is_dir() and is_data(entry.filename):
                    name = f"{file}::{entry.filename}"
                    with archive.open(entry) as opened:
                        yield Member(name, _guarded(file, _pieces(name, opened)))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, CorpusError):
            raise
        raise CorpusError(f"{file} {DAMAGED} ({error}); copy or pack it again") from error


def _guarded(file: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Errors of an archive come while its members are read."""
    try:
        yield from pieces
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise CorpusError(f"{file} {DAMAGED} ({error}); copy or pack it again") from error


def is_data(name: str) -> bool:
    """Whether a file that a pattern or a folder gives is meant: `_SUCCESS` and `.crc` are not."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return not any(part.startswith((".", "_")) for part in parts[-1:] or [""]) and (
        "__MACOSX" not in parts
    )
