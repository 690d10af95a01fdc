"""How many runs it takes to find a good mixture, beside what others do.

    python -m benchmarks.search [RECORDING ...] [--quick] [--workers 4] [--only METHOD ...]
        [--out runs/benchmark-search]

Every search runs on both emulators of a recording (`emulator`), with the recorded seed noise, and
is asked for its recommendation when it has spent 8, 12, 16, 24 and 32 full runs, experts counted
by their share. Scored is the **regret**: the noise-free objective of what it recommends minus the
lowest of all mixtures. Objectives:

* ``unseen``: the mean of the sets that belong to no domain;
* ``skewed``: 7/10 of one domain's own set, the rest the unseen ones; the domain is the one whose
  optimum lies nearest to a corner on both emulators;
* ``two groups``: own and unseen sets as goals of their own; regret is the share that is missing
  of the hypervolume over the worse of natural and uniform.

TPESampler, GPSampler and BoTorchSampler search the encoding of the simplex that did best on two
pilot seeds of the same objective and emulator. `--workers 4` asks for four runs at a time.

`cells.csv` in the output folder keeps what was computed, seed after seed: it can be interrupted at
any time, and read.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import optuna
from tqdm import tqdm  # type: ignore[import-untyped]

from benchmarks import drawing
from benchmarks.cells import Cells
from benchmarks.emulator import FAMILIES, Emulator, emulator, mixtures_of_every_kind
from benchmarks.peers import Array
from benchmarks.prediction import DATA
from benchmarks.searchers import ENCODINGS, SAMPLERS, SEARCHES, Problem, Search, foreign
from benchmarks.tables import Recording
from benchmarks.threads import on_one_thread

KEYS = ("recording", "emulator", "objective", "workers", "method", "seed", "total")
FIGURES = ("regret", "inside90", "width90", "seconds")
SEEDS = 10
SLOW_SEEDS = 3  # of peers that take seconds an ask
SLOW = ("Ax", "BoTorchSampler")
SEEDLESS = ("MDE alone", "natural", "uniform", "best expert")
ONE_GOAL = ("Ax",)
PARALLEL = ("optuna-mde", "GPSampler", "random")
QUICK = ("optuna-mde, experts at ½", "random", "RegMix", "MDE alone", "natural", "uniform")
OURS, AIM = "optuna-mde", 12  # the regret whose price in runs is given for every search
PILOTS = (900, 901)
PILOT_TOTALS = (16, 24, 32)
SKEW = 0.7

Groups = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Case:
    """A test objective and what is best on it.

    Args:
        recording, emulator, groups: as in `Problem`.
        name: of the objective.
        best: the lowest objective, or the largest hypervolume.
        optima: `[m, K]` mixtures that reach it: one, or a front.
        reference: `[G]` corner of the hypervolume.
    """

    recording: Recording
    emulator: Emulator
    name: str
    groups: Groups
    best: float
    optima: Array
    reference: Array

    @classmethod
    def make(cls, recording: Recording, emulated: Emulator, name: str, groups: Groups) -> Case:
        """Find what is best."""
        problem = Problem(recording, emulated, groups)
        K = len(recording.domains)
        baselines = np.stack([recording.natural, np.full(K, 1.0 / K)])
        reference = problem.clean(baselines).max(axis=0)
        if len(groups) == 1:
            x, best = emulated.minimum(problem.weights[0])
            optima = x[None]
        else:
            shares = np.linspace(0.0, 1.0, 21)[:, None]
            weightings = np.hstack([shares, 1.0 - shares]) @ problem.weights
            front = np.stack([emulated.minimum(w)[0] for w in weightings])
            others = mixtures_of_every_kind(10_000, K, np.random.default_rng(0))
            optima = np.concatenate([front, others])
            best = hypervolume(problem.clean(optima), reference)
        return cls(recording, emulated, name, groups, best, optima, reference)

    def problem(self, seed: int, workers: int) -> Problem:
        """The objective with the seed noise of one study."""
        return Problem(self.recording, self.emulator, self.groups, seed, workers)

    def regret(self, mixtures: Array) -> float:
        """Of a recommendation `[m, K]`."""
        values = self.problem(0, 1).clean(mixtures)
        if len(self.groups) == 1:
            return float(values[0, 0]) - self.best
        return 1.0 - hypervolume(values, self.reference) / self.best


def hypervolume(values: Array, reference: Array) -> float:
    """Area that points `[m, 2]` dominate below a reference; both are minimised."""
    area, height = 0.0, reference[1]
    inside = values[(values < reference).all(axis=1)]
    for x, y in inside[np.argsort(inside[:, 0])]:
        if y < height:
            area += (reference[0] - x) * (height - y)
            height = y
    return float(area)


def objectives(recording: Recording, emulators: Sequence[Emulator]) -> dict[str, Groups]:
    """The three objectives of a recording."""
    unseen = dict.fromkeys(recording.unseen, 1.0 / len(recording.unseen))

    def skewed(domain: str) -> Groups:
        weights = {**{name: (1 - SKEW) * share for name, share in unseen.items()}, domain: SKEW}
        return {"objective": weights}

    def nearness(domain: str) -> float:
        found = [e.minimum(Problem(recording, e, skewed(domain)).weights[0])[0] for e in emulators]
        return float(min(rates[recording.domains.index(domain)] for rates in found))

    own = [name for name in recording.domains if name in recording.sets]
    return {
        "unseen": {"objective": unseen},
        "skewed": skewed(max(own, key=nearness)),
        "two groups": {"own": dict.fromkeys(recording.own, 1.0), "unseen": unseen},
    }


def main() -> None:
    """Run what is missing, print the tables and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recordings", nargs="*", type=Path, help="packed recordings")
    parser.add_argument("--workers", type=int, default=1, help="runs that are asked for at once")
    parser.add_argument("--only", nargs="+", default=[], help="methods whose name holds this")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="studies of every search")
    parser.add_argument("--quick", action="store_true", help="a few searches, one seed")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-search"))
    options = parser.parse_args()
    on_one_thread("benchmarks.search")
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("ax").setLevel(logging.ERROR)
    cells = Cells(options.out / "cells.csv", KEYS, FIGURES)
    only = options.only or (QUICK if options.quick else ())
    for folder in options.recordings or sorted(p for p in DATA.iterdir()):
        recording = Recording.load(folder)
        emulators = [emulator(recording, family, options.out) for family in FAMILIES]
        cases = [
            Case.make(recording, emulated, name, groups)
            for name, groups in objectives(recording, emulators).items()
            for emulated in emulators
        ]
        search(cases, cells, only, 1 if options.quick else options.seeds, options.workers)
        print(report(cases, cells, options.workers))
    drawing.search(cells, options.out / "search.png")


