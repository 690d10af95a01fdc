"""Several goals against each other: the runs, and the mixtures that are predicted to be best."""

from __future__ import annotations

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
    for style, members in by_marker(runs).items():
        figure.add_scatter(
            x=short(run.values[first] for run in members),
            y=short(run.values[second] for run in members),
            mode="markers",
            marker={"symbol": style.symbol, "size": 9, "color": style.colour},
            name=style.title,
            hoverinfo="text",
            hovertext=[hover(run, run.values[first]) for run in members],
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
        xaxis={"title": {"text": label(names[first])}, "showgrid": True},
        yaxis={"title": {"text": label(names[second])}, "showgrid": True},
    )


def _hover(row: Row, names: Sequence[str], first: int, second: int) -> str:
    lines = [f"{label(names[g])} {row.goals[g].mean:.4f}" for g in (first, second)]
    largest = sorted(row.mixture.items(), key=lambda item: -item[1])[:6]
    return "<br>".join(lines + [f"{label(d)} {rate:.1%}" for d, rate in largest if rate > 0])
