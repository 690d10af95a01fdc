"""The pictures of benchmarks/README.md, drawn from the tables of the pages behind it.

    python -m benchmarks.pictures

writes `prediction.png`, `intervals.png` and `ask_time.png` into `docs/`; `search.png` comes from
`benchmarks.search`, whose tables have no quartiles.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from benchmarks.drawing import headless_pyplot

HERE, PICTURES = Path(__file__).parent, Path(__file__).parents[1] / "docs"

TOTALS, ERRORS = (12, 18, 25, 32, 64), (0.02, 0.05, 0.1, 0.2, 0.3)
SHOWN = (
    "optuna-mde",
    "optuna-mde, experts at ½",
    "optuna-mde without experts",
    "GP on √rates per set",
    "log-linear law (olmix)",
    "LightGBM per set (RegMix)",
    "MDE affine",
)
RECORDINGS = ("environment", "twins", "libraries")

Row = list[str]


def main() -> None:
    """Draw all of them."""
    errors(PICTURES / "prediction.png")
    intervals(PICTURES / "intervals.png")
    ask_time(PICTURES / "ask_time.png")


def tables(page: str, first: str) -> list[list[Row]]:
    """Rows of cells of every table of a page whose first column is called so."""
    text = (HERE / page).read_text(encoding="utf-8")
    found = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    rows = [[line.strip("| ").split(" | ") for line in table.splitlines()] for table in found]
    return [table[2:] for table in rows if table[0][0].strip() == first]


def numbers(cell: str) -> list[float]:
    """Numbers of a cell, divided by strokes; NaN for what is none."""
    return [float(n) if re.fullmatch(r"-?[\d.]+", n) else np.nan for n in cell.split(" / ")]


def errors(path: Path) -> None:
    """Error of the predicted mean against the total of runs."""
    pyplot = headless_pyplot()
    figure, axes = pyplot.subplots(1, 3, figsize=(13, 3.8), sharey=True, layout="constrained")
    for axis, name, table in zip(
        axes, RECORDINGS, tables("prediction.md", "row")[1:], strict=True
    ):
        rows = {row[0]: [numbers(cell)[1] for cell in row[1:]] for row in table}
        for method in SHOWN:
            ours = method.startswith("optuna-mde")
            style, width = ("-", 2.5) if ours else ("--", 1.2)
            axis.plot(TOTALS, rows[method], style, linewidth=width, label=method)
        axis.set(title=name, xlabel="total runs, experts counted", xscale="log", yscale="log")
        axis.set_xticks(TOTALS, [str(n) for n in TOTALS])
        axis.set_yticks(ERRORS, [f"{error:g}" for error in ERRORS])
        axis.minorticks_off()
    axes[0].set(ylabel="RMSE of the mean of all sets, nats")
    axes[-1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def intervals(path: Path) -> None:
    """Share of single runs inside their 90 % intervals."""
    pyplot = headless_pyplot()
    (table,) = tables("calibration.md", "rows, single sets")
    figure, axes = pyplot.subplots(1, 3, figsize=(13, 3.4), sharey=True, layout="constrained")
    for column, (axis, name) in enumerate(zip(axes, RECORDINGS, strict=True), start=1):
        for i, row in enumerate(table):
            if row[column].strip() != "the same":
                held = numbers(row[column].partition(" (")[0])
                axis.plot(TOTALS, held, "o-", color=f"C{i}", label=row[0])
        axis.axhline(0.9, color="black", linewidth=0.8)
        axis.set(title=name, xlabel="total runs, experts counted", xscale="log", ylim=(0.8, 1.0))
        axis.set_xticks(TOTALS, [str(n) for n in TOTALS])
        axis.minorticks_off()
    axes[0].set(ylabel="inside their 90 % interval")
    figure.legend(*axes[1].get_legend_handles_labels(), fontsize=8, loc="outside right upper")
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def ask_time(path: Path) -> None:
    """CPU seconds of an ask against the number of told runs."""
    pyplot = headless_pyplot()
    (table,) = tables("ask_time.md", "told")
    told = [row for row in table if re.fullmatch(r"[\d,]+", row[0])]
    figure, axis = pyplot.subplots(figsize=(7, 3.8), layout="constrained")
    for model in ("MDE", "rates only"):
        rows = [row for row in told if row[1] == model]
        n = [float(row[0].replace(",", "")) for row in rows]
        axis.plot(n, [float(r[2]) for r in rows], "o-", linewidth=2.5, label=f"{model}, fit")
        axis.plot(n, [float(r[3]) for r in rows], "o-", label=f"{model}, next")
        if model == "MDE":
            axis.plot(n, [float(r[4]) for r in rows], "o--", label="GPSampler")
            axis.plot(n, [float(r[5]) for r in rows], "o--", label="BoTorchSampler")
    axis.set(xlabel="told runs", ylabel="CPU seconds of an ask", xscale="log", yscale="log")
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
