"""Scores of predictions, and tables of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.stats import spearmanr

from benchmarks.cells import Cells
from benchmarks.cells import Key as CellKey
from benchmarks.peers import Array, Predicted
from optuna_mde.answers.intervals import Z90

KEYS = ("recording", "method", "total", "split", "target")
SCORES = ("mse", "spearman", "inside50", "inside90", "width90", "needed90")

_Z50 = 0.6745

Key = dict[str, str | int]


def scores_of(predicted: Predicted, truth: Array) -> Iterator[tuple[float, ...]]:
    """`SCORES` of every target.

    ``inside`` are shares of the runs inside their interval, ``width90`` is the median width of
    the 90 % intervals, ``needed90`` the width at which one interval around the same means would
    hold 90 % of the runs. NaN where a model gives no interval, or one value for all mixtures.

    Args:
        predicted: targets of m mixtures.
        truth: `[m, T]` what single runs had.
    """
    for t in range(truth.shape[1]):
        mean, y = predicted.mean[:, t], truth[:, t]
        error = np.abs(mean - y)
        order = float(spearmanr(mean, y)[0]) if np.ptp(mean) > 1e-12 else np.nan
        intervals = [np.nan] * 4
        if predicted.sd is not None:
            sd = predicted.sd[:, t]
            intervals = [
                float(np.mean(error <= _Z50 * sd)),
                float(np.mean(error <= Z90 * sd)),
                float(np.median(2 * Z90 * sd)),
                float(2 * np.quantile(error, 0.9)),
            ]
        yield (float(np.mean(error**2)), order, *intervals)


def keep_scores(
    cells: Cells, key: CellKey, targets: Sequence[str], predicted: Predicted, truth: Array
) -> None:
    """Keep `scores_of` every target under a key of all columns but its name."""
    scores = zip(targets, scores_of(predicted, truth), strict=True)
    cells.add({(*key, target): score for target, score in scores})


def score_table(cells: Cells, recording: str, targets: Sequence[str]) -> str:
    """Rank correlation and error of every method at every total, mean ± standard error."""
    totals = sorted(map(int, cells.names("total", recording=recording)))
    lines = [
        "| Spearman / MSE·10³ | " + " | ".join(f"n = {n}" for n in totals) + " |",
        "|---" * (len(totals) + 1) + "|",
    ]
    for method in cells.names("method", recording=recording):
        entries = []
        for n in totals:
            key: Key = {"recording": recording, "method": method, "total": n}
            order, error = (_by_split(cells, figure, key, targets) for figure in SCORES[1::-1])
            entries.append(f"{_mean(order, 3)} / {_mean(1e3 * error, 2)}" if len(error) else "")
        lines.append(f"| {method} | " + " | ".join(entries) + " |")
    return "\n".join(lines)


def coverage_table(
    cells: Cells, recording: str, targets: Sequence[str], sets: Sequence[str] = ()
) -> str:
    """Coverage and width of the intervals, for each target, and together for those of sets."""
    totals = sorted(map(int, cells.names("total", recording=recording)))
    groups = {t: [t] for t in targets if t not in sets}
    if sets:
        groups["each set"] = list(sets)
    lines = [
        "| method, target | " + " | ".join(f"n = {n}" for n in totals) + " |",
        "|---" * (len(totals) + 1) + "|",
    ]
    for method in cells.names("method", recording=recording):
        for group, members in groups.items():
            entries = []
            for n in totals:
                key: Key = {"recording": recording, "method": method, "total": n}
                found = [_by_split(cells, figure, key, members) for figure in SCORES[2:]]
                half, most, width, needed = (f.mean() if len(f) else np.nan for f in found)
                inside = f"{_short(half, 2)} / {_short(most, 2)}"
                entry = f"{inside}, {_short(width, 3)} / {_short(needed, 3)}"
                entries.append(entry if np.isfinite(most) else "")
            if any(entries):
                lines.append(f"| {method}, {group} | " + " | ".join(entries) + " |")
    return "\n".join(lines)


def _by_split(cells: Cells, figure: str, key: Key, targets: Sequence[str]) -> Array:
    """A figure by split, the mean over several targets."""
    columns = [cells.values(figure, **key, target=target) for target in targets]
    return (
        np.mean([c for c in columns if len(c)], axis=0) if any(map(len, columns)) else np.array([])
    )


def _mean(values: Array, digits: int) -> str:
    if not np.isfinite(values).all():
        return "–"
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return f"{_short(float(values.mean()), digits)} ± {_short(float(error), digits)}"


def _short(value: float, digits: int) -> str:
    """Without the zero before the point."""
    return f"{value:.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.{digits}f}"
