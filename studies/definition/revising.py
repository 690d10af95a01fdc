"""Which changes of a begun study's definition are those of its list of domains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna_mde_studies.definition.consistency import FieldPath

Dump = Mapping[str, Any]
"""A definition as JSON."""


def is_revision(path: FieldPath, old: Dump, new: Dump) -> bool:
    """Whether a field changed as domains may: one is new, or is said to have become others.

    Args:
        path: the field.
        old: the definition that began the study.
        new: that of today.
    """
    before, after = (dump["corpus"]["domains"] for dump in (old, new))
    if path[:2] == ("search", "natural"):
        return before.keys() != after.keys()
    if path[:1] == ("former_domains",) and len(path) > 1:
        return path[1] not in old["former_domains"]
    if path[:2] != ("corpus", "domains") or len(path) < 3:
        return False
    name = path[2]
    return name not in before if name in after else name in new["former_domains"]


def mend(path: FieldPath, new: Dump) -> str:
    """How a domain may change, to be said of one that may not change so; nothing of others."""
    if path[:2] != ("corpus", "domains") or len(path) < 3:
        return ""
    if path[2] in new["corpus"]["domains"]:
        return (
            "give the text of today another name, and say "
            f"`former_domains: {{{path[2]}: {{revised_as: NAME}}}}`"
        )
    return f"say what has become of it, `former_domains: {{{path[2]}: {{split_into: …}}}}`"
