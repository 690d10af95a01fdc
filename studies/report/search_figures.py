"""Pictures of the search: what the runs gave, in order, and what had been predicted of them.

Losses are in nats per token.
"""

from __future__ import annotations

import math
from itertools import accumulate
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from optuna_mde.answers.intervals import Z90
from optuna_mde.visualization import predicted
from optuna_mde.visualization.palette import (
    ACCENT,
    FORESEEN,
    GRID,
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
    from collections.abc import Mapping, Sequence

    from optuna_mde_studies.report.overview import Overview, Run

    from optuna_mde.answers.answer import Recommendation


FEWEST_MIXED = 3
STAGGERED, ROOM = 3, 0.12
"""Lines on which the values of runs beyond the edge stand, and what one takes of the width, on a
phone; of those that find no room nothing is written."""
BULK = 0.8
"""Share of the mixed runs, the best, by which the range is chosen that is drawn to scale."""
REACH = 1.0
"""How far beyond these something is drawn to scale, in ranges of theirs."""


def history(
    overview: Overview, recommendation: Recommendation | None = None, *, objective: int = 0
) -> go.Figure:
    """Objective by what the study had cost, coloured by phase, with predictions and the best run.

    A run stands where it ended, in full runs: shortened experts count by their share. The band is
    the noise of one run around the recommended mixture. Values far from those of most mixed runs
    stand at the edge, hollow, with their number beside them: to scale they would flatten all else.
    """
    spent = _spent(overview)
    runs = [run for run in overview.complete if not math.isnan(run.values[objective])]
    values = [run.values[objective] for run in runs]
    up = overview.maximise[objective]
    low, high = _focus(runs, values, recommendation, maximise=up)
    last = max(spent.values(), default=0.0)
    figure = go.Figure()
    if recommendation:
        _add_noise(figure, recommendation, low, high, last)
    _add_best_so_far(figure, runs, values, spent, low, high, maximise=up)
    if len(overview.objectives) == 1:
        _add_predictions(figure, runs, spent, low, high)
    beyond = [r.number for r, v in zip(runs, values, strict=True) if not low <= v <= high]
    lines = _lines([(number, spent[number]) for number in beyond], ROOM * last)
    for style, members in by_marker(runs).items():
        _add_observed(figure, style, members, objective, spent, low, high, lines)
    natural = [run.values[objective] for run in runs if run.phase == "natural"]
    if natural and low <= sum(natural) / len(natural) <= high:
        _add_reference(figure, sum(natural) / len(natural), "natural")
    if recommendation:
        _add_recommended(figure, recommendation, low, high, at=last * 1.03 + 0.3)
    experts = [spent[run.number] for run in overview.finished if run.phase == "expert"]
    if experts and len(experts) == sum(at <= max(experts) for at in spent.values()):
        _add_experts(figure, max(experts))
    margin = 0.1 * (high - low)
    better = "higher is better" if up else "lower is better"
    return quiet(
        figure,
        height=430,
        xaxis_title_text="cost so far, full runs",
        yaxis_title_text=f"{label(overview.objectives[objective])} ({better})",
        yaxis_showgrid=True,
        yaxis_range=[low - margin, high + margin],
        xaxis_range=[0, last * 1.05 + (0.6 if recommendation else 0.2)],
    )


def _lines(places: Sequence[tuple[int, float]], room: float) -> dict[int, int]:
    """Trial -> the first line on which its value, at a place from left to right, has room."""
    ends = [-math.inf] * STAGGERED
    found = {}
    for number, place in places:
        free = [line for line in range(STAGGERED) if place - ends[line] >= room]
        if free:
            found[number] = free[0]
            ends[free[0]] = place
    return found


def _spent(overview: Overview) -> dict[int, float]:
    """Trial -> full runs that the study had cost when it ended, in the order of the trials."""
    ends = accumulate(0.0 if run.taken_over else run.budget for run in overview.finished)
    return dict(zip((run.number for run in overview.finished), ends, strict=True))


def _focus(
    runs: Sequence[Run],
    values: Sequence[float],
    recommendation: Recommendation | None,
    *,
    maximise: bool,
) -> tuple[float, float]:
    """The range to draw: that of most mixed runs, the best of them, and of what is near it."""
    sign = -1.0 if maximise else 1.0
    pairs = zip(runs, values, strict=True)
    mixed = [sign * v for run, v in pairs if run.phase != "expert" and math.isfinite(v)]
    near = [sign * v for v in values if math.isfinite(v)]
    if recommendation:
        ends = (recommendation.objective.low, recommendation.objective.high)
        near += [sign * end for end in ends]
    if len(mixed) >= FEWEST_MIXED:
        best, bulk = min(mixed), sorted(mixed)[math.ceil(BULK * len(mixed)) - 1]
        reach = REACH * (bulk - best)
        every = [sign * v for v in values if math.isfinite(v)]
        near = [min(v, bulk + reach) for v in mixed]
        near += [max(v, best - reach) for v in every if v < best]
        if recommendation:
            near += [min(max(sign * v, best - reach), bulk + reach) for v in ends]
    low, high = min(near, default=0.0), max(near, default=0.0)
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    return (-high, -low) if maximise else (low, high)


def _add_observed(
    figure: go.Figure,
    style: Marker,
    runs: Sequence[Run],
    objective: int,
    spent: Mapping[int, float],
    low: float,
    high: float,
    lines: Mapping[int, int],
) -> None:
    values = [run.values[objective] for run in runs]
    off = [not low <= value <= high for value in values]
    symbols = ["x" if run.forbidden else style.symbol for run in runs]
    figure.add_scatter(
        x=short(spent[run.number] for run in runs),
        y=short(min(max(value, low), high) for value in values),
        mode="markers+text",
        text=[
            "<br>" * lines[run.number] + f"{value:.2f}" if run.number in lines else ""
            for run, value in zip(runs, values, strict=True)
        ],
        textposition="bottom center",
        textfont={"size": 10, "color": MUTED},
        cliponaxis=False,
        marker={
            "symbol": [
                f"{symbol}-open" if out else symbol
                for symbol, out in zip(symbols, off, strict=True)
            ],
            "size": 9,
            "color": style.colour,
            "line": {"width": 1.5 if any(off) else 0, "color": style.colour},
        },
        name=style.title,
        hoverinfo="text",
        hovertext=[
            hover(run, value) + ("<br>forbidden by bounds or constraints" * run.forbidden)
            for run, value in zip(runs, values, strict=True)
        ],
    )


def _add_best_so_far(
    figure: go.Figure,
    runs: Sequence[Run],
    values: Sequence[float],
    spent: Mapping[int, float],
    low: float,
    high: float,
    *,
    maximise: bool,
) -> None:
    pairs = [(spent[run.number], v) for run, v in zip(runs, values, strict=True)]
    allowed = [pair for run, pair in zip(runs, pairs, strict=True) if not run.forbidden]
    best = list(accumulate((v for _, v in allowed), max if maximise else min))
    figure.add_scatter(
        x=short(at for at, _ in allowed),
        y=short(min(max(value, low), high) for value in best),
        mode="lines",
        line={"shape": "hv", "width": 1.5, "color": "#b4bdc6"},
        name="best so far",
        hoverinfo="skip",
    )


def _add_predictions(
    figure: go.Figure, runs: Sequence[Run], spent: Mapping[int, float], low: float, high: float
) -> None:
    foreseen = [(spent[run.number], *run.predicted) for run in runs if run.predicted]
    foreseen = [each for each in foreseen if low <= each[1] <= high]
    if not foreseen:
        return
    at, mean, sd = zip(*foreseen, strict=True)
    figure.add_scatter(
        x=short(x - 0.25 for x in at),
        y=short(mean),
        error_y={
            "array": short(min(s, high - m) for m, s in zip(mean, sd, strict=True)),
            "arrayminus": short(min(s, m - low) for m, s in zip(mean, sd, strict=True)),
            "symmetric": False,
            "color": FORESEEN,
            "thickness": 2,
            "width": 0,
        },
        mode="markers",
        marker={"symbol": "circle", "size": 5, "color": FORESEEN},
        name="predicted ± sd",
        hoverinfo="skip",
    )


def _add_noise(
    figure: go.Figure, recommendation: Recommendation, low: float, high: float, last: float
) -> None:
    mean, half = recommendation.objective.mean, Z90 * recommendation.noise_sd
    under, over = max(low, mean - half), min(high, mean + half)
    if under >= over:
        return
    end = 1.05 * last + 1
    figure.add_scatter(
        x=[0, end, end, 0],
        y=short([under, under, over, over]),
        fill="toself",
        fillcolor=ACCENT,
        opacity=0.1,
        mode="lines",
        line={"width": 0},
        name="noise of one run, 90 %",
        hoverinfo="skip",
    )


def _add_experts(figure: go.Figure, until: float) -> None:
    figure.add_vrect(
        x0=0,
        x1=short([until])[0],
        fillcolor=GRID,
        opacity=0.5,
        line_width=0,
        layer="below",
        annotation={
            "text": "experts",
            "x": 0,
            "xanchor": "left",
            "yanchor": "bottom",
            "y": 0,
            "showarrow": False,
            "font": {"size": 11, "color": MUTED},
        },
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


def _add_recommended(
    figure: go.Figure, recommendation: Recommendation, low: float, high: float, at: float
) -> None:
    interval = recommendation.objective
    figure.add_scatter(
        x=short([at]),
        y=short([min(max(interval.mean, low), high)]),
        error_y=bars([interval], ACCENT, within=[(low, high)]),
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
