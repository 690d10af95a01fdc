"""Intervals against an emulator's noise-free losses."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks import calibration
from benchmarks.cells import Cells
from benchmarks.emulator import FAMILIES, emulator
from benchmarks.scoring import KEYS, SCORES
from benchmarks.tables import Recording


def test_told_runs_are_noisy_and_the_truth_is_not(recording: Recording, tmp_path: Path) -> None:
    emulators = [emulator(recording, family, tmp_path) for family in FAMILIES]
    targets = calibration.goals(recording, emulators)
    assert targets.names[:4] == ("unseen", "skewed", "own", recording.sets[0])
    np.testing.assert_allclose(targets.W.sum(axis=1), 1.0)

    told = [calibration.with_losses_of(emulators[0], recording, seed) for seed in range(200)]
    rows = recording.designed
    clean = emulators[0].losses(recording.mixtures[rows])
    noise = np.array([r.losses[rows] - clean for r in told])
    np.testing.assert_allclose(noise.std(axis=(0, 1)), recording.noise_sd, rtol=0.05)
    experts = recording.rows("expert")
    np.testing.assert_array_equal(told[0].losses[experts], recording.losses[experts])

    cells = Cells(tmp_path / "cells.csv", KEYS, SCORES)
    name = calibration.score(recording, emulators[0], targets, cells, quick=True)
    assert name == "small, emulator rates"
    inside = cells.values("inside90", recording=name, method="optuna-mde", total=12)
    assert len(inside) == 2 * len(targets.names)
    assert inside.mean() > 0.7
