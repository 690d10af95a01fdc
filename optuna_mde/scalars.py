"""Numbers as they are handed in: Python's, numpy's, torch's of one element; checked by name.

Storages keep JSON, which knows Python's own numbers alone.
"""

from __future__ import annotations

import math
from typing import Any


def is_number(value: Any) -> bool:
    """Whether this is one real number; neither true nor false, and no text, is."""
    try:
        number = _own(value)
    except (TypeError, ValueError, RuntimeError):  # arrays of several elements
        return False
    return isinstance(number, (int, float)) and not isinstance(number, bool)


def real(what: str, value: Any, error: type[ValueError] = ValueError) -> float:
    """A number as Python's float; NaN and infinities as they are.

    Raises:
        ValueError: or `error`, if it is none. `what` names it.
    """
    if not is_number(value):
        mend = "; give the number, not its text" if isinstance(value, str) else ""
        raise error(f"{what} must be a number, got {value!r}{mend}")
    try:
        return float(_own(value))
    except OverflowError:
        raise error(f"{what} is too large to compute with, got {value!r}") from None


def whole(what: str, value: Any) -> int:
    """A whole number as Python's int.

    Raises:
        ValueError: if it is none. `what` names it.
    """
    number = _own(value) if is_number(value) else math.nan
    if isinstance(number, float) and not number.is_integer():  # false for NaN and infinities
        raise ValueError(f"{what} must be a whole number, got {value!r}")
    return int(number)


def as_float(value: Any) -> float | None:
    """A number, or its text, as a float; None of anything else, or of one too large."""
    if not is_number(value) and not isinstance(value, str):
        return None
    try:
        return float(_own(value))
    except (ValueError, OverflowError):
        return None


def shares(weights: list[float]) -> list[float]:
    """Finite weights of at least 0, not all of them 0, as shares that sum to 1."""
    total = sum(weights)
    if math.isinf(total):
        return shares([weight / len(weights) for weight in weights])
    return [weight / total for weight in weights]


def _own(value: Any) -> Any:
    """Python's own number of a numpy or torch one."""
    return value.item() if hasattr(value, "item") else value
