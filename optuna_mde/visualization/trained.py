"""Runs of a study with the goals that were observed, and those predicted from the other runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna_mde.answers.held_out import leave_one_out
from optuna_mde.answers.intervals import Z90
from optuna_mde.answers.rows import full_runs, observed
from optuna_mde.gp import calibration
from optuna_mde.gp.torch_state import gradients
from optuna_mde.trials.attributes import number
from optuna_mde.trials.targets import is_told_for
from optuna_mde.visualization.predicted import Panel
from optuna_mde.visualization.runs import Run, hover

if TYPE_CHECKING:
    from optuna_mde.visualization.answered import Answered


def runs_of(answered: Answered) -> list[Run]:
    """Finished full runs that have every goal, by number; `Run.values` are the goals asked for."""
    study, fitted = answered.study, answered.fitted
    attrs = {trial.number: trial.user_attrs for trial in study.get_trials(deepcopy=False)}
    is_own, asked = answered.objective is None, fitted.observations.objective
    found = []
    for trial in full_runs(fitted):
        goals = [observed(fitted, trial, w) for w in fitted.weights]
        signs = fitted.observations.goal_signs
        values = tuple(s * v for s, v in zip(signs, goals, strict=True) if v is not None)
        if len(values) == len(goals):
            told = attrs[trial.number]
            mean, sd = number(told.get("predicted_mean")), number(told.get("predicted_sd"))
            foreseen = None if mean is None or sd is None else (mean, sd)
            found.append(
                Run(
                    number=trial.number,
                    phase=str(told.get("phase") or ""),
                    mixture=trial.shown(answered.group),
                    values=tuple(map(float, values)),
                    predicted=foreseen if is_own and is_told_for(trial, asked) else None,
                )
            )
    return found


@gradients()
def left_out(answered: Answered) -> list[Panel]:
    """Every goal of the runs that are no experts, each predicted from all other runs.

    Intervals are those by which the recommendation's trust is judged.
    """
    fitted = answered.fitted
    known = {run.number: run for run in runs_of(answered)}
    factor = calibration.of_answers(fitted.surrogate.features)
    held = leave_one_out(fitted, fitted.weights, factor=factor)
    panels = []
    for g, one in enumerate(held):
        sign = float(fitted.observations.goal_signs[g])
        values = sign * one.observed
        runs = [known.get(int(n)) for n in one.numbers]
        panels.append(
            Panel(
                name=answered.names[g],
                mean=(sign * one.mean).tolist(),
                half=(Z90 * one.sd).tolist(),
                observed=values.tolist(),
                texts=[
                    hover(run, float(value)) if run else f"trial {n}<br>observed {value:.4f}"
                    for run, value, n in zip(runs, values, one.numbers, strict=True)
                ],
            )
        )
    return [panel for panel in panels if panel.mean]
