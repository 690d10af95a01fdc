"""Values in the storages' attributes: JSON in chunks, and numbers that others may have written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

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
    except ValueError:
        return None


def numbers(value: Any) -> dict[str, float]:
    """{name: number} of an attribute, without what is no number."""
    if not isinstance(value, Mapping):
        return {}
    return {str(k): float(v) for k, v in value.items() if is_number(v)}


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number; true and false are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
