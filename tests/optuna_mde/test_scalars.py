from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from optuna_mde.scalars import as_float, is_number, real, shares, whole

ONE = [1, 1.0, np.int64(1), np.float32(1), np.array(1.0), np.array([1]), torch.tensor(1)]
ONE += [torch.tensor(1.0, dtype=torch.bfloat16), torch.tensor([1.0], requires_grad=True)]
NONE: list[Any] = [None, True, np.bool_(True), "a", [1.0], np.ones(2), torch.ones(2), 1j, {}]


@pytest.mark.parametrize("value", ONE)
def test_one_number_is_pythons_own(value: Any) -> None:
    assert is_number(value)
    assert (real("x", value), type(real("x", value))) == (1.0, float)
    assert (whole("x", value), type(whole("x", value))) == (1, int)
    assert as_float(value) == 1.0


@pytest.mark.parametrize("value", NONE)
def test_anything_else_is_named(value: Any) -> None:
    assert not is_number(value)
    assert as_float(value) is None
    for read in (real, whole):
        with pytest.raises(ValueError, match="budget must be a"):
            read("budget", value)


def test_numbers_out_of_reach() -> None:
    assert whole("x", 10**400) == 10**400
    assert as_float(10**400) is None
    assert math.isnan(real("x", math.nan))
    with pytest.raises(ValueError, match="x is too large"):
        real("x", 10**400)
    for value in (math.nan, math.inf, 1.5):
        with pytest.raises(ValueError, match="x must be a whole number"):
            whole("x", value)
    with pytest.raises(ValueError, match="give the number, not its text"):
        real("x", "0.5")


def test_shares_of_the_largest_numbers() -> None:
    assert shares([1.5e308, 1.5e308, 0.0]) == pytest.approx([0.5, 0.5, 0.0])
    assert shares([600, 300, 100]) == [0.6, 0.3, 0.1]
