"""RegMix's recorded runs: rates only, 17 Pile domains, 13 validation sets, three model sizes.

The table is public (the folder `data` of github.com/sail-sg/regmix, MIT licence) and not kept
here. Models learn from n of the 512 runs of 1M parameters; what is scored is their order of 256
other mixtures at 1M and at 60M parameters, and of 64 at 1B.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped]

from benchmarks.cells import Cells
from benchmarks.ours import predicted_targets, told_study
from benchmarks.peers import RATES_ONLY, Array, Evidence, Predicted
from benchmarks.scoring import coverage_table, keep_scores, score_table

RUNS = (16, 32, 64, 128)
SPLITS, QUICK_SPLITS = 10, 2
OURS = "optuna-mde without experts"
TARGETS = ("average of all sets", "Pile-CC")
SCALES = {"1m": "RegMix 1M", "60m": "RegMix 60M", "1B": "RegMix 1B"}


def score(folder: Path, cells: Cells, only: Sequence[str], quick: bool) -> None:
    """Fill the cells that are missing."""
    domains, X, sets, Y = _read(folder, "train", "1m")
    tests = {name: _read(folder, "test", scale) for scale, name in SCALES.items()}
    names = [n for n in (*RATES_ONLY, OURS) if not only or any(part in n for part in only)]
    tasks = [
        (name, n, split)
        for name in names
        for n in RUNS
        for split in range(QUICK_SPLITS if quick else SPLITS)
        if not cells.has(SCALES["1B"], name, n, split)
    ]
    W = _targets(sets)
    for name, n, split in tqdm(tasks, desc="RegMix", unit="fit"):
        rows = np.random.default_rng(1000 + split).permutation(len(X))[:n]
        Z = np.concatenate([test[1] for test in tests.values()])
        predicted = _predict(name, domains, sets, X[rows], Y[rows], Z, W)
        start = 0
        for scale, (_, mixtures, sets_there, losses) in tests.items():
            assert sets_there == sets, (scale, sets_there)
            part = slice(start, start + len(mixtures))
            start = part.stop
            sd = None if predicted.sd is None else predicted.sd[part]
            there = Predicted(predicted.mean[part], sd)
            keep_scores(cells, (scale, name, n, split), TARGETS, there, losses @ W.T)


def report(cells: Cells) -> str:
    """Tables of the scores at every scale."""
    parts = []
    for scale in SCALES.values():
        for target in TARGETS:
            parts += [f"### {scale}, {target}", score_table(cells, scale, [target])]
    parts += ["### RegMix 1M, intervals", coverage_table(cells, SCALES["1m"], TARGETS)]
    return "\n\n".join(parts)


def _predict(
    name: str,
    domains: Sequence[str],
    sets: Sequence[str],
    X: Array,
    Y: Array,
    Z: Array,
    W: Array,
) -> Predicted:
    if name == OURS:
        study = told_study(domains, sets, X, Y, np.ones(len(X)), {})
        return predicted_targets(study, domains, sets, Z, W)
    return RATES_ONLY[name](Evidence(X, Y, np.zeros(len(X), dtype=bool)), Z, W)


def _targets(sets: Sequence[str]) -> Array:
    common_crawl = next(i for i, name in enumerate(sets) if "pile_cc" in name)
    return np.stack([np.full(len(sets), 1.0 / len(sets)), np.eye(len(sets))[common_crawl]])


def _read(folder: Path, part: str, scale: str) -> tuple[list[str], Array, list[str], Array]:
    """Domains, rates, sets and losses of one table; rates are rounded there to three digits."""
    domains, rates = _table(folder / f"{part}_mixture_{scale}.csv")
    sets, losses = _table(folder / f"{part}_pile_loss_{scale}.csv")
    order = sorted(range(len(sets)), key=sets.__getitem__)
    X = np.array([rates[run] for run in losses])
    Y = np.array([losses[run] for run in losses])[:, order]
    return domains, X / X.sum(axis=1, keepdims=True), [sets[j] for j in order], Y


def _table(path: Path) -> tuple[list[str], dict[str, list[float]]]:
    with path.open(newline="", encoding="utf-8") as stream:
        (_, *names), *rows = csv.reader(stream)
    return names, {run: list(map(float, values)) for run, *values in rows}
