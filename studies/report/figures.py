"""All pictures of a study, in the order in which they are best read, with titles and captions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from optuna_mde_studies.report import curves, mixture_figures, search_figures
from optuna_mde_studies.wording import listed

from optuna_mde.visualization import effects, front, mixtures, predicted, ternary
from optuna_mde.visualization.palette import shortened
from optuna_mde.visualization.trained import left_out, runs_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import plotly.graph_objects as go
    from optuna_mde_studies.report.curves import Traced
    from optuna_mde_studies.report.judgement import Judgement
    from optuna_mde_studies.report.overview import Overview

    from optuna_mde.answers.answer import Recommendation
    from optuna_mde.visualization.answered import Answered


@dataclass(frozen=True)
class Picture:
    """A figure with what stands above and below it."""

    key: str
    """Letters and hyphens: the HTML id, and the figure's name in the dashboard."""
    title: str
    caption: str
    figure: go.Figure
    panels: tuple[go.Figure, ...] = ()
    """Its parts, which a page sets side by side as it has room; empty where it has none, or where
    the whole was asked for."""


def confirmation(judgement: Judgement | None) -> list[Picture]:
    """Confirmed differences of the recommended mixture to others, a picture for every goal."""
    if judgement is None:
        return []
    several = len(judgement.differences) > 1
    title = "Confirmed differences" + ("" if judgement.is_current else " (earlier recommendation)")
    return [
        Picture(
            f"confirmed-{i}" if several else "confirmed",
            f"{title}: {goal}" if several else title,
            "Loss of the recommended mixture minus another's, both trained again with the same "
            "fresh seeds: left of the line it is better. Bars are 95 % intervals.",
            mixture_figures.confirmed(found),
        )
        for i, (goal, found) in enumerate(judgement.differences.items())
        if found
    ]


def of_curves(overview: Overview, traced: Sequence[Traced]) -> Iterator[Picture]:
    """Losses of the runs on their way, as far as they were kept."""
    scored = None
    if overview.goals is not None:
        scored = curves.objective(traced, overview.goals, overview.objectives[0])
    if scored is not None:
        yield Picture(
            "curves",
            "Losses on the way",
            "The objective of every run that was scored before its end.",
            scored,
        )
    trained = curves.training(traced)
    if trained is not None:
        yield Picture(
            "training",
            "Training losses",
            "Each point is the mean since the one before. Runs train on different text, so that "
            "a lower line is no better mixture: look for lines that leave their path.",
            trained,
        )


def pictures(
    overview: Overview,
    recommendation: Recommendation | None = None,
    answered: Answered | None = None,
    *,
    in_parts: bool = False,
) -> list[Picture]:
    """What the runs and the recommendation look like; only the pictures that the data allow.

    Args:
        overview: the study's runs.
        recommendation: what it recommends.
        answered: the study with its surrogate, for pictures of what that predicts elsewhere.
        in_parts: whether to draw pictures that have parts as these, `Picture.panels`.
    """
    return [
        *_of_recommendation(overview, recommendation),
        *(_of_predictions(answered, in_parts=in_parts) if answered else ()),
        *_of_search(overview, recommendation, answered),
    ]


def _of_predictions(answered: Answered, *, in_parts: bool) -> Iterator[Picture]:
    domains = answered.group.domains
    row = answered.recommendation.rows[0]
    goals, lines = row.goals or (row.objective,), effects.lines(answered)
    parts = [[line] for line in lines] if in_parts else [lines]
    panels = tuple(effects.draw(p, answered.names, goals, among=lines) for p in parts)
    yield Picture(
        "effects",
        "What each domain does",
        "The predicted objective with its 90 % interval by the share of one domain, through the "
        "recommended mixture (star); the others keep their ratios. What bounds forbid is dotted.",
        panels[0],
        panels if in_parts else (),
    )
    if len(domains) >= ternary.CORNERS:
        corners = ternary.chosen(answered, None)
        runs = runs_of(answered) if len(domains) == ternary.CORNERS else []
        found = ternary.read(answered, corners, 0)
        yield Picture(
            "map",
            f"Map of {listed(map(shortened, corners))}",
            "The predicted objective where these three share what the recommended mixture (star) "
            "gives to them together, all others as recommended; what bounds forbid is faint.",
            ternary.draw(found, answered.names[0], runs, goal=0),
        )


