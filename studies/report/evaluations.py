"""What lm-evaluation-harness made of a study's runs, where somebody has asked it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna_mde_studies.wording import rates
from optuna_mde_trainers.spec import EVALUATIONS_FOLDER, SPEC_FILE, RunSpec, SpecError

from optuna_mde.answers.tables import Table

if TYPE_CHECKING:
    from optuna_mde_studies.report.overview import Overview
    from optuna_mde_studies.runner.confirm import Confirmation
    from optuna_mde_studies.runner.folder import StudyFolder

PREFERRED = ("acc_norm", "acc", "exact_match", "em", "f1")
"""The metric of a task that is shown: the first of these that it has, else its first one."""


def table(
    overview: Overview, folder: StudyFolder, confirmation: Confirmation | None = None
) -> Table | None:
    """A line a run that was evaluated, a column a task; None where none was."""
    found = {run: dict(_metrics(run)) for run in sorted(folder.runs.glob("*"))}
    found = {run: metrics for run, metrics in found.items() if metrics}
    if not found:
        return None
    tasks = list(dict.fromkeys(task for metrics in found.values() for task in metrics))
    trials = {Path(run.folder).name: run for run in overview.runs if run.folder}
    named = []
    for run, metrics in found.items():
        trial = trials.get(run.name)
        if trial is not None:
            name, order = f"trial {trial.number}, {trial.phase}", trial.number
        else:
            name, order = _confirming(run, confirmation), len(overview.runs)
        named.append((order, name, metrics))
    return Table(
        ("run", *tasks),
        tuple(
            (name, *(metrics.get(task, "") for task in tasks))
            for _, name, metrics in sorted(named, key=lambda each: each[:2])
        ),
    )


def _metrics(run: Path) -> Iterator[tuple[str, str]]:
    """Task with its shots and its metric -> value with its standard error."""
    for path in sorted((run / EVALUATIONS_FOLDER).glob("*.json")):
        try:
            held = json.loads(path.read_text("utf-8"))
            results: Mapping[str, Mapping[str, Any]] = held["results"]
            shots = held.get("n-shot", {})
            for task, metrics in results.items():
                if shown := _shown(metrics):
                    metric, value = shown
                    yield f"{task} {metric}, {shots.get(task, '?')} shots", value
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # a file that another program has left half-written


def _shown(metrics: Mapping[str, Any]) -> tuple[str, str] | None:
    values = {
        key: value
        for key, value in metrics.items()
        if isinstance(value, float) and "_stderr" not in key
    }
    by_rank = sorted(values, key=lambda key: _rank(key.split(",")[0]))
    if not by_rank:
        return None
    key = by_rank[0]
    error = metrics.get(key.replace(",", "_stderr,", 1))
    about = f" ± {error:.3f}" if isinstance(error, float) else ""
    return key.split(",")[0], f"{values[key]:.3f}{about}"


def _rank(metric: str) -> int:
    return PREFERRED.index(metric) if metric in PREFERRED else len(PREFERRED)


def _confirming(run: Path, confirmation: Confirmation | None) -> str:
    """The name of a run that belongs to no trial."""
    try:
        training = RunSpec.read(run / SPEC_FILE).training
    except (OSError, SpecError):
        return run.name
    name = confirmation.named(training.mixture) if confirmation is not None else None
    return f"{name or rates(training.mixture)}, seed {training.seed}"
