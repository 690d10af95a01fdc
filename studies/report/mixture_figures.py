"""Pictures of the mixtures that matter: their losses, their confirmed differences.

Losses are in nats per token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go

from optuna_mde.visualization.palette import ACCENT, MUTED, bars, label, quiet, short, signed

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from optuna_mde_studies.runner.confirm import Difference

    from optuna_mde.answers.rows import Row

BETTER = "#228833"
WORSE = "#cc3311"

MARKS = {
    "recommended": ("circle", ACCENT, -0.22),
    "natural": ("diamond", "#228833", 0.0),
    "best expert": ("triangle-up", "#b8a52e", 0.22),
}
"""Mixtures compared set by set: symbol, colour, place beside the set's line."""

REACH = 1.0
"""How far from the sets that count another is drawn to scale, in ranges of theirs."""


def set_losses(
    rows: Sequence[Row], sets: Sequence[str], counted: Collection[str] = ()
) -> go.Figure:
    """Predicted loss per validation set, as a difference to the natural mixture's.

    Where no natural mixture is known the uniform one is the reference. Each bar is the 90 %
    interval of that mixture's own loss. Sets in `counted` come first, in bold; differences far
    from theirs stand at the edge, hollow, with their number beside them.
    """
    by_name = {row.name: row for row in rows}
    reference = by_name.get("natural") or by_name.get("uniform") or rows[-1]
    known = [name for name in sets if name in reference.losses]
    shown = [s for s in known if s in counted] + [s for s in known if s not in counted]
    marked = [by_name[name] for name in MARKS if name in by_name]
    zero = {s: reference.losses[s].mean for s in shown}
    low, high = _focus(marked, zero, counted)
    figure = go.Figure()
    for row in marked:
        symbol, colour, shift = MARKS[row.name]
        places = [(i, s) for i, s in enumerate(shown) if s in row.losses]
        means = [row.losses[s].mean - zero[s] for _, s in places]
        off = [not low <= mean <= high for mean in means]
        figure.add_scatter(
            x=short(min(max(mean, low), high) for mean in means),
            y=[i + shift for i, _ in places],
            error_x=bars(
                [row.losses[s] for _, s in places],
                colour,
                hidden=off,
                within=[(zero[s] + low, zero[s] + high) for _, s in places],
            ),
            mode="markers+text",
            text=[signed(m, 2) if out else "" for m, out in zip(means, off, strict=True)],
            textposition=["middle right" if m < low else "middle left" for m in means],
            textfont={"size": 10, "color": MUTED},
            marker={
                "symbol": [f"{symbol}-open" if out else symbol for out in off],
                "size": 9,
                "color": colour,
            },
            name=row.name,
            hoverinfo="text",
            hovertext=[
                f"{label(s)}, {row.name}<br>{row.losses[s].mean:.3f}"
                f"<br>90 %: {row.losses[s].low:.3f} to {row.losses[s].high:.3f}"
                for _, s in places
            ],
        )
    figure.add_vline(x=0, line={"width": 1, "color": MUTED})
    return quiet(
        figure,
        height=120 + (40 if len(shown) <= 12 else 26) * len(shown),
        xaxis={
            "title": {
                "text": f"predicted loss minus that of {label(reference.name)}, nats per token"
            },
            "showgrid": True,
            "range": short([low - 0.06 * (high - low), high + 0.06 * (high - low)]),
        },
        yaxis={
            "tickmode": "array",
            "tickvals": list(range(len(shown))),
            "ticktext": [f"<b>{label(s)}</b>" if s in counted else label(s) for s in shown],
            "range": [len(shown) - 0.5, -0.5],
            "ticksuffix": "  ",
            "showgrid": True,
        },
    )


def _focus(
    rows: Sequence[Row], zero: Mapping[str, float], counted: Collection[str]
) -> tuple[float, float]:
    """The range of differences to draw: that of the sets that count, and of what is near it."""
    every = _ends(rows, zero, list(zero))
    first = _ends(rows, zero, [s for s in zero if s in counted]) or every
    if not first:
        return -0.5, 0.5
    reach = REACH * (max(first) - min(first))
    low, high = max(min(every), min(first) - reach), min(max(every), max(first) + reach)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _ends(rows: Sequence[Row], zero: Mapping[str, float], sets: Sequence[str]) -> list[float]:
    found = [(s, row.losses[s]) for row in rows for s in sets if s in row.losses]
    return [end - zero[s] for s, interval in found for end in (interval.low, interval.high)]


def confirmed(differences: Sequence[Difference]) -> go.Figure:
    """Confirmed differences with their 95 % intervals, zero marked."""
    figure = go.Figure()
    for i, difference in enumerate(differences):
        colour = BETTER if difference.is_better else WORSE if difference.is_worse else MUTED
        figure.add_scatter(
            x=short([difference.mean]),
            y=[i],
            error_x={**bars([difference], colour), "thickness": 3},
            mode="markers+text",
            marker={"size": 12, "color": colour},
            text=[signed(difference.mean)],
            textposition="top center",
            cliponaxis=False,
            hoverinfo="text",
            hovertext=[
                f"{signed(difference.mean, 4)}"
                f"<br>95 %: {signed(difference.low, 4)} to {signed(difference.high, 4)}"
            ],
        )
    figure.add_vline(x=0, line={"width": 1, "color": MUTED})
    reach = max(max(abs(d.low), abs(d.high)) for d in differences) or 1.0
    least = min(-0.25 * reach, *(d.low for d in differences))
    most = max(0.25 * reach, *(d.high for d in differences))
    return quiet(
        figure,
        height=80 + 56 * len(differences),
        margin_t=8,
        showlegend=False,
        xaxis={
            "title": {"text": "difference in loss, nats per token"},
            "range": [least - 0.08 * reach, most + 0.08 * reach],
            "showgrid": True,
        },
        yaxis={
            "tickmode": "array",
            "tickvals": list(range(len(differences))),
            "ticktext": [f"against {label(d.other)}" for d in differences],
            "range": [len(differences) - 0.5, -0.7],
            "ticksuffix": "  ",
        },
    )
