"""The figures, each from a study.

All of them take the keywords of their answers: ``objective``, another weighting than that of the
runs, as `recommend` takes it, and, where it matters, ``prefix``, which of several mixtures to show
(``"stage2/"``; the study's first).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from optuna_mde.visualization import effects, front, mixtures, predicted, ternary
from optuna_mde.visualization.answered import ask, require_plotly
from optuna_mde.visualization.palette import standing_alone
from optuna_mde.visualization.trained import left_out, runs_of

if TYPE_CHECKING:
    import optuna
    import plotly.graph_objects as go

    from optuna_mde.objective import ObjectiveLike


def plot_mixtures(
    study: optuna.Study, *, objective: ObjectiveLike = None, prefix: str | None = None
) -> go.Figure:
    """Plot the recommended mixture beside natural, uniform, the best expert and the best run.

    Each is a bar of its rates; on its right stands the predicted objective, the first goal or the
    mean of several as `Recommendation.rows` have it.

    Args:
        study: an Optuna study with at least one finished run.
        objective: another objective than that of the runs.
        prefix: of the mixture to show, where the study has several.

    Raises:
        ImportError: if Plotly is not installed.
        ValueError: if no run has finished, or the study has no such mixture.
    """
    require_plotly()
    answered = ask(study, objective, prefix)
    rows = [replace(r, mixture=answered.rates(r.mixture)) for r in answered.recommendation.rows]
    figure = mixtures.draw(rows, answered.group.domains)
    return standing_alone(figure, "Mixtures compared")


def plot_effects(
    study: optuna.Study, *, objective: ObjectiveLike = None, prefix: str | None = None
) -> go.Figure:
    """Plot what each domain does: the predicted objective by its rate, with 90 % intervals.

    Every panel is the line through the recommended mixture and the domain's corner: the other
    domains keep the ratios that they have in the recommendation (Cox's direction), parameters
    their recommended values. What bounds or constraints forbid is dotted. Several goals have
    panels of their own.

    Args:
        study: an Optuna study with at least one finished run.
        objective: another objective than that of the runs.
        prefix: of the mixture to show, where the study has several.

    Raises:
        ImportError: if Plotly is not installed.
        ValueError: if no run has finished, or the study has no such mixture.
    """
    require_plotly()
    answered = ask(study, objective, prefix)
    row = answered.recommendation.rows[0]
    figure = effects.draw(effects.lines(answered), answered.names, row.goals or (row.objective,))
    return standing_alone(figure, "Effects of the domains")


def plot_predicted(study: optuna.Study, *, objective: ObjectiveLike = None) -> go.Figure:
    """Plot observed objectives against those predicted from all other runs (leave-one-out).

    Bars are 90 % intervals of a single run, so nine in ten should reach the diagonal. Experts are
    left out: they are known from their own log-probabilities. Several goals have panels of their
    own.

    Args:
        study: an Optuna study with at least one finished run that is no expert.
        objective: another objective than that of the runs.

    Raises:
        ImportError: if Plotly is not installed.
        ValueError: if no run has finished, or only experts have.
    """
    require_plotly()
    panels = left_out(ask(study, objective, None))
    if not panels:
        raise ValueError(
            f"study {study.study_name!r} has no finished run beside its experts; run a mixture "
            f"of several domains first"
        )
    return standing_alone(predicted.draw(panels), "Predicted from the other runs, and observed")


def plot_ternary(
    study: optuna.Study,
    domains: Sequence[str] | None = None,
    *,
    goal: str | None = None,
    objective: ObjectiveLike = None,
    prefix: str | None = None,
) -> go.Figure:
    """Plot a map of the predicted objective over three domains.

    All other domains and parameters are as recommended: the three share what the recommendation
    gives to them together. What bounds or constraints forbid is faint. Runs are shown where the
    mixture has no other domain.

    Args:
        study: an Optuna study with at least one finished run.
        domains: three names; by default the largest three of the recommended mixture.
        goal: which of several goals to map, by its name; by default the first.
        objective: another objective than that of the runs.
        prefix: of the mixture to show, where the study has several.

    Raises:
        ImportError: if Plotly is not installed.
        ValueError: if no run has finished, the study has no such mixture or goal, or ``domains``
            are not three of the mixture.
    """
    require_plotly()
    answered = ask(study, objective, prefix)
    corners = ternary.chosen(answered, domains)
    place = 0 if goal is None else answered.goal(goal)
    runs = runs_of(answered) if len(answered.group.domains) == len(corners) else []
    found = ternary.read(answered, corners, place)
    return standing_alone(
        ternary.draw(found, answered.names[place], runs, goal=place),
        f"Predicted {answered.names[place]} by three domains",
    )


def plot_front(
    study: optuna.Study,
    *,
    goals: Sequence[str] | None = None,
    objective: ObjectiveLike = None,
) -> go.Figure:
    """Plot two goals of every run, and the mixtures that are predicted to be non-dominated.

    Args:
        study: an Optuna study with at least one finished run, and several goals.
        goals: names of the two goals to show; by default the first two.
        objective: goals other than those of the runs, ``{"code": {…}, "prose": {…}}``; with it a
            study of one goal has a front as well.

    Raises:
        ImportError: if Plotly is not installed.
        ValueError: if no run has finished, there is one goal only, or ``goals`` are not two of
            the study's.
    """
    require_plotly()
    answered = ask(study, objective, None)
    if len(answered.names) < 2:
        raise ValueError(
            f"study {study.study_name!r} has one goal only; name several with "
            f"objective={{'a': {{…}}, 'b': {{…}}}}, each with weights of validation sets"
        )
    if goals is not None and (isinstance(goals, str) or len(set(goals)) != 2 or len(goals) != 2):
        raise ValueError(f"goals must be two different names, got {goals!r}")
    first, second = (0, 1) if goals is None else (answered.goal(name) for name in goals)
    recommendation = answered.recommendation
    figure = front.draw(
        runs_of(answered),
        recommendation.pareto,
        answered.names,
        first=first,
        second=second,
        recommended=recommendation.rows[0],
    )
    return standing_alone(figure, "Goals against each other")
