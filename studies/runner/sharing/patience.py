"""A storage that does not answer is waited for: a run of hours outlives a restarted server."""

from __future__ import annotations

import errno
import functools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

PATIENCE_SECONDS = 1800.0
"""How long a storage may be away: a restart, a moved server, a full disk that somebody clears."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
"""Seconds between two tries; doubled from the one to the other."""

Answer = TypeVar("Answer")
Say = Callable[[str], None]


def patiently(
    act: Callable[[], Answer],
    say: Say,
    passes: Callable[[BaseException], bool] | None = None,
    what: tuple[str, str] = ("the storage does not answer", "the storage answers again"),
) -> Answer:
    """What `act` gives, tried again for as long as something is in its way that passes.

    Args:
        act: asks the storage; it may be done in part before it fails.
        say: hears that it is waited for, and when that is over.
        passes: whether an error is of that kind. None: that the storage is away.
        what: what is said of it, before its reason and in the end.
    """
    passes = passes or is_away
    began, pause = time.monotonic(), FIRST_PAUSE
    said = False
    while True:
        try:
            answer = act()
        except Exception as error:
            if not passes(error) or time.monotonic() - began > PATIENCE_SECONDS:
                raise
            if not said and pause > FIRST_PAUSE:  # one failure is no news
                say(f"{what[0]} ({reason(error)}); waiting")
                said = True
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        else:
            if said:
                say(what[1])
            return answer


def is_away(error: BaseException | None) -> bool:
    """Whether an error of a storage says that it cannot be reached, rather than what is wrong."""
    from filelock import Timeout
    from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError
    from sqlalchemy.exc import TimeoutError as NoConnection

    # OSError: a journal's file, or the disk below it. Pending: Optuna asks once more in a session
    # whose connection was lost.
    away = OperationalError, InterfaceError, NoConnection, PendingRollbackError, OSError, Timeout
    while error is not None:
        if isinstance(error, away):
            return True
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            return True
        if type(error).__module__.startswith("grpc") and hasattr(error, "code"):
            return error.code().name in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
        error = error.__cause__
    return False


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk is full; libraries say it in words of their own."""
    chain: BaseException | None = error
    while chain is not None:
        if getattr(chain, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return True
        if os.strerror(errno.ENOSPC).lower() in str(chain).lower():
            return True
        chain = chain.__cause__ or chain.__context__
    return False


def reason(error: BaseException) -> str:
    """An error of a storage in a line: the one that began it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split("\n")[0].split())[:200] or type(error).__name__


@contextmanager
def held(make: Callable[[], AbstractContextManager[Any]], say: Say | None) -> Iterator[None]:
    """A lock of the storage's, waited for where it is away.

    Args:
        make: gives the lock.
        say: hears that it is waited for. None: it is not.
    """
    with ExitStack() as stack:
        if say is None:
            stack.enter_context(make())
        else:
            patiently(lambda: stack.enter_context(make()), say)
        yield


class _Patient:
    """Stands for a storage; what it is asked is asked patiently."""

    def __init__(self, storage: BaseStorage, say: Say) -> None:
        self._storage = storage
        self._say = say

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._storage, name)
        if not callable(found):
            return found

        @functools.wraps(found)
        def ask(*arguments: Any, **named: Any) -> Any:
            return self._ask(found, *arguments, **named)

        return ask

    def set_trial_state_values(self, trial_id: int, state: Any, values: Any = None) -> bool:
        """As Optuna's; told twice if the first answer was lost, which is no mistake."""
        from optuna.exceptions import UpdateFinishedTrialError

        tries = 0

        def tell() -> bool:
            nonlocal tries
            tries += 1
            return self._storage.set_trial_state_values(trial_id, state=state, values=values)

        try:
            return patiently(tell, self._say)
        except UpdateFinishedTrialError:
            if tries > 1 and self._storage.get_trial(trial_id).state == state:
                return True
            raise

    def _ask(self, found: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return patiently(lambda: found(*arguments, **named), self._say)


def patient(storage: BaseStorage, say: Say) -> BaseStorage:
    """The storage, waited for whenever it is away. Optuna itself asks for no more than methods."""
    return cast("BaseStorage", _Patient(storage, say))


def impatient(storage: BaseStorage) -> BaseStorage:
    """The storage behind a patient one: for who has something better to do than to wait."""
    return storage._storage if isinstance(storage, _Patient) else storage
