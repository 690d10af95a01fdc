from pathlib import Path

import numpy as np
import pytest

from benchmarks.cells import Cells


def test_what_was_added_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "cells.csv"
    cells = Cells(path, ("method", "seed"), ("regret", "width"))
    cells.add({("a, b", 0): (0.5, np.nan), ("a, b", 1): (0.25, 1.0)})
    again = Cells(path, ("method", "seed"), ("regret", "width"))
    for table in (cells, again):
        assert table.has("a, b", 1)
        assert table.has("a, b")
        assert not table.has("c")
        np.testing.assert_equal(table.values("width", method="a, b"), [np.nan, 1.0])
        assert table.names("seed", method="a, b") == ["0", "1"]


def test_a_line_that_was_cut_off_is_computed_again(tmp_path: Path) -> None:
    path = tmp_path / "cells.csv"
    Cells(path, ("method",), ("regret", "width")).add({("a",): (1, 2)})
    with path.open("a") as stream:
        stream.write("b,0.5")
    again = Cells(path, ("method",), ("regret", "width"))
    assert again.has("a")
    assert not again.has("b")
    again.add({("b",): (3, 4)})
    assert Cells(path, ("method",), ("regret", "width")).values("width", method="b") == [4]


def test_a_file_of_other_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cells.csv"
    Cells(path, ("method",), ("regret",))
    with pytest.raises(ValueError, match="choose another --out"):
        Cells(path, ("method",), ("mse",))
