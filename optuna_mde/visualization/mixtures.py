"""The mixtures that a recommendation compares, as stacked bars."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna_mde.visualization.palette import (
    ACCENT,
    MUTED,
    PAPER,
    ink_on,
    label,
    layers,
    quiet,
    short,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import plotly.graph_objects as go

    from optuna_mde.answers.rows import Row

SHARE_WITH_TEXT = 0.05
"""Smaller parts of a bar have no room for their number."""


def draw(rows: Sequence[Row], domains: Sequence[str]) -> go.Figure:
    """Named mixtures as stacked bars, the predicted objective beside each."""
    import plotly.graph_objects as go

    names = [label(row.name) for row in rows]
    figure = go.Figure()
    for layer in layers([row.mixture for row in rows], domains):
        figure.add_bar(
            y=names,
            x=short(layer.rates),
            orientation="h",
            name=layer.title,
            marker={"color": layer.colour, "line": {"color": PAPER, "width": 1.5}},
            text=[f"{rate:.0%}" if rate >= SHARE_WITH_TEXT else "" for rate in layer.rates],
            textposition="inside",
            textangle=0,
            insidetextanchor="middle",
            textfont={"color": ink_on(layer.colour), "size": 12},
            hovertemplate="%{y}: %{fullData.name} %{x:.1%}<extra></extra>",
        )
    for row, name in zip(rows, names, strict=True):
        figure.add_annotation(
            x=1.0,
            xref="paper",
            xshift=10,
            y=name,
            text=f"{row.objective.mean:.3f}",
            showarrow=False,
            xanchor="left",
            font={"size": 13, "color": ACCENT if row is rows[0] else MUTED},
        )
    return quiet(
        figure,
        height=90 + 46 * len(rows),
        barmode="stack",
        bargap=0.28,
        legend_traceorder="normal",
        margin_r=64,
        xaxis={"range": [0, 1], "showticklabels": False},
        yaxis={"autorange": "reversed", "type": "category", "ticksuffix": "  "},
    )
