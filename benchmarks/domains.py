"""What a question about other domains costs, in a study that has runs.

    python -m benchmarks.domains [RECORDING ...] [--seeds 5] [--out runs/benchmark-domains]

A recording's domains are searched in four ways, on both emulators of it (`emulator`), with the
recorded seed noise and experts at half a run; the objective is the mean of the sets that belong to
no domain:

* ``scratch``: all domains from the start, up to 24 runs' worth;
* ``added``: all but one of them, 24 runs' worth; then that one is added to the same study;
* ``split``: two of them as one domain, in the shares of the natural mixture, 24 runs' worth; then
  that one is split into the two (`revise_domains`);
* ``worst split``: the same of another pair.

The domain that is added is the one of which the best mixture has most. The one that is split holds
that and the second one; in the worst case that and the domain whose share of the pair, in the best
mixture, is farthest from natural. Scored is the regret on all domains: of the old study's
recommendation as it is, once the new experts are there, and after every run that follows, up to 5
runs' worth.

No expert of the merged domain was recorded. Its file holds the mixture of the two experts'
probabilities, every token of a set divided by the same factor so that its loss is off MDE by as
much as the emulator's loss of a full run is.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import optuna
from tqdm import tqdm  # type: ignore[import-untyped]

from benchmarks.cells import Cells
from benchmarks.emulator import FAMILIES, emulator
from benchmarks.peers import Array
from benchmarks.prediction import DATA
from benchmarks.search import Case, objectives
from benchmarks.searchers import Problem
from benchmarks.tables import Recording
from benchmarks.threads import on_one_thread
from optuna_mde import MDESampler, recommend, report_losses, revise_domains, suggest_mixture
from optuna_mde.mde.logprobs import load_logprobs, save_logprobs
from optuna_mde.mixture import Mixture

KEYS = ("recording", "emulator", "question", "seed", "spent")
FIGURES = ("regret", "seconds")
SCRATCH, ADDED, SPLIT, WORST = "scratch", "added", "split", "worst split"
QUESTIONS = (SCRATCH, ADDED, SPLIT, WORST)
FRESH, MORE = (8.0, 12.0, 16.0, 24.0), 5.0
BUDGET = 0.5
WHOLE = "both"  # the domain that is split
RECORDINGS = ("environment",)


@dataclass
class World:
    """A study's domains as mixtures of the recording's, and what training them gives.

    Args:
        problem: the objective over the recording's domains.
        domains: domain of the study -> rates `[K]` of the recording's.
        folder: where files of experts that were not recorded are written.
    """

    problem: Problem
    domains: dict[str, Array]
    folder: Path
    spent: float = field(default=0.0, init=False)

    def __call__(self, trial: optuna.Trial) -> float | tuple[float, ...]:
        """A run of the study."""
        recording, natural = self.problem.recording, self.natural()
        mixture = suggest_mixture(trial, list(self.domains), natural=natural)
        self.spent += mixture.budget
        url = None
        if mixture.is_expert and mixture.budget < 1.0:
            losses, url = self.expert(max(mixture, key=mixture.__getitem__))
        else:
            losses = self.problem.run(self.rates(mixture))
        goals = self.problem.groups["objective"]
        named = dict(zip(recording.sets, losses.tolist(), strict=True))
        return report_losses(trial, named, objective=goals, logprobs=url, budget=mixture.budget)

    def rates(self, mixture: Mixture | dict[str, float]) -> Array:
        """Rates `[K]` of the recording's domains."""
        return np.asarray(sum(rate * self.domains[name] for name, rate in mixture.items()))

    def natural(self) -> dict[str, float]:
        """The recorded natural mixture, on the study's domains."""
        natural = self.problem.recording.natural
        shares = {d: float(natural[parts > 0].sum()) for d, parts in self.domains.items()}
        return {d: share / sum(shares.values()) for d, share in shares.items()}

    def expert(self, domain: str) -> tuple[Array, str]:
        """Losses `[M]` and log-probabilities of an expert at half a run."""
        recording = self.problem.recording
        parts = self.domains[domain]
        if parts.max() == 1.0:
            row = recording.expert_rows(BUDGET)[domain]
            return recording.losses[row], str(recording.experts[BUDGET][domain])
        owners = [name for name, share in zip(recording.domains, parts, strict=True) if share > 0]
        files = [load_logprobs(recording.experts[BUDGET][name]) for name in owners]
        whole, full = self.problem.table(), self.problem.emulator.losses(parts)[0]
        off = dict(zip(whole.sets, whole.losses(parts).tolist(), strict=True))
        logs = {}
        for name, loss in zip(recording.sets, full.tolist(), strict=True):
            columns = np.exp([values[name].astype(np.float64) for values, _ in files])
            mixed = np.log(parts[parts > 0] @ columns) + off[name] - loss
            logs[name] = np.minimum(mixed, 0.0)
        url = save_logprobs(self.folder / f"{domain}.safetensors", logs, **files[0][1])
        return np.array([-logs[name].mean() for name in recording.sets]), url


