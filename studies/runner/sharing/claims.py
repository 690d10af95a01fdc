"""What one process of all machines does alone, for as long as it takes: building a corpus.

A study's lock is for moments: databases give up one that is held for minutes. A claim is a system
attribute of the study that its holder renews, and that lapses as a trial's lease does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from optuna_mde_studies.runner.sharing import leases
from optuna_mde_studies.runner.sharing.owners import Owner, has_died, owner
from optuna_mde_studies.runner.sharing.patience import impatient

if TYPE_CHECKING:
    import optuna

CLAIM_ATTR = "mde:claim"
"""System attribute of a study: {"owner", "place", "beat"}; nothing while nobody holds it."""
LOOK_SECONDS = 2.0
"""Between two looks at a claim that somebody else holds."""


@contextmanager
def claimed(
    study: optuna.Study,
    locked: Callable[[], AbstractContextManager[Any]],
    waits: Callable[[str], None],
) -> Iterator[None]:
    """Holds the study's claim; waits for whoever has it.

    Args:
        study: the study.
        locked: gives its lock.
        waits: called between two looks, with `host:pid` of the holder.
    """
    with owner() as me:
        watch = _Watch()
        while held := _taken(study, locked, me, watch):
            waits(str(held.get("place", "")))
            time.sleep(LOOK_SECONDS)
        ends = threading.Event()
        thread = threading.Thread(target=_beat_on, args=(study, me, ends), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ends.set()
            thread.join()
            with locked():
                if _held(study).get("owner") == me.id:
                    _write(study, {})


class _Watch:
    """A claim as this process has seen it: no clocks of two machines are compared."""

    def __init__(self) -> None:
        self._held: dict[str, Any] = {}
        self._seen = 0.0
        self._quiet = 0.0

    def has_lapsed(self, held: dict[str, Any]) -> bool:
        """Whether nobody holds it any more; called at every look."""
        now = time.monotonic()
        if held != self._held:
            self._held, self._quiet = held, 0.0
        else:  # between two looks far apart the storage may have been away for all
            self._quiet += min(now - self._seen, 2 * leases.BEAT_SECONDS)
        self._seen = now
        return self._quiet > leases.LAPSE_SECONDS or has_died(str(held.get("owner", "")))


def _taken(
    study: optuna.Study,
    locked: Callable[[], AbstractContextManager[Any]],
    me: Owner,
    watch: _Watch,
) -> dict[str, Any]:
    """Takes the claim; gives that of another process, where one holds it."""
    with locked():
        held = _held(study)
        if held and not watch.has_lapsed(held):
            return held
        _write(study, {"owner": me.id, "place": me.place, "beat": 0})
        return {}


def _beat_on(study: optuna.Study, me: Owner, ends: threading.Event) -> None:
    storage, beat = impatient(study._storage), 0  # a thread that waits would not end
    while not ends.wait(leases.BEAT_SECONDS):
        beat += 1
        value: dict[str, Any] = {"owner": me.id, "place": me.place, "beat": beat}
        with suppress(Exception):  # the next one may succeed
            storage.set_study_system_attr(study._study_id, CLAIM_ATTR, value)


def _held(study: optuna.Study) -> dict[str, Any]:
    found = study._storage.get_study_system_attrs(study._study_id).get(CLAIM_ATTR)
    return found if isinstance(found, dict) else {}


def _write(study: optuna.Study, value: dict[str, Any]) -> None:
    study._storage.set_study_system_attr(study._study_id, CLAIM_ATTR, value)
