"""Whether intervals hold what a mixture would give without the noise of a run.

    python -m benchmarks.calibration [RECORDING ...] [--quick] [--out runs/benchmark-calibration]

As `benchmarks.prediction`: mixtures are told n at a time, experts counted, and others predicted.
Here an emulator (`emulator`) gives the losses of the told ones, with the recorded seed noise, and
of the others without: the intervals are those of `predict`, for every set and for the goals of the
objectives that `benchmarks.search` minimises. Experts' losses are the recorded ones.

`cells.csv` in the output folder keeps what was computed: it can be interrupted at any time.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import optuna
from tqdm import tqdm  # type: ignore[import-untyped]

from benchmarks.cells import Cells
from benchmarks.emulator import FAMILIES, Emulator, emulator
from benchmarks.prediction import DATA, OURS_WITHOUT, Split, Targets, predict_with
from benchmarks.scoring import KEYS, SCORES, coverage_table, keep_scores
from benchmarks.search import objectives
from benchmarks.searchers import Problem
from benchmarks.tables import Recording
from benchmarks.threads import on_one_thread

METHODS = ("optuna-mde", "optuna-mde, experts at ½", OURS_WITHOUT)
TOTALS, SPLITS = (12, 18, 32), 10
QUICK_TOTALS, QUICK_SPLITS = (12,), 2


def main() -> None:
    """Score every model, print the tables and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recordings", nargs="*", type=Path, help="packed recordings")
    parser.add_argument("--quick", action="store_true", help="1 total, 2 splits")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-calibration"))
    options = parser.parse_args()
    on_one_thread("benchmarks.calibration")
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    cells = Cells(options.out / "cells.csv", KEYS, SCORES)
    for folder in options.recordings or sorted(p for p in DATA.iterdir()):
        recording = Recording.load(folder)
        emulators = [emulator(recording, family, options.out) for family in FAMILIES]
        targets = goals(recording, emulators)
        for emulated in emulators:
            name = score(recording, emulated, targets, cells, options.quick)
            print(f"### {name}: inside 50 / 90 %, median width / width needed\n")
            print(coverage_table(cells, name, targets.names, recording.sets), flush=True)


def goals(recording: Recording, emulators: list[Emulator]) -> Targets:
    """The goals of all objectives, and every set."""
    found: dict[str, dict[str, float]] = {}
    for objective, groups in objectives(recording, emulators).items():
        for goal, weights in groups.items():
            found[objective if len(groups) == 1 else goal] = weights
    W = np.concatenate(
        [Problem(recording, emulators[0], found).weights, np.eye(len(recording.sets))]
    )
    return Targets((*found, *recording.sets), W)


def score(
    recording: Recording, emulated: Emulator, targets: Targets, cells: Cells, quick: bool
) -> str:
    """Fill the cells that are missing, and say under which name of a recording they stand."""
    name = f"{recording.name}, emulator {emulated.family}"
    totals, splits = (QUICK_TOTALS, QUICK_SPLITS) if quick else (TOTALS, SPLITS)
    for split in tqdm(range(splits), desc=name, unit="split"):
        drawn = Split.draw(recording, split)
        noisy = with_losses_of(emulated, recording, seed=split)
        truth = emulated.losses(recording.mixtures[drawn.test]) @ targets.W.T
        for method, total in product(METHODS, totals):
            key = (name, method, total, split)
            if cells.has(*key):
                continue
            predicted = predict_with(noisy, method, total, drawn, targets.W, noisy=False)
            if predicted is not None:
                keep_scores(cells, key, targets.names, predicted, truth)
    return name


def with_losses_of(emulated: Emulator, recording: Recording, seed: int) -> Recording:
    """The recording, had the emulator's runs been recorded; experts as they are."""
    losses = recording.losses.copy()
    for row in recording.designed:
        rng = np.random.default_rng([seed, int(row)])
        losses[row] = emulated.run(recording.mixtures[row], rng)
    return replace(recording, losses=losses)


if __name__ == "__main__":
    main()