def _of_recommendation(
    overview: Overview, recommendation: Recommendation | None
) -> Iterator[Picture]:
    rows = recommendation.rows if recommendation else ()
    if rows:
        yield Picture(
            "mixtures",
            "The mixtures compared",
            "Each domain's share of the training tokens; on the right the predicted objective.",
            mixtures.draw(rows, overview.domains),
        )
    if len(rows) > 1 and overview.sets:
        figure = mixture_figures.set_losses(rows, overview.sets, overview.counted)
        yield Picture(
            "sets",
            "Loss on every validation set",
            "Predicted losses with 90 % intervals, as differences to the reference: left of the "
            f"line is better. Sets in bold count in the objective.{_beyond(figure)}",
            figure,
        )


def _of_search(
    overview: Overview, recommendation: Recommendation | None, answered: Answered | None
) -> Iterator[Picture]:
    single = len(overview.objectives) == 1
    whole = "full " if any(run.is_shortened for run in overview.runs) else ""
    for i, name in enumerate(overview.objectives if overview.complete else ()):
        figure = search_figures.history(overview, recommendation if single else None, objective=i)
        yield Picture(
            "search" if single else f"search-{i}",
            "The search" if single else f"The search: {name}",
            f"The objective of every {whole}run by what the study had cost when it ended"
            + (", and beside each proposal what had been predicted for it." if single else ".")
            + _crossed(overview)
            + _beyond(figure),
            figure,
        )
    found = recommendation.pareto if recommendation else ()
    for i in range(1, len(overview.objectives) if found else 1):
        yield Picture(
            f"trade-off-{i}",
            f"Trade-off: {overview.objectives[0]}, {overview.objectives[i]}",
            "Two objectives of every run, and the mixtures that are predicted to be best for some "
            "weighting of the objectives.",
            front.draw(
                overview.complete,
                found,
                overview.objectives,
                first=0,
                second=i,
                recommended=recommendation.rows[0] if recommendation else None,
            ),
        )
    if search_figures.foreseen(overview):
        noise = recommendation.noise_sd if recommendation else 0.0
        yield Picture(
            "foresight",
            "Predicted against observed",
            "Proposals as predicted before they were trained, and what their runs then gave; bars "
            "are 90 % intervals of a single run, so nine in ten should reach the diagonal.",
            search_figures.foresight(overview, noise_sd=noise),
        )
    elif answered and (panels := left_out(answered)):
        yield Picture(
            "left-out",
            "Predicted against observed",
            "Runs as all other runs predict them, and what they gave; bars are 90 % intervals of "
            "a single run, so nine in ten should reach the diagonal.",
            predicted.draw(panels),
        )
    if any(run.mixture for run in overview.runs):
        yield Picture(
            "tried",
            "Every mixture tried",
            "Each domain's share of the training tokens in every run, in the order of the search.",
            search_figures.mixtures_by_run(overview),
        )


def _crossed(overview: Overview) -> str:
    if not any(run.forbidden for run in overview.complete):
        return ""
    return " Crosses are runs that the bounds in force forbid."


def _beyond(figure: go.Figure) -> str:
    """Explains marks at the edge, where there are any."""
    symbols = [symbol for trace in figure.data for symbol in (trace.marker.symbol or ())]
    hollow = any(str(symbol).endswith("-open") for symbol in symbols)
    return " Hollow marks lie beyond the edge, at the value beside them." if hollow else ""
