"""Documents of domains and validation sets: copies removed, split, ordered and cut to size.

Everything here follows from texts and names by BLAKE2, so that another process or machine makes
the same choice from the same texts.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

COPYRIGHT_HEAD = 2_000  # characters searched for copyright lines: licences and file headers
COPYRIGHT_LINE = re.compile(r"^.*\bcopyright\b.*$", re.IGNORECASE | re.MULTILINE)
LOWER = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", b"abcdefghijklmnopqrstuvwxyz")
SPACE = b" \t\r\n\f\v"


class CorpusError(ValueError):
    """A corpus that cannot be built or read; the message names the field and the mend."""


@dataclass(frozen=True)
class Documents:
    """What one source holds."""

    names: Sequence[str] | None
    """Identity of each document for split and order; None: its text."""
    texts: Sequence[str | None]
    """May be read lazily from disk. None and blank texts count as absent."""


@dataclass(frozen=True)
class Chosen:
    """Some documents of a source, in an order of their own."""

    texts_of: Sequence[str | None]
    """All texts of the source; only those at `indices` are chosen."""
    indices: tuple[int, ...]
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    """UTF-8 bytes of each."""

    @property
    def num_bytes(self) -> int:
        return sum(self.sizes)

    def texts(self) -> Iterator[str]:
        for index in self.indices:
            text = self.texts_of[index]
            assert text is not None
            yield text

    def take(self, places: Iterable[int]) -> Chosen:
        """The documents at some places of this choice, in that order."""
        places = list(places)
        return Chosen(
            self.texts_of,
            tuple(self.indices[place] for place in places),
            tuple(self.names[place] for place in places),
            tuple(self.sizes[place] for place in places),
        )


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


def without_copies(documents: Documents, seen: set[bytes]) -> Chosen:
    """Documents with a text that is not in `seen`; adds theirs to it."""
    indices, names, sizes = [], [], []
    for index, text in enumerate(documents.texts):
        if text is None or not text.strip():
            continue
        key = content_key(text)
        if key not in seen:
            seen.add(key)
            indices.append(index)
            names.append(key.hex() if documents.names is None else documents.names[index])
            sizes.append(num_bytes(text))
    return Chosen(documents.texts, tuple(indices), tuple(names), tuple(sizes))


def split(chosen: Chosen, held_out: float) -> tuple[Chosen, Chosen]:
    """Training and held-out documents; a share `held_out` of all names is held out."""
    bound = int(held_out * 2**64)
    out = [int(digest("held out", name, size=8), 16) < bound for name in chosen.names]
    return (
        chosen.take(place for place, held in enumerate(out) if not held),
        chosen.take(place for place, held in enumerate(out) if held),
    )


def shuffled(chosen: Chosen, seed: int) -> Chosen:
    """The same documents in the order of a hash of seed and name."""
    keys = [digest("order", str(seed), name) for name in chosen.names]
    return chosen.take(sorted(range(len(keys)), key=lambda place: (keys[place], place)))


def first_bytes(chosen: Chosen, limit: int | None) -> Chosen:
    """The first documents that together hold `limit` bytes; the last one stays whole."""
    if limit is None:
        return chosen
    count = size = 0
    while count < len(chosen.sizes) and size < limit:
        size += chosen.sizes[count]
        count += 1
    return chosen.take(range(count))


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
