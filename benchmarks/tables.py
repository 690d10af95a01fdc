"""Recorded runs as arrays: what `python -m benchmarks.record` packs, read back.

A packed recording is a folder:

    ratios.csv       index, one column a domain: the rates that were trained, exact zeros
    metrics.csv      index, one column a validation set: its loss, nats per token
    runs.csv         index, kind, seed, budget, seconds
    recording.json   domains, sets, natural mixture, fingerprints, versions, command
    experts/<domain>-<budget>.safetensors   `optuna_mde.save_logprobs`, float16 tokens
    README.md        the same for people, and the figures of the noise

The tables are joined on `index`, the run's place in the design: a partial packing has gaps, and a
later one the same rows and more. `kind` says why a run was made:

    expert      one domain alone; `budget` 1 or a share of the full run's steps, with a learning
                rate schedule of its own length
    natural     the natural mixture
    uniform     the uniform one
    dirichlet   drawn from a symmetric Dirichlet distribution over all domains
    face        drawn on two or three of the domains, the others exactly 0
    repeat      a mixture that stands in another row, with another seed

Notation: n runs, K domains, M validation sets, λ the rates.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

RATIOS_FILE = "ratios.csv"
METRICS_FILE = "metrics.csv"
RUNS_FILE = "runs.csv"
ABOUT_FILE = "recording.json"
EXPERTS_FOLDER = "experts"
RUN_COLUMNS = ("kind", "seed", "budget", "seconds")
EXPERT, NATURAL, UNIFORM = "expert", "natural", "uniform"
DIRICHLET, FACE, REPEAT = "dirichlet", "face", "repeat"
KINDS = (EXPERT, NATURAL, UNIFORM, DIRICHLET, FACE, REPEAT)


class RecordingError(ValueError):
    """A folder that holds no packed recording, or one whose tables do not fit together."""


@dataclass(frozen=True)
class Recording:
    """A packed recording.

    Args:
        name: of the study that defined its runs.
        domains: the K domains, in the order of the rates' columns.
        sets: the M validation sets, in the order of the losses' columns: those of the domains
            first, then the unseen ones.
        unseen: the sets that belong to no domain.
        natural: `[K]` the natural mixture.
        index: `[n]` places in the design, increasing.
        mixtures: `[n, K]` rates.
        losses: `[n, M]` nats per token.
        kinds: n strings of `KINDS`.
        seeds: `[n]` training seeds; all kinds but repeats have the same.
        budgets: `[n]` share of a full run's steps; 1 but for cheap experts.
        seconds: `[n]` of training.
        experts: budget -> domain -> file of token log-probabilities.
        about: content of `recording.json`.
    """

    name: str
    domains: tuple[str, ...]
    sets: tuple[str, ...]
    unseen: tuple[str, ...]
    natural: np.ndarray
    index: np.ndarray
    mixtures: np.ndarray
    losses: np.ndarray
    kinds: tuple[str, ...]
    seeds: np.ndarray
    budgets: np.ndarray
    seconds: np.ndarray
    experts: Mapping[float, Mapping[str, Path]]
    about: Mapping[str, Any]

    @classmethod
    def load(cls, folder: Path | str) -> Recording:
        """Reads a packed recording, complete or partial.

        Raises:
            RecordingError: if a file is missing or the tables do not fit together.
        """
        folder = Path(folder)
        try:
            about = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))
            ratios, metrics, runs = (
                _read(folder / name) for name in (RATIOS_FILE, METRICS_FILE, RUNS_FILE)
            )
        except OSError as error:
            raise RecordingError(
                f"{folder} holds no packed recording ({error}); "
                "python -m benchmarks.record makes one"
            ) from None
        if not ratios["index"] == metrics["index"] == runs["index"]:
            raise RecordingError(f"{folder}: its three tables have other rows; pack it anew")
        domains, sets = tuple(about["domains"]), tuple(about["sets"])
        experts: dict[float, dict[str, Path]] = {}
        for entry in about["experts"]:
            path = folder / EXPERTS_FOLDER / entry["file"]
            experts.setdefault(float(entry["budget"]), {})[entry["domain"]] = path
        return cls(
            name=about["name"],
            domains=domains,
            sets=sets,
            unseen=tuple(name for name in sets if name not in domains),
            natural=np.array([about["natural"][name] for name in domains]),
            index=np.array(ratios["index"], dtype=int),
            mixtures=_columns(ratios, domains),
            losses=_columns(metrics, sets),
            kinds=tuple(runs["kind"]),
            seeds=np.array(runs["seed"], dtype=int),
            budgets=np.array(runs["budget"], dtype=float),
            seconds=np.array(runs["seconds"], dtype=float),
            experts=experts,
            about=about,
        )

    @property
    def own(self) -> tuple[str, ...]:
        """The domains' own validation sets."""
        return tuple(name for name in self.sets if name not in self.unseen)

    def columns(self, sets: tuple[str, ...]) -> np.ndarray:
        """Columns of `losses` of some validation sets."""
        return np.array([self.sets.index(name) for name in sets], dtype=int)

    def rows(self, *kinds: str, budget: float = 1.0) -> np.ndarray:
        """Rows of some kinds at one budget, in the order in which they were run."""
        chosen = [kind in kinds for kind in self.kinds]
        return np.flatnonzero(np.array(chosen, dtype=bool) & (self.budgets == budget))

    @property
    def designed(self) -> np.ndarray:
        """Rows of the mixtures to be predicted: one seed, no expert, no repeat."""
        return self.rows(NATURAL, UNIFORM, DIRICHLET, FACE)

    def expert_rows(self, budget: float = 1.0) -> dict[str, int]:
        """Domain -> row of its expert at a budget."""
        return {
            self.domains[int(self.mixtures[row].argmax())]: int(row)
            for row in self.rows(EXPERT, budget=budget)
        }

    def epochs(self, domain: str, budget: float = 1.0) -> float:
        """How often a domain's expert at a budget has read its text."""
        entries = self.about["experts"]
        return float(
            next(e["epochs"] for e in entries if (e["domain"], e["budget"]) == (domain, budget))
        )

    @property
    def repeated(self) -> list[np.ndarray]:
        """Rows of every mixture that was run with several seeds, the first one's first."""
        groups: dict[tuple[float, ...], list[int]] = {}
        for row in np.flatnonzero(self.budgets == 1.0):
            groups.setdefault(tuple(self.mixtures[row]), []).append(int(row))
        return [
            np.array(sorted(rows, key=lambda row: (self.kinds[row] == REPEAT, self.seeds[row])))
            for rows in groups.values()
            if len(rows) > 1
        ]

    @property
    def noise_covariance(self) -> np.ndarray:
        """`[M, M]` covariance of the losses over seeds, pooled over the repeated mixtures.

        Zeros where nothing is repeated. A weighting w of the sets has seed noise √(wᵀ C w).
        """
        total, freedom = np.zeros((len(self.sets), len(self.sets))), 0
        for rows in self.repeated:
            residual = self.losses[rows] - self.losses[rows].mean(axis=0)
            total += residual.T @ residual
            freedom += len(rows) - 1
        return total / max(freedom, 1)

    @property
    def noise_sd(self) -> np.ndarray:
        """`[M]` sd of one run's loss over seeds, nats per token."""
        return np.sqrt(np.diag(self.noise_covariance))

    def noise_of(self, weights: np.ndarray) -> float:
        """Seed noise, sd, of a weighted sum of the losses; weights `[M]`."""
        return float(np.sqrt(weights @ self.noise_covariance @ weights))

    def spread_of(self, weights: np.ndarray) -> float:
        """Sd of a weighted sum of the losses over the designed mixtures; weights `[M]`."""
        return float((self.losses[self.designed] @ weights).std(ddof=1))

    def retest(self, weights: np.ndarray) -> float:
        """Spearman correlation of a weighted sum of losses between two seeds; weights `[M]`.

        Mean over all pairs of seeds that at least three mixtures share: the ceiling of every
        prediction, over the mixtures that were repeated. NaN without repeats.
        """
        values = self.losses @ weights
        by_seed: dict[int, dict[int, float]] = {}
        for mixture, rows in enumerate(self.repeated):
            for row in rows:
                by_seed.setdefault(int(self.seeds[row]), {})[mixture] = float(values[row])
        found = []
        for a, b in combinations(by_seed.values(), 2):
            shared = sorted(a.keys() & b.keys())
            if len(shared) >= 3:
                found.append(float(spearmanr([a[i] for i in shared], [b[i] for i in shared])[0]))
        return float(np.mean(found)) if found else float("nan")

    def reliability(self, weights: np.ndarray) -> float:
        """1 - noise variance / variance over the designed mixtures; weights `[M]`.

        The square of the best correlation that any prediction can have with single runs.
        """
        return 1.0 - (self.noise_of(weights) / self.spread_of(weights)) ** 2


def mean_of(recording: Recording, sets: tuple[str, ...] | None = None) -> np.ndarray:
    """Weights `[M]` of the plain mean over some sets, all of them by default."""
    chosen = recording.columns(recording.sets if sets is None else sets)
    weights = np.zeros(len(recording.sets))
    weights[chosen] = 1.0 / len(chosen)
    return weights


def _read(path: Path) -> dict[str, list[str]]:
    """Columns of a CSV file with a header."""
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}


def _columns(table: Mapping[str, list[str]], names: tuple[str, ...]) -> np.ndarray:
    missing = [name for name in names if name not in table]
    if missing:
        raise RecordingError(f"no column {', '.join(missing)} in {', '.join(table)}")
    return np.array([table[name] for name in names], dtype=float).T
