"""Work on chunks in several processes: in order, with a bounded number of chunks in memory."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from types import TracebackType
from typing import Self, TypeVar

from optuna_mde_trainers.corpus.documents import CorpusError

Key = TypeVar("Key")
Item = TypeVar("Item")
Result = TypeVar("Result")
WAITING = 3  # chunks a process that are read, worked on or finished at a time


class Workers:
    """Processes that are started when they are first needed.

    Args:
        count: how many; 1 works in this process. None: as many as there are usable cores.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = usable_cores() if count is None else count
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def map(
        self,
        function: Callable[[Item], Result],
        items: Iterable[tuple[Key, Item]],
        *,
        parallel: bool,
    ) -> Iterator[tuple[Key, Result]]:
        """What the function makes of items, in their order.

        Args:
            function: a picklable function.
            items: with a key each, which is given back; read as they are needed, a few ahead.
            parallel: False works in this process: starting others takes a second.

        Raises:
            CorpusError: of the function, or because a process was killed.
        """
        if not parallel or self.count == 1:
            for key, item in items:
                yield key, function(item)
            return
        pool = self._started()
        pending: deque[tuple[Key, Future[Result]]] = deque()
        try:
            for key, item in items:
                pending.append((key, pool.submit(function, item)))
                del item
                if len(pending) >= WAITING * self.count:
                    first, future = pending.popleft()
                    yield first, future.result()
            while pending:
                first, future = pending.popleft()
                yield first, future.result()
        except BrokenProcessPool as error:
            raise CorpusError(
                "a process that reads text has ended: for want of memory, or because the script "
                "that called has no `if __name__ == '__main__':`; processes=1 does without others"
            ) from error
        finally:
            for _, future in pending:
                future.cancel()

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self.count, mp_context=get_context("spawn"), initializer=_quiet
            )
        return self._pool


def _quiet() -> None:
    """Ctrl-C is the parent's, and each process is one thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def usable_cores() -> int:
    """Cores that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1
