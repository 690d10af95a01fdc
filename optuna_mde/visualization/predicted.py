"""Predicted against observed objectives of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optuna_mde.visualization.palette import FORESEEN, MUTED, quiet, short
from optuna_mde.visualization.runs import PROPOSALS

if TYPE_CHECKING:
    import plotly.graph_objects as go

REACH = 0.5
"""How far from the observed values a prediction is drawn to scale, in ranges of theirs."""
MARGIN = 0.1
"""Of the range that is drawn, beyond it."""
EDGE = 0.02
"""Of the frame, which marks at its edge and bars keep free."""


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
    ends = _frame(panel)
    low, high = ends
    edge = EDGE * (high - low)
    off = [not low <= mean <= high for mean in panel.mean]
    means = [min(max(mean, low + edge), high - edge) for mean in panel.mean]
    figure.add_scatter(
        x=ends,
        y=ends,
        mode="lines",
        line={"width": 1, "color": MUTED, "dash": "dot"},
        hoverinfo="skip",
        **where,
    )
    pairs = list(zip(means, panel.half, off, strict=True))
    figure.add_scatter(
        x=short(means),
        y=short(panel.observed),
        error_x={
            "array": short(min(half, high - edge - m) * (not out) for m, half, out in pairs),
            "arrayminus": short(min(half, m - low - edge) * (not out) for m, half, out in pairs),
            "symmetric": False,
            "color": FORESEEN,
            "thickness": 1.5,
            "width": 0,
        },
        mode="markers+text",
        text=[f"{m:.2f}" if out else "" for m, out in zip(panel.mean, off, strict=True)],
        textposition=["middle left" if 2 * m > low + high else "middle right" for m in means],
        textfont={"size": 10, "color": MUTED},
        marker={
            "size": 8,
            "color": PROPOSALS.colour,
            "symbol": ["circle-open" if out else "circle" for out in off],
        },
        hoverinfo="text",
        hovertext=panel.texts,
        **where,
    )
    shown = {"range": ends, "showgrid": True}
    figure.update_xaxes({"title": {"text": f"predicted {panel.name}"}, **shown}, **where)
    figure.update_yaxes({"title": {"text": f"observed {panel.name}"}, **shown}, **where)


def _frame(panel: Panel) -> list[float]:
    """The range of both axes: what was observed, and predictions that are not far from it.

    The first proposals know little: drawn to scale, they would squeeze all others into a corner.
    """
    low, high = min(panel.observed), max(panel.observed)
    reach = REACH * (high - low)
    near = [mean for mean in panel.mean if low - reach <= mean <= high + reach]
    low, high = min(low, *near) if near else low, max(high, *near) if near else high
    margin = MARGIN * (high - low) or max(panel.half)
    return short([low - margin, high + margin])
