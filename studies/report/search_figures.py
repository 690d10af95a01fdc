"""Pictures of the search: what the runs gave, in order, and what had been predicted of them.

Losses are in nats per token.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import plotly.graph_objects as go
from optuna_mde_studies.report.palette import (
    ACCENT,
    MUTED,
    PAPER,
    bars,
    label,
    layers,
    quiet,
    short,
)

from optuna_mde.answers.intervals import Z90

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna_mde_studies.report.overview import Overview, Run

    from optuna_mde.answers.answer import Recommendation
    from optuna_mde.answers.rows import Row


FORESEEN = "#a9bfd6"
FEWEST_MIXED = 3
REACH = 0.6
"""How far from the mixed runs something is drawn to scale, in ranges of theirs."""


class Marker(NamedTuple):
    """How the runs that one rule has chosen are drawn."""

    title: str
    symbol: str
    colour: str


PROPOSALS = Marker("proposals", "circle", "#4477aa")
NATURAL = Marker("natural", "diamond", "#228833")
MARKERS = {
    "expert": Marker("experts", "triangle-up", "#ccbb44"),
    "natural": NATURAL,
    "uniform": Marker("uniform", "square", "#66ccee"),
    "design": Marker("space-filling", "cross", "#999933"),
    "model": PROPOSALS,
    "prior": PROPOSALS,
    "mde": PROPOSALS,
}
"""By phase; the last three are the surrogate's proposals, the two without a fit among them."""
OTHERS = Marker("others", "circle", MUTED)


def history(
    overview: Overview, recommendation: Recommendation | None = None, *, objective: int = 0
) -> go.Figure:
    """Objective by run, coloured by phase, with predictions, the best so far and natural.

    Values far from those of the mixed runs (experts, most of all) stand at the edge, hollow, with
    their number beside them: drawn to scale they would flatten everything else.
    """
    runs = [run for run in overview.complete if not math.isnan(run.values[objective])]
    values = [run.values[objective] for run in runs]
    figure = go.Figure()
    _add_best_so_far(figure, runs, values, maximise=overview.maximise[objective])
    if len(overview.objectives) == 1:
        _add_predictions(figure, runs)
    low, high = _focus(runs, values, recommendation)
    for style, members in _by_marker(runs).items():
        _add_observed(figure, style, members, [r.values[objective] for r in members], low, high)
    last = max(run.number for run in runs)
    natural = [run.values[objective] for run in runs if run.phase == "natural"]
    if natural:
        _add_reference(figure, sum(natural) / len(natural), "natural")
    if recommendation:
        _add_recommended(figure, recommendation, at=last + 1.5)
    margin = 0.1 * (high - low)
    better = "higher is better" if overview.maximise[objective] else "lower is better"
    return quiet(
        figure,
        height=430,
        xaxis_title_text="trial",
        yaxis_title_text=f"{label(overview.objectives[objective])} ({better})",
        yaxis_showgrid=True,
        yaxis_range=[low - margin, high + margin],
        xaxis_range=[-0.9, last + (2.4 if recommendation else 0.9)],
    )


