"""A long table of figures on disk: what is in it is not computed again."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

Key = tuple[str | int, ...]


class Cells:
    """Rows of a key and figures, appended to a CSV file as they come.

    Args:
        path: the file; what it holds is read.
        keys: names of the key's columns.
        figures: names of the columns of figures.

    Raises:
        ValueError: if the file has other columns.
    """

    def __init__(self, path: Path, keys: Sequence[str], figures: Sequence[str]) -> None:
        self.path, self.keys, self.figures = path, tuple(keys), tuple(figures)
        self.rows: dict[tuple[str, ...], tuple[float, ...]] = {}
        self._known: set[tuple[str, ...]] = set()
        header = [*keys, *figures]
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(",".join(header) + "\n", encoding="utf-8")
        text = path.read_text(encoding="utf-8")
        if not text.endswith("\n"):  # the last line was cut off
            text = text[: text.rfind("\n") + 1]
            path.write_text(text, encoding="utf-8")
        found, *rows = csv.reader(text.splitlines())
        if found != header:
            raise ValueError(f"{path} has columns {found}, not {header}; choose another --out")
        for row in rows:
            self._keep(row)

    def has(self, *key: str | int) -> bool:
        """Whether there is a row whose key starts like this."""
        return tuple(map(str, key)) in self._known

    def add(self, rows: Mapping[Key, Sequence[float]]) -> None:
        """Append rows, all of them or (interrupted) none."""
        lines = [[*map(str, key), *(f"{v:.6g}" for v in figures)] for key, figures in rows.items()]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(lines)
        with self.path.open("a", newline="", encoding="utf-8") as stream:
            stream.write(text.getvalue())
        for line in lines:
            self._keep(line)

    def values(self, figure: str, **key: str | int) -> np.ndarray:
        """A figure of all rows with these parts of the key, in the order of the file."""
        wanted = {self.keys.index(name): str(value) for name, value in key.items()}
        column = self.figures.index(figure)
        return np.array(
            [
                figures[column]
                for row, figures in self.rows.items()
                if all(row[i] == value for i, value in wanted.items())
            ]
        )

    def names(self, key: str, **other: str | int) -> list[str]:
        """Values of one part of the key, each once, in the order of the file."""
        wanted = {self.keys.index(name): str(value) for name, value in other.items()}
        column = self.keys.index(key)
        found = [r[column] for r in self.rows if all(r[i] == v for i, v in wanted.items())]
        return list(dict.fromkeys(found))

    def _keep(self, row: Sequence[str]) -> None:
        n = len(self.keys)
        self.rows[tuple(row[:n])] = tuple(map(float, row[n:]))
        self._known |= {tuple(row[:i]) for i in range(n + 1)}
