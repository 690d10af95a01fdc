"""Warnings of our trainer as lines of the study: a worker's own output goes to a file."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from optuna_mde_trainers.spec import CheckpointWarning


@contextmanager
def heard(say: Callable[[str], None]) -> Iterator[None]:
    """While it is open, hears of runs that begin afresh; other warnings go where they went."""
    shown = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
        if issubclass(category, CheckpointWarning):
            say(str(message))
        else:
            shown(message, category, *rest, **named)

    with warnings.catch_warnings():
        warnings.simplefilter("always", CheckpointWarning)
        warnings.showwarning = show
        yield
