"""Accuracy on end tasks, beside the losses that the search goes by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna_mde.answers.tables import Table

if TYPE_CHECKING:
    from optuna_mde_studies.report.overview import Overview
    from optuna_mde_studies.runner.confirm import Confirmation

    from optuna_mde.answers.answer import Recommendation


def table(
    overview: Overview, recommendation: Recommendation, confirmation: Confirmation | None
) -> Table | None:
    """A line a task: accuracy in percent, observed, of runs with fresh seeds; of the rows that
    were run, where there are none.

    Accuracy is noisier than loss and nothing is predicted of it; None where no set has choices.
    """
    confirmed = confirmation.accuracy if confirmation is not None else {}
    if confirmation is not None and confirmed:
        title = f"accuracy, %, {len(confirmation.seeds)} fresh seeds"
        found = {name: _mean(runs) for name, runs in confirmed.items()}
    else:
        title = "accuracy, %"
        runs = {run.number: run for run in overview.runs}
        found = {
            row.name: runs[row.trial].accuracy
            for row in recommendation.rows
            if row.trial in runs and runs[row.trial].accuracy
        }
    tasks = dict.fromkeys(task for accuracy in found.values() for task in accuracy)
    if not tasks:
        return None
    return Table(
        (title, *found),
        tuple(
            (task, *(_percent(accuracy.get(task)) for accuracy in found.values()))
            for task in tasks
        ),
    )


def _mean(runs: list[dict[str, float]]) -> dict[str, float]:
    tasks = runs[0] if runs else {}
    return {task: sum(run[task] for run in runs) / len(runs) for task in tasks}


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"