def search(
    cases: Sequence[Case], cells: Cells, only: Sequence[str], seeds: int, workers: int
) -> None:
    """Fill the cells that are missing, seed after seed."""
    chosen = [n for n in (*SEARCHES, *SAMPLERS) if not only or any(part in n for part in only)]
    if workers > 1:
        chosen = [n for n in chosen if n in PARALLEL]
    tasks = [
        (seed, case, name)
        for seed in range(seeds)
        for name in chosen  # cases of one search share the experts' files, condensed once
        for case in cases
        if not cells.has(*_key(case, workers, name), seed)
        and seed < _seeds_of(name)
        and _possible(case, name)
    ]
    with tqdm(total=len(tasks), unit="study") as bar:
        for seed, case, name in tasks:
            bar.set_description(f"{case.emulator.family}, {case.name}, {name}")
            run = SEARCHES[name] if name in SEARCHES else _piloted(case, cells, name)
            _study(case, cells, workers, name, seed, run)
            bar.update()


def report(cases: Sequence[Case], cells: Cells, workers: int) -> str:
    """Median and quartiles of the regret, and what the recommendation's interval holds."""
    parts = []
    for case in cases:
        w = case.problem(0, 1).weights[0]
        noise, error = case.emulator.noise_of(w), case.emulator.error_of(w)
        title = f"### {case.recording.name}, {case.name}, emulator {case.emulator.family}"
        if len(case.groups) == 1:
            title += f" (seed sd {1e3 * noise:.1f}, leave-one-out error {1e3 * error:.1f}"
            others = [c for c in cases if c.name == case.name and c is not case]
            for other in others:
                apart = 1e3 * case.regret(other.optima)
                title += f", regret of the optimum of {other.emulator.family} {apart:.1f}"
            title += ")"
        parts += [title, _regret_table(case, cells, workers)]
    parts += ["### 90 % intervals of the recommendation: studies inside, median width"]
    parts += [_interval_table(cases, cells, workers)]
    return "\n\n".join(parts)


