"""Accuracy on end tasks, beside the losses that the search goes by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna_mde.answers.tables import Table, label

if TYPE_CHECKING:
    from optuna_mde_studies.report.overview import Overview
    from optuna_mde_studies.runner.confirm import Confirmation

    from optuna_mde.answers.answer import Recommendation


def table(
    overview: Overview, recommendation: Recommendation, confirmation: Confirmation | None
) -> Table | None:
    """Accuracy in percent, observed: of the rows that were run, and of runs with fresh seeds.

    Accuracy is noisier than loss and nothing is predicted of it; None where no set has choices.
    """
    runs = {run.number: run for run in overview.runs}
    found = [
        (f"{label(row)}, trial {row.trial}", runs[row.trial].accuracy)
        for row in recommendation.rows
        if row.trial in runs
    ]
    if confirmation is not None:
        seeds = len(confirmation.seeds)
        found += [
            (f"{name}, {seeds} fresh seeds", _mean(each))
            for name, each in confirmation.accuracy.items()
        ]
    tasks = tuple(dict.fromkeys(task for _, accuracy in found for task in accuracy))
    if not tasks:
        return None
    return Table(
        ("accuracy, %", *tasks),
        tuple(
            (name, *(_percent(accuracy.get(task)) for task in tasks)) for name, accuracy in found
        ),
    )


def _mean(runs: list[dict[str, float]]) -> dict[str, float]:
    tasks = runs[0] if runs else {}
    return {task: sum(run[task] for run in runs) / len(runs) for task in tasks}


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"
