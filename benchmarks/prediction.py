"""How well a mixture's losses are predicted from few runs, beside what others do.

    python -m benchmarks.prediction [RECORDING ...] [--quick] [--only METHOD ...]
        [--out runs/benchmark-prediction]
    python -m benchmarks.prediction --regmix PATH

Every row of the table has the same **total** compute: experts count, cheap ones by their share of
a full run. The rates-only models spend all of it on mixtures, which suits them better than
corners; the models with MDE pay for one expert a domain first, and see the experts' losses beside
the mixtures'. A split draws the order of the mixtures (natural and uniform first, then at random);
the mixtures beyond the first `TRAINED` are its test mixtures, whatever the model and the total.

Scores are those of single noisy runs. Targets: the mean over all sets, over the domains' own, over
the unseen ones, over all but a set that holds more than half of the variance (where there is one),
and every set. Beside the table stands the re-test correlation of the recording: the ceiling.

Intervals hold the noise of a run. `needed` is the width at which an interval around the same means
would have covered exactly 90 %.

With the path of RegMix's own table (its repository's folder `data`) the rates-only rows for 16 to
128 of its runs of 1M parameters, scored on its test mixtures at 1M, 60M and 1B, see `regmix`.

`cells.csv` in the output folder keeps what was computed, three splits of every row before the
others: it can be interrupted at any time, and read. `--only` takes parts of methods' names.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import optuna
from tqdm import tqdm  # type: ignore[import-untyped]

from benchmarks import drawing, regmix
from benchmarks.cells import Cells
from benchmarks.ours import predicted_targets, told_study
from benchmarks.peers import RATES_ONLY, WITH_MDE, Array, Evidence, Predicted
from benchmarks.scoring import KEYS, SCORES, coverage_table, keep_scores, score_table
from benchmarks.tables import Recording, mean_of
from optuna_mde.mde.experts import load_table

DATA = Path(__file__).parent / "data"
TOTALS = (12, 18, 25, 32, 64)
SPLITS, FIRST_SPLITS = 10, 3  # the first ones of every row are there before all others
QUICK_TOTALS, QUICK_SPLITS = (12, 25), 2
TRAINED = 64  # mixtures at most; the others are for testing
LEAST_TESTED = 16


@dataclass(frozen=True)
class Experts:
    """Which recorded experts a model is given.

    Args:
        budget: share of a full run's steps.
        most_epochs: a domain whose expert repeats its text more often than that has a shorter one.
    """

    budget: float = 1.0
    most_epochs: float = np.inf

    def budgets(self, recording: Recording) -> Mapping[str, float] | None:
        """Domain -> share of a full run; None where the recording lacks one."""
        chosen: dict[str, float] = {}
        for known in sorted(recording.experts):
            for domain in recording.experts[known]:
                epochs = recording.epochs(domain, known)
                if known == min(recording.experts) or epochs <= self.most_epochs:
                    chosen[domain] = min(known, self.budget)
        held = all(d in recording.experts.get(b, {}) for d, b in chosen.items())
        return chosen if held and len(chosen) == len(recording.domains) else None


OURS = {
    "optuna-mde": Experts(),
    "optuna-mde, experts at ½": Experts(0.5),
    "optuna-mde, experts at ¼": Experts(0.25),
    "optuna-mde, experts at ⅛": Experts(0.125),
    "optuna-mde, experts of at most 4 epochs": Experts(most_epochs=4.0),
}
OURS_WITHOUT = "optuna-mde without experts"


@dataclass(frozen=True)
class Targets:
    """Weighted means of validation sets that are scored."""

    names: tuple[str, ...]
    W: Array

    @classmethod
    def of(cls, recording: Recording) -> Targets:
        """Those of a recording, see the module's text."""
        groups = {"all sets": recording.sets, "own sets": recording.own}
        if recording.unseen:
            groups["unseen sets"] = recording.unseen
        variance = recording.losses[recording.designed].var(axis=0)
        if variance.max() > variance.sum() / 2:
            largest = recording.sets[int(variance.argmax())]
            groups[f"all but {largest}"] = tuple(s for s in recording.sets if s != largest)
        means = np.array([mean_of(recording, sets) for sets in groups.values()])
        W = np.concatenate([means, np.eye(len(recording.sets))])
        return cls((*groups, *recording.sets), W)


