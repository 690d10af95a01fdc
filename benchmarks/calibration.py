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
from pathlib import Path

import numpy as np
import optuna
from tqdm import tqdm  # type: ignore[import-untyped]

from benchmarks.cells import Cells
from benchmarks.emulator import FAMILIES, Emulator, emulator
from benchmarks.prediction import DATA, OURS_WITHOUT, Split, Targets, predict_with
from benchmarks.scoring import KEYS, SCORES, coverage_table, scores_of
from benchmarks.search import objectives
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
    rows = [[weights.get(name, 0.0) for name in recording.sets] for weights in found.values()]
    W = np.array(rows)
    W /= W.sum(axis=1, keepdims=True)
    names = (*found, *recording.sets)
    return Targets(names, np.concatenate([W, np.eye(len(recording.sets))]))


def score(
    recording: Recording, emulated: Emulator, targets: Targets, cells: Cells, quick: bool
) -> str:
    """Fill the cells that are missing, and say under which name of a recording they stand."""
    name = f"{recording.name}, emulator {emulated.family}"
    totals, splits = (QUICK_TOTALS, QUICK_SPLITS) if quick else (TOTALS, SPLITS)
    tasks = [
        (split, method, total)
        for split in range(splits)
        for method in METHODS
        for total in totals
        if not cells.has(name, method, total, split)
    ]
    for split, method, total in tqdm(tasks, desc=name, unit="fit"):
        drawn = Split.draw(recording, split)
        noisy = with_losses_of(emulated, recording, seed=split)
        predicted = predict_with(noisy, method, total, drawn, targets.W, noisy=False)
        if predicted is not None:
            truth = emulated.losses(recording.mixtures[drawn.test]) @ targets.W.T
            scores = zip(targets.names, scores_of(predicted, truth), strict=True)
            cells.add({(name, method, total, split, target): s for target, s in scores})
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
