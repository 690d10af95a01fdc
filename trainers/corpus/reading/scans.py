"""What is read from which files, a piece of what was read, and sentences on what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CHUNK_BYTES = 2**22  # of unpacked text: 64 chunks in flight stay below 300 MB


@dataclass(frozen=True)
class Scan:
    """Files that are read together, and what is taken from their rows."""

    format: str
    files: tuple[str, ...]
    column: str
    """Column of the text, or of the token ids; a dot leads into a field of it."""
    tags: tuple[str, ...] = ()
    """Columns that filters look at, sorted."""
    holds_ids: bool = False
    """Whether the column holds lists of token ids."""
    dtype: str | None = None
    """Type of the ids of `.bin` files."""
    end_of_text: int | None = None
    """Token that ends the documents of `.bin` and `.npy` files."""
    collection: str | None = None
    """Built-in collection that is read in place of files."""

    @property
    def is_tokens(self) -> bool:
        """Whether the rows are token ids in place of text."""
        return self.holds_ids or self.format in ("npy", "bin")


@dataclass(frozen=True)
class Chunk:
    """Rows of one file, not parsed yet."""

    file: str
    first: int
    """Line of the file at which a chunk of lines begins, from 1; else its first row, from 0."""
    rows: Any
    """Bytes of whole lines, a list of texts or of dicts, a record batch, or token ids."""
    names: tuple[str, ...] | None = None
    """Identity of each row for split and order; None: its text."""
    position: int = 0
    """Bytes of the files that have been read at the end of this chunk, as they are packed."""


def not_utf8(place: str, error: UnicodeDecodeError) -> str:
    """The sentence on bytes that are no UTF-8."""
    if error.object.startswith(b"PAR1"):  # which Parquet files begin with
        return f"{place} is of a Parquet file, not of text; take path: parquet"
    found = error.object[error.start : error.start + 1].hex()
    return (
        f"{place} is not UTF-8 (byte 0x{found}); convert the file, "
        "for example with iconv -f latin1 -t utf-8"
    )


def no_column(scan: Scan, file: str, columns: list[str]) -> str:
    """The sentence on a column that a file lacks."""
    shown = ", ".join(columns[:20]) or "no columns"
    more = f" and {len(columns) - 20} more" if len(columns) > 20 else ""
    field = "tokens_column" if scan.holds_ids else "text_column"
    return f"{field}: {file} has no column {scan.column!r}; it has {shown}{more}"


def short(error: Exception) -> str:
    """An error's message in one line."""
    return " ".join(str(error).split())[:160]
