"""Intervals of maximised values."""

from __future__ import annotations

from optuna_mde.answers.intervals import interval, signed


def test_an_interval_of_a_maximised_value_keeps_its_ends_in_order() -> None:
    found = signed(interval(-2.0, 0.1), -1.0)
    assert found.mean == 2.0
    assert found.low < found.mean < found.high
    assert signed(interval(2.0, 0.1), 1.0) == interval(2.0, 0.1)
