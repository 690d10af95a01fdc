"""Pictures of the figures, with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.cells import Cells

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OURS = "optuna-mde"
_LEAST_REGRET = 1e-4  # nats: a smaller one is no regret, and has no place on a log axis


def prediction(cells: Cells, path: Path) -> None:
    """Rank correlation and error of the mean over all sets against the total of runs."""
    pyplot = headless_pyplot()
    recordings = cells.names("recording")
    if not recordings:
        return
    figure, axes = pyplot.subplots(
        len(recordings), 2, figsize=(11, 4 * len(recordings)), squeeze=False, layout="constrained"
    )
    for row, recording in zip(axes, recordings, strict=True):
        target = cells.names("target", recording=recording)[0]
        for method in cells.names("method", recording=recording):
            totals = sorted(map(int, cells.names("total", recording=recording, method=method)))
            key = {"recording": recording, "method": method, "target": target}
            order = [cells.values("spearman", total=n, **key).mean() for n in totals]
            error = [np.sqrt(cells.values("mse", total=n, **key).mean()) for n in totals]
            width = 2.5 if method.startswith(_OURS) else 1.0
            style = "-" if method.startswith(_OURS) else "--"
            row[0].plot(totals, 1 - np.array(order), style, linewidth=width, label=method)
            row[1].plot(totals, error, style, linewidth=width, label=method)
        row[0].set(title=f"{recording}: {target}", ylabel="1 − rank correlation")
        row[1].set(title=f"{recording}: {target}", ylabel="RMSE, nats per token")
        for axis in row:
            axis.set(xlabel="total runs, experts counted", xscale="log", yscale="log")
            axis.set_xticks(totals, [str(n) for n in totals])
            axis.minorticks_off()
        row[1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def search(cells: Cells, path: Path) -> None:
    """Median regret against the total of runs, quartiles for ours."""
    pyplot = headless_pyplot()
    workers = cells.names("workers")
    shown = [
        (r, o, w)
        for w in workers
        for r in cells.names("recording", workers=w)
        for o in cells.names("objective", workers=w, recording=r)
    ]
    families = cells.names("emulator")
    if not shown:
        return
    figure, axes = pyplot.subplots(
        len(shown),
        len(families),
        figsize=(6 * len(families), 3.6 * len(shown)),
        squeeze=False,
        layout="constrained",
    )
    for row, (recording, objective, n) in zip(axes, shown, strict=True):
        for axis, family in zip(row, families, strict=True):
            key: dict[str, str | int] = {
                "recording": recording,
                "objective": objective,
                "workers": n,
                "emulator": family,
            }
            _curves(axis, cells, key)
            workers_text = f", {n} workers" if n != "1" else ""
            axis.set(
                title=f"{recording}, {objective}, emulator {family}{workers_text}",
                xlabel="full runs, experts counted",
                ylabel="regret",
                yscale="log",
            )
        row[-1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _curves(axis: Axes, cells: Cells, key: dict[str, str | int]) -> None:
    from matplotlib import colormaps

    axis.set_prop_cycle(color=colormaps["tab20"].colors)  # more methods than the default has
    for method in cells.names("method", **key):
        if method.startswith("pilot"):
            continue
        totals = sorted(map(int, cells.names("total", **key, method=method)))
        found = [cells.values("regret", **key, method=method, total=n) for n in totals]
        low, middle, high = np.array([np.quantile(v, [0.25, 0.5, 0.75]) for v in found]).T
        ours = method.startswith(_OURS)
        (line,) = axis.plot(
            totals,
            np.maximum(middle, _LEAST_REGRET),
            "-" if ours else "--",
            linewidth=2.5 if ours else 1.0,
            label=method,
        )
        if ours:
            low, high = np.maximum(low, _LEAST_REGRET), np.maximum(high, _LEAST_REGRET)
            axis.fill_between(totals, low, high, color=line.get_color(), alpha=0.12)


def headless_pyplot() -> Any:
    """Matplotlib for files, loaded only when something is drawn."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def throughput(columns: Sequence[str], rows: Sequence[Sequence[float]], path: Path) -> None:
    """Seconds for the mixtures against the number of validation tokens."""
    pyplot = headless_pyplot()
    tokens, *figures = np.array(rows).T
    figure, axis = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for name, values in zip(columns[1:], figures, strict=True):
        if name in ("logsumexp", "exact", "coreset", "coreset and gradient"):
            axis.plot(tokens, values, "o-", label=name)
    axis.set(
        title="MDE losses of 4,000 mixtures, one thread",
        xlabel="validation tokens",
        ylabel="CPU seconds",
        xscale="log",
        yscale="log",
    )
    axis.legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
