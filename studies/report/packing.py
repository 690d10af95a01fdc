"""Plotly's script and the page's long parts, small enough to send: gzip, as text.

Packed text is gzip in base 85, five characters for four bytes, which keep away from `<`: it may
stand in a script element as it is. The page unpacks it with `DecompressionStream` (Chrome and Edge
80, Firefox 113, Safari 16.4).

plotly.js 4.1.1 has 4.82 MB, packed 1.84, and 1.65 without the worker of maps: of 2 MB that leaves
room for a study of 500 runs and 18 sets (`pytest -m slow tests/studies/report/test_packing.py`).
"""

from __future__ import annotations

import base64
import gzip
import re
from functools import cache

from plotly.offline import get_plotlyjs

_SAFE = bytes.maketrans(b"<", b",")  # the comma is no digit of base 85
_WORKER = re.compile(r"(?<=\.exports=')(?:[^'\\]|\\.){100000,}(?=')")


@cache
def plotly() -> str:
    """Plotly's script, packed."""
    return packed(without_worker(get_plotlyjs()))


def without_worker(script: str) -> str:
    """Plotly's script without the one that draws street maps in a worker.

    It is a string in a module of its own, which nothing but such a map asks for. A script that
    has no such string stays whole.
    """
    return _WORKER.sub("", script, count=1)


def packed(text: str) -> str:
    """A text as the page unpacks it: its number of bytes, a space, digits of base 85."""
    data = gzip.compress(text.encode("utf-8"), compresslevel=9, mtime=0)
    padded = data + b"\0" * (-len(data) % 4)
    digits = base64.b85encode(padded).translate(_SAFE)
    return f"{len(data)} {digits.decode('ascii')}"


def unpacked(text: str) -> str:
    """The inverse of `packed`, as the page's own script has it."""
    length, digits = text.split(" ", 1)
    data = base64.b85decode(digits.replace(",", "<"))
    return gzip.decompress(data[: int(length)]).decode("utf-8")
