"""Values in the storages' attributes: JSON in chunks, and numbers that others may have written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from optuna_mde.scalars import as_float, is_number

_CHUNK = 2045  # characters; older schemas keep 2048 a value


def chunks(key: str, value: Any, old: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Attributes that hold a JSON value, in the order to write them.

    The first chunk comes last: until then a reader finds no value rather than half of one. An
    empty chunk ends it over an older, longer value.
    """
    # choices of a categorical parameter may be anything
    text = json.dumps(value, default=str, separators=(",", ":"))
    parts = [text[i : i + _CHUNK] for i in range(0, len(text), _CHUNK)]
    if old.get(f"mde:{key}:{len(parts)}"):
        parts.append("")
    return [(f"mde:{key}:{i}", part) for i, part in reversed(list(enumerate(parts)))]


def read_chunks(attrs: Mapping[str, Any], key: str) -> Any:
    """The value that `chunks` wrote; None without one, or while another process writes it."""
    parts: list[str] = []
    while part := attrs.get(f"mde:{key}:{len(parts)}"):
        parts.append(part)
    try:
        return json.loads("".join(parts)) if parts else None
    except (ValueError, TypeError, RecursionError):  # or another tool's: no text, or brackets
        return None


def numbers(value: Any) -> dict[str, float]:
    """{name: number} of an attribute, without what is no number."""
    if not isinstance(value, Mapping):
        return {}
    return {str(k): n for k, v in value.items() if (n := number(v)) is not None}


def number(value: Any) -> float | None:
    """A JSON number as a float; None of what is none, or is too large for one."""
    return as_float(value) if is_number(value) else None
