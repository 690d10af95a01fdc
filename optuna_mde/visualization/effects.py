"""What each domain does: goals on the line through the recommendation and its corner."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from optuna_mde.answers.intervals import Z90
from optuna_mde.simplex.projection import TOLERANCE, Array
from optuna_mde.visualization.palette import (
    ACCENT,
    bars,
    domain_colours,
    label,
    quiet,
    short,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import plotly.graph_objects as go

    from optuna_mde.answers.intervals import Interval
    from optuna_mde.visualization.answered import Answered

STEPS = 40
"""Steps from none of a domain to nothing else, finer at the ends, where losses are steep."""
COLUMNS = 4
"""Panels side by side that leave each wide enough to read."""
SHOWN = 95.0
"""Percent of the mixtures that the frame holds: one bad corner must not flatten all others."""
BAND = 0.22
"""Opacity of an interval, through which the grid is seen."""


@dataclass(frozen=True)
class Line:
    """Goals G along one domain's line of n mixtures."""

    domain: str
    rates: Array
    """Rates `[n]` of the domain."""
    mean: Array
    """Expected goals `[n, G]`."""
    sd: Array
    """Sd `[n, G]` of them."""
    allowed: Sequence[bool]
    """Whether each mixture keeps bounds and constraints."""
    recommended: float
    """The recommended rate."""


def lines(answered: Answered) -> list[Line]:
    """Every domain's line; the other domains keep the ratios that the recommendation has."""
    best, domains = answered.recommended, answered.group.domains
    paths = [_path(best, k) for k in range(len(domains))]
    points = np.concatenate(paths)
    mean, sd = answered.predict(points)
    allowed = answered.allowed(points)
    ends = np.cumsum([len(path) for path in paths])
    found = []
    for k, (path, end) in enumerate(zip(paths, ends, strict=True)):
        part = slice(end - len(path), end)
        found.append(Line(domains[k], path[:, k], mean[part], sd[part], allowed[part], best[k]))
    return found


def _path(best: Array, k: int) -> Array:
    """Mixtures `[n, K]` with every rate of part k; the recommendation is one of them.

    Of a recommendation that is nothing but part k the others have no ratios: there is no line.
    """
    others = best.sum() - best[k]
    if others <= TOLERANCE:
        return best[None]
    spread = (1.0 - np.cos(np.linspace(0.0, np.pi, STEPS + 1))) / 2.0
    rates = np.unique([*spread, best[k]])
    path: Array = best * ((1.0 - rates) / others)[:, None]
    path[:, k] = rates
    return path


def draw(
    found: Sequence[Line],
    names: Sequence[str],
    goals: Sequence[Interval],
    *,
    among: Sequence[Line] = (),
) -> go.Figure:
    """A panel for every domain, and so for every goal.

    Args:
        found: the domains' lines.
        names: of the goals, as a figure may show them.
        goals: of the recommended mixture.
        among: all lines, whose frame and colours these share, where these are not all.
    """
    from plotly.subplots import make_subplots

    rows = ceil(len(found) / COLUMNS)
    columns = ceil(len(found) / rows)  # as many as fill the last row best
    empty = [""] * (rows * columns - len(found))
    titles = [*(f"<b>{label(line.domain)}</b>" for line in found), *empty] * len(names)
    figure = make_subplots(
        rows=rows * len(names),
        cols=columns,
        subplot_titles=titles,
        horizontal_spacing=0.24 / columns,
        vertical_spacing=0.32 / (rows * len(names)),
    )
    figure.update_annotations(font={"size": 13})
    quiet(figure, height=90 + 220 * rows * len(names), showlegend=False)
    every = among or found
    colours = domain_colours([line.domain for line in every])
    for g, name in enumerate(names):
        ends = _frame(every, g, goals[g])
        for i, line in enumerate(found):
            where = {"row": g * rows + i // columns + 1, "col": i % columns + 1}
            _add(figure, line, g, goals[g], colours[line.domain], where)
            title = {"text": name} if i % columns == 0 else None
            figure.update_yaxes(
                {"range": ends, "showgrid": True, "title": title, "nticks": 6}, **where
            )
            figure.update_yaxes(showticklabels=i % columns == 0, **where)
            figure.update_xaxes(range=[-0.03, 1.03], tickformat=".0%", dtick=0.5, **where)
    return figure


def _frame(found: Sequence[Line], g: int, goal: Interval) -> list[float]:
    """The range of one goal in all panels: of what is near the recommendation, and of that."""
    values = np.concatenate([line.mean[:, g] for line in found])
    reach = float(np.percentile(np.abs(values - goal.mean), SHOWN))
    low = min(max(values.min(), goal.mean - reach), goal.low)
    high = max(min(values.max(), goal.mean + reach), goal.high)
    margin = 0.08 * (high - low) or 0.5
    return short([low - margin, high + margin])


def _add(
    figure: go.Figure, line: Line, g: int, goal: Interval, colour: str, where: dict[str, int]
) -> None:
    mean, half = line.mean[:, g], Z90 * line.sd[:, g]
    rates, low, high = short(line.rates), short(mean - half), short(mean + half)
    figure.add_scatter(
        x=[*rates, *rates[::-1]],
        y=[*high, *low[::-1]],
        fill="toself",
        fillcolor=colour,
        opacity=BAND,
        mode="lines",
        line={"width": 0},
        hoverinfo="skip",
        name="90 % interval",
        **where,
    )
    inside = [y if kept else None for y, kept in zip(short(mean), line.allowed, strict=True)]
    shown = {"forbidden": (short(mean), 1.2, "dot"), "predicted": (inside, 2.5, "solid")}
    for name, (y, width, dash) in shown.items():
        if name == "predicted" or not all(line.allowed):
            figure.add_scatter(
                x=rates,
                y=y,
                mode="lines",
                line={"color": colour, "width": width, "dash": dash},
                hoverinfo="text",
                hovertext=_texts(line, mean, half),
                name=name,
                **where,
            )
    figure.add_scatter(
        x=short([line.recommended]),
        y=short([goal.mean]),
        error_y=bars([goal], ACCENT),
        mode="markers",
        marker={"symbol": "star", "size": 11, "color": ACCENT},
        hoverinfo="text",
        hovertext=[f"recommended: {line.recommended:.1%}<br>{goal}"],
        name="recommended",
        **where,
    )


def _texts(line: Line, mean: Array, half: Array) -> list[str]:
    marks = ["" if kept else "<br>forbidden by bounds or constraints" for kept in line.allowed]
    return [
        f"{label(line.domain)} {rate:.1%}<br>predicted {m:.4f}"
        f"<br>90 %: {m - h:.4f} to {m + h:.4f}{mark}"
        for rate, m, h, mark in zip(line.rates, mean, half, marks, strict=True)
    ]
