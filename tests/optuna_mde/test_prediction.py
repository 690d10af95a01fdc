"""Intervals of predictions against recorded runs that the surrogate was not told."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.prediction import DATA, Split, predict_with
from benchmarks.tables import Recording


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("environment", "optuna-mde"),
        ("twins", "optuna-mde"),
        ("twins", "optuna-mde, experts at ⅛"),
    ],
)
def test_few_runs_beside_experts_have_intervals_that_hold_nine_of_ten(
    name: str, method: str
) -> None:
    """The posterior alone holds .95, .97 and .82 of them."""
    recording = Recording.load(DATA / name)
    every_set = np.eye(len(recording.sets))
    inside = []
    for seed in range(4):
        split = Split.draw(recording, seed)
        predicted = predict_with(recording, method, 12, split, every_set)
        assert predicted is not None
        assert predicted.sd is not None
        error = np.abs(predicted.mean - recording.losses[split.test])
        inside.append(error <= 1.645 * predicted.sd)
    assert 0.85 <= np.mean(inside) <= 0.96
