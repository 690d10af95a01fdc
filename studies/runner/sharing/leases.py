"""Who works on which trial.

A trial is held by a lease: a system attribute that names its owner, and a number that the owner
changes every `BEAT_SECONDS`. The lease has lapsed when the owner is known to be dead, or when the
number has not changed for `LAPSE_SECONDS` of *another process's* time: no two clocks are compared,
and time in which nobody could read the storage does not count. Optuna's heartbeat exists on
databases alone, compares times of one's session with another's, and knows nothing of a trial whose
process died before its first beat; a lease is there from the trial's first moment.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from optuna_mde_studies.runner.sharing.owners import Owner, has_died

if TYPE_CHECKING:
    from types import TracebackType

    import optuna
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

LEASE_ATTR = "mde:lease"
"""System attribute of a trial: {"owner", "place", "beat"}."""

BEAT_SECONDS = 20.0
"""A journal grows by a line of 200 bytes at every beat: 900 kB a day and worker."""
LAPSE_SECONDS = 120.0
"""Six beats. A process that is late by more has most likely been stopped, or its machine."""


def lease(trial: FrozenTrial) -> Mapping[str, Any] | None:
    """The trial's lease; None if it never had one of ours."""
    found = trial.system_attrs.get(LEASE_ATTR)
    return found if isinstance(found, dict) and isinstance(found.get("owner"), str) else None


def is_held_by(trial: FrozenTrial, owners: Collection[str]) -> bool:
    """Whether the trial was taken by one of these owners."""
    held = lease(trial)
    return held is not None and held["owner"] in owners


def ask(study: optuna.Study, owner: Owner) -> optuna.Trial:
    """What `study.ask` gives, held by the owner from its first moment.

    To be called under the study's lock: SQLite knows no row locks, and two processes could get one
    trial number, or the same waiting trial.
    """
    import optuna
    from optuna.trial import TrialState

    storage, text = study._storage, _text(owner, 0)
    # Trials that wait are held before they run: there is no moment at which nobody has them.
    for waiting in storage.get_all_trials(
        study._study_id, deepcopy=False, states=(TrialState.WAITING,)
    ):
        storage.set_trial_system_attr(waiting._trial_id, LEASE_ATTR, text)
        if storage.set_trial_state_values(waiting._trial_id, state=TrialState.RUNNING):
            trial_id = waiting._trial_id
            break
    else:
        template = optuna.trial.create_trial(
            state=TrialState.RUNNING, system_attrs={LEASE_ATTR: text}
        )
        trial_id = storage.create_new_trial(study._study_id, template)
    study._thread_local.cached_all_trials = None
    return optuna.Trial(study, trial_id)


def _text(owner: Owner, beat: int) -> dict[str, Any]:
    return {"owner": owner.id, "place": owner.place, "beat": beat}


@dataclass
class _Seen:
    value: Any
    at: float
    """When it was last looked at."""
    quiet: float = 0.0
    """Seconds for which it has not changed, as far as anybody looked."""


@dataclass
class Watch:
    """Leases as this process has seen them."""

    clock: Callable[[], float] = time.monotonic
    _seen: dict[int, _Seen] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self, running: Iterable[FrozenTrial]) -> None:
        """Notes what the RUNNING trials' leases say now."""
        now = self.clock()
        with self._lock:
            before, self._seen = self._seen, {}
            for trial in running:
                value, seen = lease(trial), before.get(trial.number)
                if seen is None or seen.value != value:
                    seen = _Seen(value, now)
                else:
                    # Between two looks far apart the storage may have been away for all.
                    seen.quiet += min(now - seen.at, 2 * BEAT_SECONDS)
                    seen.at = now
                self._seen[trial.number] = seen

    def has_lapsed(self, trial: FrozenTrial) -> bool:
        """Whether nobody works on a RUNNING trial any more, as far as is known here."""
        held = lease(trial)
        if held is not None and has_died(held["owner"]):
            return True
        with self._lock:
            seen = self._seen.get(trial.number)
            return seen is not None and seen.value == held and seen.quiet > LAPSE_SECONDS


class Heart:
    """Renews the lease of the trial that this process works on, and watches all others.

    A context manager: a thread beats until its end.

    Args:
        storage: The study's. What it raises is passed over: the next beat may succeed.
        study_id: The study in it.
        owner: This process.
    """

    def __init__(self, storage: BaseStorage, study_id: int, owner: Owner) -> None:
        self.watch = Watch()
        self._storage = storage
        self._study_id = study_id
        self._owner = owner
        self._held: int | None = None
        self._lost = False
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, daemon=True)

    def __enter__(self) -> Heart:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ends.set()

    def hold(self, trial_id: int | None) -> None:
        """The trial whose lease is renewed from now on; None: none."""
        self._lost = False
        self._held = trial_id

    @property
    def has_lost(self) -> bool:
        """Whether somebody else has brought the trial to an end that is held here."""
        return self._lost

    def look(self) -> None:
        """Looks at all leases now."""
        from optuna.trial import TrialState

        self.watch.look(
            self._storage.get_all_trials(
                self._study_id, deepcopy=False, states=(TrialState.RUNNING,)
            )
        )

    def _beat_on(self) -> None:
        beat = 0
        while True:
            with suppress(Exception):
                self.look()
            if self._ends.wait(BEAT_SECONDS):
                return
            beat += 1
            with suppress(Exception):
                self._beat(beat)

    def _beat(self, beat: int) -> None:
        from optuna.exceptions import UpdateFinishedTrialError

        held = self._held
        if held is None:
            return
        try:
            self._storage.set_trial_system_attr(held, LEASE_ATTR, _text(self._owner, beat))
        except UpdateFinishedTrialError:
            self._lost = self._held == held  # else it has just been told
