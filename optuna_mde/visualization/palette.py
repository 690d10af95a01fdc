"""Colours and the quiet look that all pictures share."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import plotly.graph_objects as go

INK = "#1f2933"
MUTED = "#6b7785"
GRID = "#e6eaee"
PAPER = "#ffffff"
ACCENT = "#b3155b"
"""The recommended mixture, in every picture."""
FORESEEN = "#a9bfd6"
"""What was predicted of runs."""
OTHER = "#c9cfd6"
"""Domains that share one colour because there are more of them than colours."""

# Paul Tol's "bright" set, then those of his "muted" set that keep apart from it: distinguishable
# with every common form of colour blindness (https://personal.sron.nl/~pault).
DOMAIN_COLOURS = (
    "#4477aa",
    "#ee6677",
    "#228833",
    "#ccbb44",
    "#66ccee",
    "#aa3377",
    "#332288",
    "#44aa99",
    "#999933",
    "#882255",
    "#ddcc77",
    "#88ccee",
)

LABEL_LENGTH = 28
"""Characters of a name that leave room for others."""

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def shortened(name: str) -> str:
    """A name that leaves room for others."""
    return name if len(name) <= LABEL_LENGTH else name[: LABEL_LENGTH - 1] + "…"


def label(name: str) -> str:
    """A user's name as Plotly may show it: its markup inert, its length bounded."""
    # "%" starts a d3 template ("%{x}") in some of Plotly's texts.
    return html.escape(shortened(name), quote=False).replace("%{", "%&#123;")


class Layer(NamedTuple):
    """One colour in stacked bars: a domain, or all those that share the last colour."""

    title: str
    colour: str
    rates: list[float]
    """One rate a bar."""


def domain_colours(domains: Sequence[str]) -> dict[str, str]:
    """One colour a domain, by its place in the study, so that it is the same in every picture."""
    return {
        domain: DOMAIN_COLOURS[i] if i < len(DOMAIN_COLOURS) else OTHER
        for i, domain in enumerate(domains)
    }


def layers(mixtures: Sequence[Mapping[str, float]], domains: Sequence[str]) -> list[Layer]:
    """Mixtures as layers of stacked bars, in the order of the domains."""
    colours = domain_colours(domains)
    own = [domain for domain in domains if colours[domain] != OTHER]
    shared = [domain for domain in domains if colours[domain] == OTHER]
    found = [Layer(label(d), colours[d], [m.get(d, 0.0) for m in mixtures]) for d in own]
    if shared:
        rates = [sum(m.get(domain, 0.0) for domain in shared) for m in mixtures]
        found.append(Layer(f"{len(shared)} others", OTHER, rates))
    return found


class _Interval(Protocol):
    @property
    def mean(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def bars(
    intervals: Sequence[_Interval],
    colour: str,
    hidden: Sequence[bool] = (),
    within: Sequence[tuple[float, float]] = (),
) -> dict[str, Any]:
    """Error bars of intervals that need not be symmetric; none where `hidden`, and none beyond
    the ends of the frame, `within`, of each."""
    shown = [not hide for hide in hidden] or [True] * len(intervals)
    ends = within or [(-math.inf, math.inf)] * len(intervals)
    found = list(zip(intervals, shown, ends, strict=True))
    return {
        "array": short(
            max(0.0, min(each.high, end) - each.mean) * show for each, show, (_, end) in found
        ),
        "arrayminus": short(
            max(0.0, each.mean - max(each.low, end)) * show for each, show, (end, _) in found
        ),
        "symmetric": False,
        "color": colour,
        "thickness": 2,
        "width": 0,
    }


def short(values: Iterable[float]) -> list[float]:
    """Five decimals are more than a picture shows, and keep what the dashboard stores small."""
    return [round(float(value), 5) for value in values]


def signed(value: float, decimals: int = 3) -> str:
    """A difference with its sign, with a minus as wide as the plus."""
    return f"{value:+.{decimals}f}".replace("-", "−")


def ink_on(colour: str) -> str:
    """Black or white, whichever is read better on `colour` ("#rrggbb")."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 0.55 else PAPER


def titled(figure: go.Figure, title: str) -> dict[str, Any]:
    """Layout of a title in the figure, with room for a legend of two entries a line below it."""
    named = {trace.name for trace in figure.data if trace.showlegend is not False}
    lines = 0 if figure.layout.showlegend is False else max(2, math.ceil(len(named) / 2))
    return {
        "title": {
            "text": f"<b>{html.escape(title, quote=False)}</b>",
            "font": {"size": 15},
            "x": 0,
            "xanchor": "left",
            "y": 1,
            "yanchor": "top",
            "yref": "container",
            "pad": {"l": 12, "t": 16},
        },
        "margin_t": 56 + 21 * lines,
    }


def standing_alone(figure: go.Figure, title: str) -> go.Figure:
    """The figure as a notebook shows it: with a title, and axes that can be zoomed."""
    layout, own = titled(figure, title), figure.layout.margin.t
    layout["margin_t"] = max(layout["margin_t"], own)
    figure.update_layout(height=figure.layout.height + layout["margin_t"] - own, **layout)
    figure.update_xaxes(fixedrange=False)
    figure.update_yaxes(fixedrange=False)
    return figure


def quiet(figure: go.Figure, *, height: int, **layout: Any) -> go.Figure:
    """Gives a figure the shared look: white, few lines, the legend above the plot."""
    axis = {
        "showgrid": False,
        "zeroline": False,
        "showline": False,
        "ticks": "",
        "automargin": True,
        "gridcolor": GRID,
        "fixedrange": True,
        "tickfont": {"color": INK},
        "title": {"font": {"color": MUTED, "size": 13}, "standoff": 10},
    }
    figure.update_layout(
        template="none",
        height=height,
        autosize=True,
        paper_bgcolor=PAPER,
        plot_bgcolor=PAPER,
        font={"family": FONT, "size": 13, "color": INK},
        margin={"l": 16, "r": 16, "t": 44, "b": 16},
        legend={
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1.02,
            "yanchor": "bottom",
            "font": {"size": 12},
        },
        hoverlabel={"bgcolor": PAPER, "bordercolor": GRID, "font": {"color": INK, "size": 12}},
        hovermode="closest",
    )
    figure.update_xaxes(axis)
    figure.update_yaxes(axis)
    figure.update_layout(layout)
    return figure
