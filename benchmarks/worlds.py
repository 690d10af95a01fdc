"""Searches of planted worlds: what is found, and what is promised, where MDE is right or wrong.

    python -m benchmarks.worlds [--only WORLD ...] [--seeds 5] [--out runs/benchmark-worlds]

Every study of ours has 25 runs, experts counted (files that are passed in cost nothing), and is
asked after 13 and 25. Beside it stand the same without files, and GPSampler, whose answer is its
best run, on each encoding of the simplex. The worlds are in `benchmarks.planted`. Figures:

* ``regret``: the noise-free mean of all sets of what is recommended, minus the lowest there is;
* ``inside90``: whether the recommendation's own 90 % interval holds that mean;
* ``noise``: the sd of a run's mean that is stated, over the true one;
* ``signal``: whether mixtures are said to differ by more than the noise;
* ``anywhere``: share of 200 Dirichlet(1) mixtures whose mean lies in the interval of `predict`.

`cells.csv` in the output folder keeps what was computed: it can be interrupted, and read.
"""

from __future__ import annotations

import argparse
import logging
import math
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optuna
from tqdm import tqdm  # type: ignore[import-untyped]

from benchmarks import planted
from benchmarks.cells import Cells
from benchmarks.peers import Array
from benchmarks.planted import World
from benchmarks.searchers import ENCODINGS
from benchmarks.threads import on_one_thread
from optuna_mde import (
    MDESampler,
    predict,
    recommend,
    report_losses,
    save_logprobs,
    suggest_mixture,
)
from optuna_mde.mixture import Encoding, Mixture

KEYS = ("world", "method", "seed", "total")
FIGURES = ("regret", "inside90", "noise", "signal", "anywhere")
TOTALS = (13, 25)
OURS, WITHOUT, PEER = "optuna-mde", "optuna-mde without files", "GPSampler"
_Z90, _ANYWHERE = 1.6449, 200

Row = tuple[int, tuple[float, ...]]


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(planted.KINDS), help="worlds")
    parser.add_argument("--methods", nargs="+", default=[OURS, WITHOUT, PEER], help="methods")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-worlds"))
    options = parser.parse_args()
    on_one_thread("benchmarks.worlds")
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("optuna_mde").setLevel(logging.ERROR)
    cells = Cells(options.out / "cells.csv", KEYS, FIGURES)
    methods = [
        name
        for method in options.methods
        for name in ([f"{PEER}, {e}" for e in ENCODINGS] if method == PEER else [method])
    ]
    tasks = [
        (name, method, seed)
        for seed in range(options.seeds)
        for name in options.only
        for method in methods
        if not cells.has(name, method, seed)
    ]
    for name, method, seed in tqdm(tasks, unit="study"):
        world = planted.make(name, seed)
        rows = {(name, method, seed, total): row for total, row in studied(world, method, seed)}
        cells.add(rows)  # type: ignore[arg-type]
    print(table(cells, options.only))


def studied(world: World, method: str, seed: int) -> Iterator[Row]:
    """Figures of one study after every total."""
    if method.startswith(PEER):
        encoding: Encoding = method.removeprefix(f"{PEER}, ")  # type: ignore[assignment]
        yield from peer(world, seed, encoding)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield from ours(world, seed, Path(folder) if method == OURS else None)


def ours(world: World, seed: int, folder: Path | None) -> Iterator[Row]:
    """A study of `MDESampler`, with the experts' files in a folder or without any."""
    files = {} if folder is None else _save(world, folder)
    passed = files if world.passed else None
    sampler = MDESampler(seed=seed, experts=passed)
    study = optuna.create_study(sampler=sampler)
    _, best = world.minimum()
    n_inner = 0

    def objective(trial: optuna.Trial) -> float | tuple[float, ...]:
        nonlocal n_inner
        mixture = suggest_mixture(trial, world.domains)
        url = None
        if mixture.is_expert and files and not world.passed:
            j = int(np.argmax(list(mixture.values())))
            losses, url = world.told[j], files[world.domains[j]]
        else:
            losses = world.run(_rates(mixture), n_inner, seed)
            n_inner += 1
        return report_losses(
            trial, dict(zip(world.sets, losses.tolist(), strict=True)), logprobs=url
        )

    for total in TOTALS:
        study.optimize(objective, n_trials=total - len(study.trials))
        yield total, _figures(world, study, best)


def _figures(world: World, study: optuna.Study, best: float) -> tuple[float, ...]:
    found = recommend(study)
    value = float(world.mean(_rates(found.mixture))[0])
    anywhere = np.random.default_rng(1).dirichlet(np.ones(len(world.domains)), _ANYWHERE)
    named = [dict(zip(world.domains, row.tolist(), strict=True)) for row in anywhere]
    predicted = predict(study, named)
    error = np.abs(predicted.objective_mean - world.mean(anywhere))
    return (
        value - best,
        float(found.objective.low <= value <= found.objective.high),
        found.noise_sd / (world.noise / math.sqrt(len(world.sets))),
        float(found.signal),
        float(np.mean(error <= _Z90 * predicted.objective_sd)),
    )


def peer(world: World, seed: int, encoding: Encoding) -> Iterator[Row]:
    """GPSampler; it says nothing of noise or intervals."""
    study = optuna.create_study(sampler=optuna.samplers.GPSampler(seed=seed))
    _, best = world.minimum()
    rates: dict[int, Array] = {}

    def objective(trial: optuna.Trial) -> float:
        mixture = suggest_mixture(trial, world.domains, encoding=encoding)
        rates[trial.number] = _rates(mixture)
        return float(world.run(rates[trial.number], trial.number, seed).mean())

    for total in TOTALS:
        study.optimize(objective, n_trials=total - len(study.trials))
        value = float(world.mean(rates[study.best_trial.number])[0])
        yield total, (value - best, *[math.nan] * 4)


def _rates(mixture: Mixture | dict[str, float]) -> Array:
    return np.array(list(mixture.values()))


def _save(world: World, folder: Path) -> dict[str, str]:
    files = {}
    for domain, values in zip(world.domains, world.logprobs, strict=True):
        files[domain] = str(folder / f"{domain}.safetensors")
        save_logprobs(files[domain], dict(zip(world.sets, values, strict=True)))
    return files


def table(cells: Cells, worlds: list[str]) -> str:
    """Medians over seeds; of GPSampler the encoding that did best."""
    lines = [
        "| world | ours 13 / 25 | without files | GPSampler | inside | noise | signal "
        "| anywhere |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for world in worlds:
        entries = [_regrets(cells, world, method) for method in (OURS, WITHOUT)]
        peers = [_regrets(cells, world, f"{PEER}, {e}") for e in ENCODINGS]
        entries.append(min(peers, key=lambda pair: pair[-1]))
        said = [
            np.mean(cells.values(f, world=world, method=OURS, total=TOTALS[-1]))
            if f != "noise"
            else np.median(cells.values(f, world=world, method=OURS, total=TOTALS[-1]))
            for f in FIGURES[1:]
        ]
        regrets = " | ".join(" / ".join(f"{r:.4f}" for r in pair) for pair in entries)
        lines.append(f"| {world} | {regrets} | " + " | ".join(f"{v:.2f}" for v in said) + " |")
    return "\n".join(lines)


def _regrets(cells: Cells, world: str, method: str) -> tuple[float, ...]:
    return tuple(
        float(np.median(v)) if len(v) else math.nan
        for v in (
            cells.values("regret", world=world, method=method, total=total) for total in TOTALS
        )
    )


if __name__ == "__main__":
    main()
