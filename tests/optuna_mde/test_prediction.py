"""Intervals of predictions against recorded runs that the surrogate was not told."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.prediction import DATA, Split, predict_with
from benchmarks.tables import Recording


@pytest.mark.parametrize("name", ["environment", "twins"])
def test_few_runs_beside_experts_have_intervals_that_hold_nine_of_ten(name: str) -> None:
    """The posterior alone holds .95 of them on one recording and .97 on the other."""
    recording = Recording.load(DATA / name)
    every_set = np.eye(len(recording.sets))
    inside = []
    for seed in range(4):
        split = Split.draw(recording, seed)
        predicted = predict_with(recording, "optuna-mde", 12, split, every_set)
        assert predicted is not None
        assert predicted.sd is not None
        error = np.abs(predicted.mean - recording.losses[split.test])
        inside.append(error <= 1.645 * predicted.sd)
    assert 0.85 <= np.mean(inside) <= 0.96
