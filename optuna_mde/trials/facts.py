"""What a study holds at one moment, read at once."""

from __future__ import annotations

from dataclasses import dataclass

import optuna

from optuna_mde.trials.notes import Notes, read_notes
from optuna_mde.trials.records import Record, read_trials


@dataclass(frozen=True)
class Facts:
    """A study's trials, and what it keeps beside them."""

    trials: list[Record]
    """By number."""
    notes: Notes


def read_facts(study: optuna.Study, cache: dict[int, Record] | None = None) -> Facts:
    """Read a study; ``cache`` holds its finished trials by number, and is extended in place."""
    return Facts(read_trials(study, cache), read_notes(study))
