"""A map of one goal over three domains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from optuna_mde.answers.intervals import Z90
from optuna_mde.simplex.projection import TOLERANCE, Array
from optuna_mde.visualization.palette import ACCENT, INK, PAPER, label, quiet, short
from optuna_mde.visualization.runs import hover

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from optuna_mde.visualization.answered import Answered
    from optuna_mde.visualization.runs import Run

STEPS = 32
"""Steps along a side: cells of 15 pixels that touch, and predictions of seconds."""
CORNERS = 3
FORBIDDEN = 0.25
"""Opacity of what bounds forbid."""


@dataclass(frozen=True)
class Map:
    """One goal at n mixtures of three domains, all others as recommended."""

    domains: tuple[str, ...]
    rates: Array
    """Rates `[n, 3]`; every row has the sum that the recommendation has."""
    mean: Array
    """Expected goal `[n]`."""
    sd: Array
    """Sd `[n]` of it."""
    allowed: Sequence[bool]
    """Whether each mixture keeps bounds and constraints."""
    recommended: Array
    """Recommended rates `[3]`."""


def chosen(answered: Answered, domains: Sequence[str] | None) -> tuple[str, ...]:
    """The three domains of a map: those that are named, else the largest of the recommendation.

    Raises:
        ValueError: if they are not three of the mixture, or the recommendation has none of them.
    """
    known, best = answered.group.domains, answered.recommended
    if len(known) < CORNERS:
        raise ValueError(
            f"a ternary map needs three domains, and the mixture has {', '.join(known)}; "
            f"plot_effects shows two"
        )
    if domains is None:
        largest = sorted(np.argsort(-best, kind="stable")[:CORNERS])
        return tuple(known[k] for k in largest)
    if isinstance(domains, str) or len(set(domains)) != CORNERS or len(domains) != CORNERS:
        raise ValueError(f"domains must be three different names, got {domains!r}")
    for domain in domains:
        if domain not in known:
            raise ValueError(
                f"{domain!r} is no domain of the study's mixture; its domains are "
                f"{', '.join(known)}"
            )
    if sum(best[known.index(domain)] for domain in domains) <= TOLERANCE:
        raise ValueError(
            f"the recommendation has nothing of {', '.join(domains)}, so that there is nothing "
            f"to share among them; name at least one domain that it has"
        )
    return tuple(domains)


def read(answered: Answered, domains: tuple[str, ...], goal: int) -> Map:
    """Predict one goal over three domains."""
    best = answered.recommended
    places = [answered.group.domains.index(domain) for domain in domains]
    shares = np.array(
        [(i, j, STEPS - i - j) for i in range(STEPS + 1) for j in range(STEPS + 1 - i)],
        dtype=float,
    )
    rates = shares / STEPS * best[places].sum()
    points = np.tile(best, (len(rates), 1))
    points[:, places] = rates
    mean, sd = answered.predict(points)
    return Map(
        domains,
        rates,
        mean[:, goal],
        sd[:, goal],
        answered.allowed(points),
        best[places],
    )


def draw(found: Map, name: str, runs: Sequence[Run], *, goal: int) -> go.Figure:
    """The map, and on it runs of these three domains and the recommended mixture."""
    import plotly.graph_objects as go

    total = float(found.recommended.sum())
    figure = go.Figure()
    figure.add_scatterternary(
        **_places(found.rates),
        mode="markers",
        marker={
            "symbol": "hexagon",
            "size": 17,
            "color": short(found.mean),
            "colorscale": "Viridis",
            "opacity": [1.0 if kept else FORBIDDEN for kept in found.allowed],
            "colorbar": {"title": {"text": name}, "thickness": 14, "len": 0.8, "x": 1.1},
            "line": {"width": 0},
        },
        hoverinfo="text",
        hovertext=_texts(found),
        name="predicted",
    )
    if runs:
        rates = [[run.mixture.get(domain, 0.0) for domain in found.domains] for run in runs]
        figure.add_scatterternary(
            **_places(np.array(rates)),
            mode="markers",
            marker={"size": 7, "color": PAPER, "line": {"width": 1.5, "color": INK}},
            hoverinfo="text",
            cliponaxis=False,
            hovertext=[hover(run, run.values[goal]) for run in runs],
            name="runs",
        )
    figure.add_scatterternary(
        **_places(found.recommended[None]),
        mode="markers",
        marker={
            "symbol": "star",
            "size": 15,
            "color": ACCENT,
            "line": {"width": 1.5, "color": PAPER},
        },
        cliponaxis=False,
        hoverinfo="skip",
        name="recommended",
    )
    axis = {"tickformat": ".0%", "nticks": 5, "showgrid": False, "linecolor": INK, "min": 0}
    titles = [{"text": f"<b>{label(domain)}</b>"} for domain in found.domains]
    return quiet(
        figure,
        height=540,
        showlegend=False,
        margin={"l": 70, "r": 20, "t": 84, "b": 70},
        ternary={
            "sum": total,
            "bgcolor": PAPER,
            **{f"{a}axis": {**axis, "title": t} for a, t in zip("abc", titles, strict=True)},
        },
    )


def _places(rates: Array) -> dict[str, list[float]]:
    return {axis: rates[:, i].tolist() for i, axis in enumerate("abc")}


def _texts(found: Map) -> list[str]:
    texts = []
    for rates, mean, sd, kept in zip(
        found.rates, found.mean, Z90 * found.sd, found.allowed, strict=True
    ):
        parts = zip(found.domains, rates, strict=True)
        lines = [f"{label(domain)} {rate:.1%}" for domain, rate in parts]
        lines += [f"predicted {mean:.4f}", f"90 %: {mean - sd:.4f} to {mean + sd:.4f}"]
        texts.append(
            "<br>".join(lines if kept else [*lines, "forbidden by bounds or constraints"])
        )
    return texts
