"""Several goals against each other: the runs, and the mixtures that are predicted to be best."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from optuna_mde.answers.front import spread
from optuna_mde.visualization.palette import ACCENT, bars, label, quiet, short
from optuna_mde.visualization.runs import by_marker, hover

if TYPE_CHECKING:
    from collections.abc import Sequence

    import plotly.graph_objects as go

    from optuna_mde.answers.rows import Row
    from optuna_mde.visualization.runs import Run


def draw(
    runs: Sequence[Run],
    front: Sequence[Row],
    names: Sequence[str],
    *,
    first: int,
    second: int,
    recommended: Row | None = None,
) -> go.Figure:
    """Two objectives of every run against each other, with the predicted front."""
    import plotly.graph_objects as go

    figure = go.Figure()
    frames = [_frame(runs, front, goal) for goal in (first, second)]
    for style, members in by_marker(runs).items():
        across, up = (
            _held([run.values[g] for run in members], f)
            for g, f in zip((first, second), frames, strict=True)
        )
        off = [
            run.values[first] != a or run.values[second] != b
            for run, a, b in zip(members, across, up, strict=True)
        ]
        figure.add_scatter(
            x=short(across),
            y=short(up),
            mode="markers",
            marker={
                "symbol": [f"{style.symbol}-open" if out else style.symbol for out in off],
                "size": 9,
                "color": style.colour,
            },
            name=style.title,
            hoverinfo="text",
            hovertext=[_hover_run(run, names, first, second) for run in members],
        )
    ends = sorted((row.goals[first].mean, row.goals[second].mean) for row in front if row.goals)
    figure.add_scatter(
        x=short(x for x, _ in ends),
        y=short(y for _, y in ends),
        mode="lines",
        line={"width": 1.2, "color": ACCENT},
        name="predicted front",
        hoverinfo="skip",
    )
    shown = spread([row for row in front if row.goals])
    figure.add_scatter(
        x=short(row.goals[first].mean for row in shown),
        y=short(row.goals[second].mean for row in shown),
        mode="markers",
        marker={"symbol": "star", "size": 10, "color": ACCENT},
        name="mixtures on it",
        hoverinfo="text",
        hovertext=[_hover(row, names, first, second) for row in shown],
    )
    if recommended is not None:
        x, y = recommended.goals[first], recommended.goals[second]
        figure.add_scatter(
            x=short([x.mean]),
            y=short([y.mean]),
            error_x=bars([x], ACCENT),
            error_y=bars([y], ACCENT),
            mode="markers",
            marker={"symbol": "circle-open", "size": 18, "color": ACCENT, "line": {"width": 2}},
            name="recommended",
            hoverinfo="skip",
        )
    return quiet(
        figure,
        height=440,
        xaxis={
            "title": {"text": label(names[first])},
            "showgrid": True,
            "range": _wide(frames[0]),
        },
        yaxis={
            "title": {"text": label(names[second])},
            "showgrid": True,
            "range": _wide(frames[1]),
        },
    )


def _frame(runs: Sequence[Run], front: Sequence[Row], goal: int) -> tuple[float, float]:
    """The range of a goal to draw to scale: that of mixed runs and of the front. A far expert
    would squeeze both into a corner; it stands at the edge, hollow."""
    mixed = [run.values[goal] for run in runs if run.phase != "expert"]
    values = [v for v in mixed or [run.values[goal] for run in runs] if math.isfinite(v)]
    values += [row.goals[goal].mean for row in front if row.goals]
    low, high = min(values, default=0.0), max(values, default=1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _held(values: Sequence[float], frame: tuple[float, float]) -> list[float]:
    low, high = frame
    near = 0.1 * (high - low)
    return [min(max(v, low - near), high + near) for v in values]


def _wide(frame: tuple[float, float]) -> list[float]:
    low, high = frame
    return short([low - 0.13 * (high - low), high + 0.13 * (high - low)])


def _hover_run(run: Run, names: Sequence[str], first: int, second: int) -> str:
    other = f"{label(names[second])} {run.values[second]:.4f}"
    return f"{hover(run, run.values[first])}<br>{other}"


def _hover(row: Row, names: Sequence[str], first: int, second: int) -> str:
    lines = [f"{label(names[g])} {row.goals[g].mean:.4f}" for g in (first, second)]
    largest = sorted(row.mixture.items(), key=lambda item: -item[1])[:6]
    return "<br>".join(lines + [f"{label(d)} {rate:.1%}" for d, rate in largest if rate > 0])
