"""What a study holds at one moment, read at once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import accumulate

import optuna
from optuna.trial import TrialState

from optuna_mde.trials.notes import Notes, read_notes, user_attrs
from optuna_mde.trials.records import Record, read_trials
from optuna_mde.trials.scores import read_scores

LOST_FACTOR = 10.0  # running for this many times the longest finished run counts as lost ...
LOST_SECONDS = 60.0  # ... but never sooner than this: toy runs end within milliseconds


@dataclass(frozen=True)
class Facts:
    """A study's trials, and what it keeps beside them."""

    trials: list[Record]
    """By number."""
    notes: Notes

    @cached_property
    def lost(self) -> set[int]:
        """Numbers of running trials that no worker can still be at, see `lost_trials`."""
        return lost_trials(self.trials)

    @cached_property
    def stalled(self) -> set[int]:
        """Numbers of running trials that others have overtaken, see `stalled_trials`."""
        return stalled_trials(self.trials)


def read_facts(study: optuna.Study, cache: dict[int, Record] | None = None) -> Facts:
    """Read a study; ``cache`` holds its finished trials by number, and is extended in place."""
    trials, user = read_trials(study, cache), user_attrs(study)
    scores = read_scores(user)
    return Facts([scores.on(trial) for trial in trials], read_notes(study, user))


def lost_trials(trials: Sequence[Record]) -> set[int]:
    """Running trials that no worker can still be at: not every storage has a heartbeat."""
    durations = [t.seconds for t in trials if t.state == TrialState.COMPLETE and t.seconds]
    if not durations:
        return set()
    limit = max(LOST_SECONDS, LOST_FACTOR * max(durations))
    return {
        t.number
        for t in trials
        if t.state == TrialState.RUNNING
        and t.started is not None
        and (datetime.now(t.started.tzinfo) - t.started).total_seconds() > limit
    }


def stalled_trials(trials: Sequence[Record]) -> set[int]:
    """Running trials that later ones have overtaken more often than there were runs at once.

    A killed worker's trial runs for ever where the storage has no heartbeat. Proposals keep away
    from what is pending: ten orphans near the optimum leave them the far corners.
    """
    spans = [
        (t.started.timestamp(), t.completed.timestamp())
        for t in trials
        if t.state in (TrialState.COMPLETE, TrialState.PRUNED) and t.started and t.completed
    ]
    # an end comes before a start at the same moment
    events = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    at_once = max(accumulate(change for _, change in events), default=0)
    starts = sorted(start for start, _ in spans)
    return {
        t.number
        for t in trials
        if t.state == TrialState.RUNNING
        and t.started is not None
        and len(starts) - bisect_right(starts, t.started.timestamp()) > max(at_once, 1)
    }
