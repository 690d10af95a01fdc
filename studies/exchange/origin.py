"""Runs that a study has taken over: it learns from them, and has not trained them itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

ORIGIN = "origin"
"""Trial attribute: whence a run, `{"table": …, "run": …}` or `{"study": …, "trial": …}`."""


def is_own(trial: FrozenTrial) -> bool:
    """Whether the study has trained the run itself."""
    return ORIGIN not in trial.user_attrs


def of_table(table: str, run: str) -> dict[str, Any]:
    """The origin of a table's row."""
    return {"table": table, "run": run}


def of_study(study: str, mark: str, number: int) -> dict[str, Any]:
    """The origin of a trial of another study, by its name and by the mark in its folder."""
    return {"study": study, "mark": mark, "trial": number}
