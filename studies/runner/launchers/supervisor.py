"""Runs a command and ends it, with all that it has started, when its own starter is gone.

    python supervisor.py COMMAND…

Its standard input is a pipe of which the starter holds the other end: whatever ends that process,
SIGKILL too, closes it. A byte in it asks the command to end by itself, with SIGTERM. Signals of a
terminal or a scheduler reach this process, too, which must outlive the command. Run as a file, so
that it imports nothing but what it needs.
"""

import os
import signal
import subprocess
import sys
import threading


def supervise(command: list[str]) -> int:
    """The command's exit code; 128 + its signal, if one has ended it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which the command would inherit
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        print(f"{command[0]} cannot be started ({error.strerror or error})", file=sys.stderr)
        return 127

    def watch() -> None:
        while os.read(0, 1):
            os.killpg(process.pid, signal.SIGTERM)
        os.killpg(process.pid, signal.SIGKILL)  # the pipe is closed

    threading.Thread(target=watch, daemon=True).start()
    code = process.wait()
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    status = supervise(sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)