def _focus(
    runs: Sequence[Run], values: Sequence[float], recommendation: Recommendation | None
) -> tuple[float, float]:
    """The range to draw: that of the mixed runs, and of what is not far from them."""
    mixed = [v for run, v in zip(runs, values, strict=True) if run.phase != "expert"]
    mixed = [v for v in mixed if math.isfinite(v)]
    near = [v for v in values if math.isfinite(v)]
    for mean, sd in (run.predicted for run in runs if run.predicted):
        near += [mean - sd, mean + sd]
    if recommendation:
        near += [recommendation.objective.low, recommendation.objective.high]
    if len(mixed) >= FEWEST_MIXED:
        reach = REACH * (max(mixed) - min(mixed))
        near = [min(max(v, min(mixed) - reach), max(mixed) + reach) for v in near]
    low, high = min(near, default=0.0), max(near, default=0.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _add_observed(
    figure: go.Figure,
    style: Marker,
    runs: Sequence[Run],
    values: Sequence[float],
    low: float,
    high: float,
) -> None:
    off = [not low <= value <= high for value in values]
    figure.add_scatter(
        x=[run.number for run in runs],
        y=short(min(max(value, low), high) for value in values),
        mode="markers+text",
        text=[f"{v:.2f}" if out else "" for v, out in zip(values, off, strict=True)],
        textposition="top center",
        textfont={"size": 10, "color": MUTED},
        marker={
            "symbol": [f"{style.symbol}-open" if out else style.symbol for out in off],
            "size": 9,
            "color": style.colour,
            "line": {"width": 1.5 if any(off) else 0, "color": style.colour},
        },
        name=style.title,
        hoverinfo="text",
        hovertext=[_hover(run, value) for run, value in zip(runs, values, strict=True)],
    )


def _add_best_so_far(
    figure: go.Figure, runs: Sequence[Run], values: Sequence[float], *, maximise: bool
) -> None:
    better = max if maximise else min
    figure.add_scatter(
        x=[run.number for run in runs],
        y=short(better(values[: i + 1]) for i in range(len(values))),
        mode="lines",
        line={"shape": "hv", "width": 1.5, "color": "#b4bdc6"},
        name="best so far",
        hoverinfo="skip",
    )


def _add_predictions(figure: go.Figure, runs: Sequence[Run]) -> None:
    foreseen = [(run.number, *run.predicted) for run in runs if run.predicted]
    if not foreseen:
        return
    number, mean, sd = zip(*foreseen, strict=True)
    figure.add_scatter(
        x=[n - 0.25 for n in number],
        y=short(mean),
        error_y={"array": short(sd), "color": FORESEEN, "thickness": 2, "width": 0},
        mode="markers",
        marker={"symbol": "circle", "size": 5, "color": FORESEEN},
        name="predicted ± sd",
        hoverinfo="skip",
    )


def _add_reference(figure: go.Figure, value: float, name: str) -> None:
    colour = NATURAL.colour
    figure.add_hline(
        y=short([value])[0],
        line={"width": 1.2, "dash": "dot", "color": colour},
        annotation={
            "text": name,
            "x": 1,
            "xanchor": "right",
            "yanchor": "bottom",
            "showarrow": False,
            "font": {"size": 11, "color": colour},
        },
    )


def _add_recommended(figure: go.Figure, recommendation: Recommendation, at: float) -> None:
    interval = recommendation.objective
    figure.add_scatter(
        x=[at],
        y=short([interval.mean]),
        error_y=bars([interval], ACCENT),
        mode="markers",
        marker={"symbol": "star", "size": 13, "color": ACCENT},
        name="recommended",
        hoverinfo="text",
        hovertext=[
            f"recommended<br>predicted {interval.mean:.4f}"
            f"<br>90 %: {interval.low:.4f} to {interval.high:.4f}"
        ],
    )


def trade_off(overview: Overview, front: Sequence[Row], *, first: int, second: int) -> go.Figure:
    """Two objectives of every run against each other, with the predicted front."""
    figure = go.Figure()
    for style, members in _by_marker(overview.complete).items():
        figure.add_scatter(
            x=short(run.values[first] for run in members),
            y=short(run.values[second] for run in members),
            mode="markers",
            marker={"symbol": style.symbol, "size": 9, "color": style.colour},
            name=style.title,
            hoverinfo="text",
            hovertext=[_hover(run, run.values[first]) for run in members],
        )
    ends = sorted((row.goals[first].mean, row.goals[second].mean) for row in front if row.goals)
    figure.add_scatter(
        x=short(x for x, _ in ends),
        y=short(y for _, y in ends),
        mode="lines+markers",
        line={"width": 1.2, "color": ACCENT},
        marker={"symbol": "star", "size": 10, "color": ACCENT},
        name="predicted front",
        hoverinfo="skip",
    )
    return quiet(
        figure,
        height=440,
        xaxis={"title": {"text": label(overview.objectives[first])}, "showgrid": True},
        yaxis={"title": {"text": label(overview.objectives[second])}, "showgrid": True},
    )


def foresight(overview: Overview, *, noise_sd: float = 0.0) -> go.Figure:
    """Observed objective against the one predicted at proposal, with the diagonal.

    Bars are 90 % intervals of a run to come: the sd of the prediction together with `noise_sd`,
    that of one run.
    """
    runs = foreseen(overview)
    observed = [run.values[0] for run in runs]
    mean = [run.predicted[0] for run in runs if run.predicted]
    half = [Z90 * math.hypot(run.predicted[1], noise_sd) for run in runs if run.predicted]
    low, high = min([*observed, *mean]), max([*observed, *mean])
    margin = 0.3 * (high - low) or max(half)  # the first, wide bars may leave the picture
    ends = short([low - margin, high + margin])
    figure = go.Figure()
    figure.add_scatter(
        x=ends,
        y=ends,
        mode="lines",
        line={"width": 1, "color": MUTED, "dash": "dot"},
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=short(mean),
        y=short(observed),
        error_x={"array": short(half), "color": FORESEEN, "thickness": 1.5, "width": 0},
        mode="markers",
        marker={"size": 8, "color": PROPOSALS.colour},
        hoverinfo="text",
        hovertext=[_hover(run, run.values[0]) for run in runs],
    )
    name = label(overview.objectives[0])
    return quiet(
        figure,
        height=440,
        margin_t=16,
        showlegend=False,
        xaxis={"title": {"text": f"predicted {name}"}, "range": ends, "showgrid": True},
        yaxis={"title": {"text": f"observed {name}"}, "range": ends, "showgrid": True},
    )


def foreseen(overview: Overview) -> list[Run]:
    """Complete runs whose only objective had been predicted."""
    if len(overview.objectives) > 1:
        return []
    return [run for run in overview.complete if run.predicted and math.isfinite(run.values[0])]


def mixtures_by_run(overview: Overview) -> go.Figure:
    """Every run's mixture as a stacked bar, in the order of the search."""
    runs = [run for run in overview.runs if run.mixture]
    numbers = [str(run.number) for run in runs]
    figure = go.Figure()
    for layer in layers([run.mixture for run in runs], overview.domains):
        figure.add_bar(
            x=numbers,
            y=short(layer.rates),
            name=layer.title,
            marker={"color": layer.colour, "line": {"color": PAPER, "width": 0.5}},
            hovertemplate="trial %{x}, %{fullData.name} %{y:.1%}<extra></extra>",
        )
    return quiet(
        figure,
        height=330,
        barmode="stack",
        bargap=0.12,
        legend_traceorder="normal",
        xaxis={"type": "category", "title": {"text": "trial"}},
        yaxis={"range": [0, 1], "tickformat": ".0%", "dtick": 0.25},
    )


def _by_marker(runs: Sequence[Run]) -> dict[Marker, list[Run]]:
    groups: dict[Marker, list[Run]] = {style: [] for style in [*MARKERS.values(), OTHERS]}
    for run in runs:
        groups[MARKERS.get(run.phase, OTHERS)].append(run)
    return {style: members for style, members in groups.items() if members}


def _hover(run: Run, value: float) -> str:
    lines = [f"trial {run.number}" + (f", {label(run.phase)}" if run.phase else "")]
    lines.append(f"observed {value:.4f}")
    if run.predicted:
        lines.append(f"predicted {run.predicted[0]:.4f} ± {run.predicted[1]:.4f}")
    largest = sorted(run.mixture.items(), key=lambda item: -item[1])[:6]
    lines += [f"{label(domain)} {rate:.1%}" for domain, rate in largest if rate > 0]
    return "<br>".join(lines)
