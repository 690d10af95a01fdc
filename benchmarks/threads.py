"""One thread: what it takes to compare CPU seconds."""

from __future__ import annotations

import os
import sys


def on_one_thread(module: str) -> None:
    """Start the program ``python -m module`` again on one thread, unless it runs on one.

    numpy and torch read the number when they are loaded.
    """
    if os.environ.get("OMP_NUM_THREADS") != "1":
        command = [sys.executable, "-m", module, *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, "OMP_NUM_THREADS": "1"})
