"""Pictures of the figures, with matplotlib."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.cells import Cells

_OURS = "optuna-mde"


def prediction(cells: Cells, path: Path) -> None:
    """Rank correlation and error of the mean over all sets against the total of runs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

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
