"""Pictures of the search: what the runs gave, in order, and what had been predicted of them.

Losses are in nats per token.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from optuna_mde.answers.intervals import Z90
from optuna_mde.visualization import predicted
from optuna_mde.visualization.palette import (
    ACCENT,
    FORESEEN,
    MUTED,
    PAPER,
    bars,
    label,
    layers,
    quiet,
    short,
)
from optuna_mde.visualization.runs import NATURAL, Marker, by_marker, hover

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna_mde_studies.report.overview import Overview, Run

    from optuna_mde.answers.answer import Recommendation


FEWEST_MIXED = 3
REACH = 0.6
"""How far from the mixed runs something is drawn to scale, in ranges of theirs."""


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
    for style, members in by_marker(runs).items():
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
        hovertext=[hover(run, value) for run, value in zip(runs, values, strict=True)],
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


def foresight(overview: Overview, *, noise_sd: float = 0.0) -> go.Figure:
    """Observed objective against the one predicted at proposal, with the diagonal.

    Bars are 90 % intervals of a run to come: the sd of the prediction together with `noise_sd`,
    that of one run.
    """
    runs = foreseen(overview)
    panel = predicted.Panel(
        label(overview.objectives[0]),
        mean=[run.predicted[0] for run in runs if run.predicted],
        half=[Z90 * math.hypot(run.predicted[1], noise_sd) for run in runs if run.predicted],
        observed=[run.values[0] for run in runs],
        texts=[hover(run, run.values[0]) for run in runs],
    )
    return predicted.draw([panel])


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