@dataclass(frozen=True)
class Split:
    """The order in which a recording's mixtures are told, and those that are kept for testing."""

    train: np.ndarray
    test: np.ndarray

    @classmethod
    def draw(cls, recording: Recording, seed: int) -> Split:
        """Natural and uniform first, then a random order; the same for every model."""
        baselines = recording.rows("natural", "uniform")
        others = recording.rows("dirichlet", "face")
        order = np.random.default_rng(1000 + seed).permutation(others)
        trained = min(TRAINED - len(baselines), 2 * len(order) // 3)
        trained = max(0, min(trained, len(order) - LEAST_TESTED))
        return cls(np.concatenate([baselines, order[:trained]]), order[trained:])


def main() -> None:
    """Score every model, print the tables and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recordings", nargs="*", type=Path, help="packed recordings")
    parser.add_argument("--regmix", type=Path, help="RegMix's folder of recorded runs")
    parser.add_argument("--only", nargs="+", default=[], help="methods whose name holds this")
    parser.add_argument("--quick", action="store_true", help="2 totals, 2 splits")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-prediction"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    cells = Cells(options.out / "cells.csv", KEYS, SCORES)
    folders = options.recordings or ([] if options.regmix else sorted(p for p in DATA.iterdir()))
    for folder in folders:
        recording = Recording.load(folder)
        score_recording(recording, cells, options.only, options.quick)
        print(report(recording, cells))
    if options.regmix:
        regmix.score(options.regmix, cells, options.only, options.quick)
        print(regmix.report(cells))
    drawing.prediction(cells, options.out / "prediction.png")


def report(recording: Recording, cells: Cells) -> str:
    """The tables of a recording, beside what a repeated run says of it."""
    targets = Targets.of(recording)
    parts = []
    for name, w in zip(targets.names, targets.W, strict=True):
        if name in recording.sets:
            break
        ceiling = (
            f"re-test correlation {recording.retest(w):.3f}, seed sd {recording.noise_of(w):.4f}"
        )
        title = f"### {recording.name}, {name} ({ceiling}, spread {recording.spread_of(w):.3f})"
        parts += [title, score_table(cells, recording.name, [name])]
    parts += [f"### {recording.name}, each set, mean over the sets"]
    parts += [score_table(cells, recording.name, recording.sets)]
    parts += [f"### {recording.name}, intervals: inside 50 / 90 %, median width / width needed"]
    parts += [coverage_table(cells, recording.name, targets.names, recording.sets)]
    return "\n\n".join(parts)


def score_recording(recording: Recording, cells: Cells, only: Sequence[str], quick: bool) -> None:
    """Fill the cells that are missing."""
    targets = Targets.of(recording)
    totals, splits = (QUICK_TOTALS, QUICK_SPLITS) if quick else (TOTALS, SPLITS)
    names = [*RATES_ONLY, *WITH_MDE, OURS_WITHOUT, *OURS]
    chosen = [n for n in names if not only or any(part in n for part in only)]
    tasks = [
        (name, total, split)
        for first, last in ((0, FIRST_SPLITS), (FIRST_SPLITS, SPLITS))
        for name in chosen  # the experts' files are condensed once for each
        for total in totals
        for split in range(first, min(last, splits))
        if not cells.has(recording.name, name, total, split)
        and _rows_left(expert_budgets(recording, name), total)
        <= len(Split.draw(recording, split).train)
    ]
    for name, total, split in tqdm(tasks, desc=recording.name, unit="fit"):
        drawn = Split.draw(recording, split)
        predicted = predict_with(recording, name, total, drawn, targets.W)
        if predicted is not None:
            truth = recording.losses[drawn.test] @ targets.W.T
            key = (recording.name, name, total, split)
            keep_scores(cells, key, targets.names, predicted, truth)


def predict_with(
    recording: Recording, name: str, total: int, split: Split, W: Array, *, noisy: bool = True
) -> Predicted | None:
    """Targets of the split's test mixtures; None where the recording lacks the experts.

    Ours can also be asked for noise-free targets, not ``noisy`` ones.
    """
    budgets = expert_budgets(recording, name)
    n = _rows_left(budgets, total)
    if budgets is None or n < 1:
        return None
    experts = [recording.expert_rows(budget)[domain] for domain, budget in budgets.items()]
    rows = np.array([*experts, *split.train[:n]], dtype=int)
    X, Y, Z = recording.mixtures[rows], recording.losses[rows], recording.mixtures[split.test]
    if name in OURS or name == OURS_WITHOUT:
        urls = {i: recording.experts[b][d] for i, (d, b) in enumerate(budgets.items())}
        study = told_study(recording.domains, recording.sets, X, Y, recording.budgets[rows], urls)
        return predicted_targets(study, recording.domains, recording.sets, Z, W, noisy=noisy)
    expert = np.arange(len(rows)) < len(experts)
    if name in RATES_ONLY:
        return RATES_ONLY[name](Evidence(X, Y, expert), Z, W)
    return WITH_MDE[name](Evidence(X, Y, expert, mde_losses(recording, 1.0)), Z, W)


def expert_budgets(recording: Recording, name: str) -> Mapping[str, float] | None:
    """Domain -> share of a full run that a method's experts train; None where one is missing."""
    if name in RATES_ONLY or name == OURS_WITHOUT:
        return {}
    return OURS.get(name, Experts()).budgets(recording)


def _rows_left(budgets: Mapping[str, float] | None, total: int) -> int:
    """Mixtures that a method can train beside its experts."""
    return 0 if budgets is None else int(total - sum(budgets.values()) + 1e-9)


def mde_losses(recording: Recording, budget: float) -> partial[Array]:
    """MDE losses of mixtures `[m, K]`, over every token, in the order of the recording's sets."""
    files = {d: str(path) for d, path in recording.experts[budget].items()}
    table, refused = load_table(recording.domains, files)
    assert not refused, refused
    columns = [table.sets.index(name) for name in recording.sets]
    return partial(lambda rates: table.losses(rates)[:, columns])


if __name__ == "__main__":
    main()
