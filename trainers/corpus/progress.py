"""Lines on long work: how much is done, how fast, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable

Say = Callable[[str], None]
EVERY_SECONDS = 5.0


class Meter:
    """Says how far one pass is, every few seconds.

    Args:
        say: called with a line.
        label: what is being done.
        total: bytes of the whole pass; 0: not known.
        done: bytes that an earlier process has done.
    """

    def __init__(self, say: Say, label: str, total: int, done: int = 0) -> None:
        self._say, self._label, self._total = say, label, total
        self._begin = self._last = time.monotonic()
        self._first = done

    def at(self, done: int) -> None:
        """Called with the bytes that are done, as often as one likes."""
        now = time.monotonic()
        if now - self._last < EVERY_SECONDS or done <= self._first:
            return
        self._last = now
        rate = (done - self._first) / (now - self._begin)
        line = f"{self._label}: {megabytes(done)}"
        if self._total:
            left = (self._total - done) / rate
            line += f" of {megabytes(self._total)}, {megabytes(rate)}/s, {_clock(left)} left"
        else:
            line += f", {megabytes(rate)}/s"
        self._say(line)


def megabytes(size: float) -> str:
    """Bytes for people: `8.3 MB`, `1.20 GB`."""
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.2f} GB"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