@dataclass(frozen=True)
class Question:
    """What changes of a recording's domains, and who is asked for what."""

    added: str
    pairs: dict[str, tuple[str, str]]

    @classmethod
    def of(cls, case: Case) -> Question:
        """The domains that matter most."""
        recording, best = case.recording, case.optima[0]
        domains, natural = recording.domains, recording.natural
        first = int(best.argmax())
        others = [j for j in range(len(domains)) if j != first]

        def contrast(j: int) -> float:
            pair = [first, j]
            return abs(best[first] / best[pair].sum() - natural[first] / natural[pair].sum())

        seconds = {SPLIT: max(others, key=best.__getitem__), WORST: max(others, key=contrast)}
        pairs = {name: (domains[first], domains[second]) for name, second in seconds.items()}
        return cls(domains[first], pairs)


def studied(case: Case, question: str, seed: int, folder: Path) -> Iterator[tuple[float, float]]:
    """(runs' worth spent on the question, regret of what is recommended then)."""
    asked, recording = Question.of(case), case.recording
    every = dict(zip(recording.domains, np.eye(len(recording.domains)), strict=True))
    before = dict(every)
    shares: dict[str, float] = {}
    if question == ADDED:
        del before[asked.added]
    elif question in asked.pairs:
        pair = asked.pairs[question]
        owns = np.array([name in pair for name in recording.domains])
        rates = np.where(owns, recording.natural, 0.0)
        before = {d: e for d, e in every.items() if d not in pair}
        before[WHOLE] = rates / rates.sum()
        shares = {d: float(before[WHOLE][recording.domains.index(d)]) for d in pair}
    study = optuna.create_study(sampler=MDESampler(seed=seed, expert_budget=BUDGET))
    world = World(case.problem(seed, 1), before, folder)
    for total in FRESH:
        while world.spent < total:
            study.optimize(world, n_trials=1)
        if question == SCRATCH:
            yield world.spent, _regret(case, study, world)
    if question == SCRATCH:
        return
    yield 0.0, _regret(case, study, world)
    if shares:
        revise_domains(study, {WHOLE: shares})
    world.domains, world.spent = every, 0.0
    new = (len(every) - len(before) + bool(shares)) * BUDGET
    while world.spent < MORE:
        study.optimize(world, n_trials=1)
        if new <= world.spent <= MORE:
            yield world.spent, _regret(case, study, world)


def _regret(case: Case, study: optuna.Study, world: World) -> float:
    return case.regret(world.rates(recommend(study).mixture)[None])


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recordings", nargs="*", default=RECORDINGS, help="names under data/")
    parser.add_argument("--only", nargs="+", default=list(QUESTIONS), help="questions")
    parser.add_argument("--emulators", nargs="+", default=list(FAMILIES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-domains"))
    options = parser.parse_args()
    on_one_thread("benchmarks.domains")
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("optuna_mde").setLevel(logging.ERROR)
    cells = Cells(options.out / "cells.csv", KEYS, FIGURES)
    cases = []
    for name in options.recordings:
        recording = Recording.load(DATA / name)
        emulators = [emulator(recording, f, options.out) for f in options.emulators]
        groups = objectives(recording, emulators)["unseen"]
        cases += [Case.make(recording, each, "unseen", groups) for each in emulators]
    tasks = [
        (seed, case, question)
        for seed in range(options.seeds)
        for case in cases
        for question in options.only
        if not cells.has(case.recording.name, case.emulator.family, question, seed)
    ]
    for seed, case, question in tqdm(tasks, unit="study"):
        key = (case.recording.name, case.emulator.family, question, seed)
        start, rows = time.process_time(), {}
        with tempfile.TemporaryDirectory() as folder:
            for spent, regret in studied(case, question, seed, Path(folder)):
                rows[(*key, f"{spent:g}")] = (regret, time.process_time() - start)
        cells.add(rows)
    for case in cases:
        print(table(case, cells))


def table(case: Case, cells: Cells) -> str:
    """Mean regret and its standard error, thousandths of a nat."""
    asked = Question.of(case)
    where = {"recording": case.recording.name, "emulator": case.emulator.family}
    pairs = [f"{name} of {' + '.join(pair)}" for name, pair in asked.pairs.items()]
    lines = [
        f"### {case.recording.name}, emulator {case.emulator.family}",
        "",
        f"{asked.added} added, {', '.join(pairs)}",
        "",
        f"| runs' worth | {' | '.join(QUESTIONS)} |",
        f"|---{'|---' * len(QUESTIONS)}|",
    ]
    spent = sorted({float(s) for s in cells.names("spent", **where)})
    for total in spent:
        entries = [
            _entry(cells.values("regret", **where, question=q, spent=f"{total:g}"))
            for q in QUESTIONS
        ]
        lines.append(f"| {total:g} | {' | '.join(entries)} |")
    return "\n".join(lines) + "\n"


def _entry(values: Sequence[float] | Array) -> str:
    if len(values) == 0:
        return ""
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return f"{1e3 * np.mean(values):.1f} ± {1e3 * error:.1f}"


if __name__ == "__main__":
    main()
