"""SIGTERM, with which schedulers end jobs: what is held is handed back before the process ends."""

from __future__ import annotations

import signal
from types import FrameType

TERMINATED = 143  # 128 + SIGTERM, as shells have it


def end_orderly() -> None:
    """Lets SIGTERM end this process by an exception, once; a second one changes nothing.

    While our trainer trains in this process, Lightning's handler stands in its place, which writes
    a checkpoint and exits with code 0.
    """
    signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(TERMINATED)
