"""Runs by their specs, performed by the workers of a pool, each once."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from optuna_mde_studies.runner.messages import Event, Failed, Lost, Noted, RunOrder, Trained

if TYPE_CHECKING:
    from optuna_mde_studies.runner.display import Display
    from optuna_mde_studies.runner.experiment import Experiment
    from optuna_mde_studies.runner.workers import Pool
    from optuna_mde_trainers.spec import RunResult


def perform(
    orders: Sequence[RunOrder],
    experiment: Experiment,
    pool: Pool,
    progress: Display,
    on_result: Callable[[RunOrder, RunResult], None],
    on_failure: Callable[[RunOrder, str], None],
    tries: int | None = None,
) -> None:
    """Has runs performed; one that another process finishes meanwhile is taken as it is.

    Args:
        orders: the runs.
        experiment: the study's.
        pool: the workers.
        progress: shows how far it is.
        on_result: hears what came of each run.
        on_failure: hears why one came to nothing; whether the others go on is for it to say.
        tries: workers that may die of one run before it has failed. None: as many as the pool
            bears.

    Raises:
        StudyError: if workers keep dying.
    """
    waiting, deaths, noted = deque(orders), Counter[str](), ""
    if waiting and experiment.folder.url is not None:  # another machine begins elsewhere
        waiting.rotate(random.randrange(len(waiting)))

    def next_order() -> RunOrder | None:
        while waiting:
            order = waiting.popleft()
            found = experiment.finished(order.spec)
            if found is None:
                return order
            progress.done += 1
            on_result(order, found)
        return None

    def on_event(worker: int, event: Event) -> None:
        nonlocal noted
        if isinstance(event, Failed):
            assert isinstance(event.order, RunOrder)
            on_failure(event.order, event.message)
            return
        progress.event(worker, event)
        match event:
            case Trained(order, result):
                on_result(order, result)
            case Noted(text) if text != noted:  # every worker says it
                noted = text
                progress.line(text)
            case Lost(RunOrder() as order, exitcode):
                deaths[order.name] += 1
                if deaths[order.name] == tries:
                    on_failure(order, f"{tries} workers died of it (exit code {exitcode})")
                else:
                    waiting.append(order)

    pool.run(next_order, on_event)
