"""Intervals, and how an observed loss moves one."""

from __future__ import annotations

import numpy as np
import pytest

from optuna_mde.answers.intervals import Z90, interval, signed, weighed


@pytest.mark.parametrize(("sd", "noise"), [(0.1, 0.1), (0.2, 0.01), (0.01, 0.2)])
def test_a_prediction_and_a_run_are_weighed_by_their_precision(sd: float, noise: float) -> None:
    """The posterior of a normal prior and a normal run, on a grid."""
    grid = np.linspace(-3.0, 3.0, 200_001)
    density = np.exp(-0.5 * ((grid - 0.3) / sd) ** 2 - 0.5 * ((grid - 0.5) / noise) ** 2)
    density /= density.sum()
    mean = float(density @ grid)
    spread = float(density @ (grid - mean) ** 2) ** 0.5
    found = weighed(interval(0.3, sd), 0.5, noise)
    assert (found.mean, found.low, found.high) == pytest.approx(
        (mean, mean - Z90 * spread, mean + Z90 * spread), abs=1e-6
    )


def test_a_run_that_diverged_moves_no_interval() -> None:
    assert weighed(interval(0.3, 0.1), float("nan"), 0.1) == interval(0.3, 0.1)


def test_an_interval_of_a_maximised_value_keeps_its_ends_in_order() -> None:
    found = signed(interval(-2.0, 0.1), -1.0)
    assert found.mean == 2.0
    assert found.low < found.mean < found.high
    assert signed(interval(2.0, 0.1), 1.0) == interval(2.0, 0.1)
