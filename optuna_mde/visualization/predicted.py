"""Predicted against observed objectives of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optuna_mde.visualization.palette import FORESEEN, MUTED, quiet, short
from optuna_mde.visualization.runs import PROPOSALS

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Panel:
    """One goal of r runs."""

    name: str
    """The goal, as a figure may show it."""
    mean: Sequence[float]
    """Predicted `[r]`."""
    half: Sequence[float]
    """Half widths `[r]` of the intervals of a single run."""
    observed: Sequence[float]
    """Observed `[r]`."""
    texts: Sequence[str]
    """What each run says when one points at it."""


def draw(panels: Sequence[Panel]) -> go.Figure:
    """A panel a goal, one beneath the other, with the diagonal that right predictions lie on."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    alone = len(panels) == 1
    figure = go.Figure() if alone else make_subplots(rows=len(panels), cols=1)
    quiet(figure, height=440 * len(panels), margin_t=16, showlegend=False)
    for i, panel in enumerate(panels):
        _add(figure, panel, {} if alone else {"row": i + 1, "col": 1})
    return figure


def _add(figure: go.Figure, panel: Panel, where: dict[str, Any]) -> None:
    values = [*panel.observed, *panel.mean]
    low, high = min(values), max(values)
    margin = 0.3 * (high - low) or max(panel.half)  # the first, wide bars may leave the picture
    ends = short([low - margin, high + margin])
    figure.add_scatter(
        x=ends,
        y=ends,
        mode="lines",
        line={"width": 1, "color": MUTED, "dash": "dot"},
        hoverinfo="skip",
        **where,
    )
    figure.add_scatter(
        x=short(panel.mean),
        y=short(panel.observed),
        error_x={"array": short(panel.half), "color": FORESEEN, "thickness": 1.5, "width": 0},
        mode="markers",
        marker={"size": 8, "color": PROPOSALS.colour},
        hoverinfo="text",
        hovertext=panel.texts,
        **where,
    )
    shown = {"range": ends, "showgrid": True}
    figure.update_xaxes({"title": {"text": f"predicted {panel.name}"}, **shown}, **where)
    figure.update_yaxes({"title": {"text": f"observed {panel.name}"}, **shown}, **where)
