"""Tables of runs as CSV files, in the dialects of spreadsheets and other tools."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

KEYS = ("run", "run_id", "index")
"""Columns that name a run, the first that is there: of olmix, of its older files, of RegMix."""

LABELS = ("name", "index", "run_id")
"""Columns of olmix beside `run` that hold no figures."""

SEPARATORS = (",", ";", "\t")

_UNNAMED = re.compile(r"(Unnamed: \d+)?")  # pandas writes row numbers into a column without a name
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")

LONGEST = 60
"""Characters of a cell that a message shows."""
LONGEST_NAME = 200
"""Of a run or a column; paths and storages have no room for much more."""
MOST_NAMED = 3
"""Rows that a message names; the others are counted."""


class ExchangeError(ValueError):
    """Tables or studies that cannot be taken over; the message names the place and the mend."""


@dataclass(frozen=True)
class Row:
    """One run of a table."""

    line: int
    run: str
    cells: dict[str, str]


@dataclass(frozen=True)
class Table:
    """A CSV file, a row a run."""

    path: Path
    key: str
    """The column that names the runs."""
    columns: tuple[str, ...]
    """The others, but for labels."""
    rows: tuple[Row, ...]

    @property
    def by_run(self) -> dict[str, Row]:
        return {row.run: row for row in self.rows}

    def place(self, row: Row) -> str:
        """Where a row stands, for a message."""
        return f"{self.path}, line {row.line} (run {row.run})"


def read(path: Path) -> Table:
    """Read a table.

    UTF-8 with or without a byte-order mark; columns separated by commas, semicolons or tabs, the
    ones that the header has; decimal commas in files with semicolons or tabs.

    Raises:
        ExchangeError: if it is no such table, or a run or a column is there twice.
    """
    lines = list(_lines(path))
    if len(lines) < 2:
        raise ExchangeError(f"{path}: holds no run; a header and a line a run are needed")
    (_, header), *body = lines
    header = [_checked(path, 1, name) for name in header]
    key = next((name for name in KEYS if name in header), None)
    if key is None:
        raise ExchangeError(
            f"{path}: no column 'run' that names the runs; the header holds "
            f"{_some(map(repr, header))}"
        )
    twice = sorted({name for name in header if header.count(name) > 1 and name})
    if twice:
        raise ExchangeError(f"{path}: {_some(map(repr, twice))} is there twice in the header")
    columns = tuple(
        name for name in header if name != key and name not in LABELS and not _is_unnamed(name)
    )
    rows = []
    for line, cells in body:
        if len(cells) != len(header):
            raise ExchangeError(
                f"{path}, line {line}: {len(cells)} cells, and the header has {len(header)}"
            )
        row = dict(zip(header, (cell.strip() for cell in cells), strict=True))
        if not row[key]:
            raise ExchangeError(f"{path}, line {line}: the column {key!r} is empty")
        _checked(path, line, row[key])
        rows.append(Row(line, row[key], {name: row[name] for name in columns}))
    _check_runs(path, rows)
    return Table(path, key, columns, tuple(rows))


def write(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a table: UTF-8, commas; floats as Python writes them, so that nothing is lost."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    path.write_text(stream.getvalue(), encoding="utf-8", newline="")


def number(cell: str) -> float | None:
    """The number in a cell; None of anything else. An empty cell is NaN."""
    if not cell:
        return float("nan")
    if _DECIMAL_COMMA.fullmatch(cell):
        cell = cell.replace(",", ".")
    if "_" in cell:  # Python's own digits groups, which no table means
        return None
    try:
        return float(cell)
    except ValueError:
        return None


def shown(text: str) -> str:
    """A cell or a name as a message shows it."""
    return repr(text if len(text) <= LONGEST else text[: LONGEST - 1] + "…")


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Lines that hold something, by number."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ExchangeError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise ExchangeError(f"{path}: is not UTF-8; save it as CSV in UTF-8") from None
    if "\0" in text:
        raise ExchangeError(f"{path}: holds NUL bytes, and is no CSV file")
    header = text.partition("\n")[0]
    separator = max(SEPARATORS, key=header.count)
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True
    )
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise ExchangeError(f"{path}, line {reader.line_num}: no CSV ({error})") from None


def _checked(path: Path, line: int, name: str) -> str:
    """The name of a run or a column."""
    if len(name) > LONGEST_NAME:
        raise ExchangeError(f"{path}, line {line}: {shown(name)} is too long for a name")
    return name.strip()


def _check_runs(path: Path, rows: Iterable[Row]) -> None:
    seen: dict[str, int] = {}
    for row in rows:
        if row.run in seen:
            raise ExchangeError(
                f"{path}: run {row.run} is there twice, in lines {seen[row.run]} and {row.line}; "
                "which of them holds?"
            )
        seen[row.run] = row.line


def _is_unnamed(name: str) -> bool:
    return _UNNAMED.fullmatch(name) is not None


def _some(words: Iterable[str], most: int = 12) -> str:
    kept = list(words)
    rest = len(kept) - most
    return ", ".join(kept[:most]) + (f" and {rest} more" if rest > 0 else "")


def several(found: list[str]) -> str:
    """The first of several complaints, and how many more there are."""
    rest = len(found) - MOST_NAMED
    return "\n".join(found[:MOST_NAMED]) + (f"\n… and {rest} more like these" if rest > 0 else "")