def _study(case: Case, cells: Cells, workers: int, name: str, seed: int, run: Search) -> None:
    start = time.process_time()
    rows = {}
    for answer in run(case.problem(seed, workers), seed):
        spent = time.process_time() - start
        value = float(case.problem(0, 1).clean(answer.mixtures)[0, 0])
        inside = float(answer.low <= value <= answer.high) if answer.low < answer.high else np.nan
        key = (*_key(case, workers, name), seed, answer.total)
        rows[key] = (case.regret(answer.mixtures), inside, answer.high - answer.low, spent)
    cells.add(rows)


def _piloted(case: Case, cells: Cells, name: str) -> Search:
    """A sampler with the encoding that two pilot seeds favour."""
    regrets = {}
    for encoding in ENCODINGS:
        run = partial(foreign, make=SAMPLERS[name], encoding=encoding)
        pilot = f"pilot: {name}, {encoding}"
        for seed in PILOTS:
            if not cells.has(*_key(case, 1, pilot), seed):
                _study(case, cells, 1, pilot, seed, run)
        key = dict(zip(KEYS, _key(case, 1, pilot), strict=False))
        regrets[encoding] = np.mean([cells.values("regret", **key, total=t) for t in PILOT_TOTALS])
    best = min(ENCODINGS, key=lambda encoding: regrets[encoding])
    return partial(foreign, make=SAMPLERS[name], encoding=best)


def _key(case: Case, workers: int, name: str) -> tuple[str | int, ...]:
    return (case.recording.name, case.emulator.family, case.name, workers, name)


def _seeds_of(name: str) -> int:
    if name.startswith(SEEDLESS):
        return 1
    return SLOW_SEEDS if name in SLOW else sys.maxsize


def _possible(case: Case, name: str) -> bool:
    shares = {"½": 0.5, "¼": 0.25}
    needed = next((b for mark, b in shares.items() if mark in name), 1.0)
    return needed in case.recording.experts and (len(case.groups) == 1 or name not in ONE_GOAL)


def _regret_table(case: Case, cells: Cells, workers: int) -> str:
    unit, factor = ("nats·10³", 1e3) if len(case.groups) == 1 else ("%", 1e2)
    prefix = dict(zip(KEYS, _key(case, workers, ""), strict=False))
    del prefix["method"]
    totals = sorted(map(int, cells.names("total", **prefix)))
    ours = cells.values("regret", **prefix, method=OURS, total=AIM)
    aim = np.median(ours) if len(ours) else -np.inf
    lines = [
        f"| regret, {unit} | "
        + " | ".join(f"{n} runs" for n in totals)
        + f" | runs for ours at {AIM} | seeds |",
        "|---" * (len(totals) + 3) + "|",
    ]
    for method in cells.names("method", **prefix):
        if method.startswith("pilot"):
            continue
        columns = [cells.values("regret", **prefix, method=method, total=n) for n in totals]
        entries = [_quartiles(factor * c) if len(c) else "" for c in columns]
        reached = [
            n for n, c in zip(totals, columns, strict=True) if len(c) and np.median(c) <= aim
        ]
        entries.append(str(min(reached)) if reached else f"> {totals[-1]}")
        lines.append(f"| {method} | {' | '.join(entries)} | {max(map(len, columns))} |")
    return "\n".join(lines)


def _quartiles(values: Array) -> str:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{middle:.1f} [{low:.1f}, {high:.1f}]" if len(values) > 1 else f"{middle:.1f}"


def _interval_table(cases: Sequence[Case], cells: Cells, workers: int) -> str:
    prefix: dict[str, str | int] = {"recording": cases[0].recording.name, "workers": workers}
    totals = sorted(map(int, cells.names("total", **prefix)))
    lines = [
        "| method | " + " | ".join(f"{n} runs" for n in totals) + " |",
        "|---" * (len(totals) + 1) + "|",
    ]
    for method in cells.names("method", **prefix):
        entries = []
        for n in totals:
            inside = cells.values("inside90", **prefix, method=method, total=n)
            width = cells.values("width90", **prefix, method=method, total=n)
            told = np.isfinite(inside)
            share = f"{int(inside[told].sum())} of {told.sum()}"
            entries.append(f"{share}, {np.median(width[told]):.3f}" if told.any() else "")
        if any(entries):
            lines.append(f"| {method} | " + " | ".join(entries) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
