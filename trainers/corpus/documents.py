"""One document's text: when it is a copy, which part of it a validation set takes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator

COPYRIGHT_HEAD = 2_000  # characters searched for copyright lines: licences and file headers
COPYRIGHT_LINE = re.compile(r"^.*\bcopyright\b.*$", re.IGNORECASE | re.MULTILINE)
LOWER = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", b"abcdefghijklmnopqrstuvwxyz")
SPACE = b" \t\r\n\f\v"


class CorpusError(ValueError):
    """A corpus that cannot be built or read; the message names the field and the mend."""


def digest(*parts: str | bytes, size: int = 16) -> str:
    """Hexadecimal BLAKE2 of some parts, the same in every process."""
    state = hashlib.blake2b(digest_size=size)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()


def content_key(text: str) -> bytes:
    """Hash that is equal for copies of a text, also with other white space, case or owner.

    Copyright lines at the beginning are left out: they are what differs between two copies of
    a licence. Digits and signs count: "1 + 1" and "1 - 1" are two texts.
    """
    head = COPYRIGHT_LINE.sub("", text[:COPYRIGHT_HEAD])
    data = (head + text[COPYRIGHT_HEAD:]).encode()
    return hashlib.blake2b(data.translate(LOWER, SPACE), digest_size=16).digest()


def excerpt(text: str, limit: int) -> str:
    """At most `limit` characters of whole lines, from a place that the text itself decides.

    Heads of files are all alike (licences, imports), so the place is anywhere in the text.
    """
    if len(text) <= limit:
        return text
    start = int(digest("excerpt", text, size=8), 16) % (len(text) - limit + 1)
    newline = text.rfind("\n", 0, start)
    start = newline + 1 if start - newline < limit // 2 else start
    part = text[start : start + limit]
    end = part.rfind("\n") + 1
    return part[:end] if end > limit // 2 else part


def first_characters(texts: Iterable[str], limit: int) -> Iterator[str]:
    """Texts up to `limit` characters together; the last one is cut."""
    for text in texts:
        yield text[:limit]
        limit -= len(text)
        if limit <= 0:
            return


def num_bytes(text: str) -> int:
    """UTF-8 bytes of a text."""
    return len(text) if text.isascii() else len(text.encode())


def batches(texts: Iterable[str], num_characters: int = 1_000_000) -> Iterator[list[str]]:
    """Lists of texts of about `num_characters` together, to bound the memory of encoding."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= num_characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
