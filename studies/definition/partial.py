"""What can still be said of a definition of which some fields are wrong by themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

from optuna_mde_studies.definition.config import StudyConfig
from optuna_mde_studies.definition.consistency import FieldPath
from pydantic import ValidationError

SOURCES: dict[FieldPath, dict[str, str]] = {
    ("corpus", "domains"): {"environment": "python"},
    ("corpus", "validation"): {"environment": "python"},
    ("corpus", "tasks"): {"template": "arc_easy"},
}
"""Sections of sources, and what stands in for one that is wrong: its name is right."""
REQUIRED: dict[FieldPath, Any] = {
    ("name",): "study",
    ("corpus",): {"domains": {}},
    ("corpus", "domains"): {},
    ("search",): {"n_trials": 1},
    ("search", "n_trials"): 1,
    ("training",): {"max_steps": 1, "global_batch_size": 1},
    ("training", "max_steps"): 1,
    ("training", "global_batch_size"): 1,
}
"""What stands in for fields that have no default."""
ROUNDS = 8
"""Of setting aside what is wrong, which may leave its section without something else."""


def without(
    data: dict[str, Any],
    wrong: Iterable[FieldPath],
    wrong_in: Callable[[ValidationError, dict[str, Any]], Iterable[FieldPath]],
) -> tuple[StudyConfig, list[FieldPath]] | None:
    """The definition with something right in the place of what is wrong, if that can be had.

    Args:
        data: the definition as it was read.
        wrong: its wrong fields.
        wrong_in: finds them, should there be others.

    Returns:
        It, and all fields that are not what was written.
    """
    data, every = deepcopy(data), list(wrong)
    new = every
    for _ in range(ROUNDS):
        for path in new:
            _set_aside(data, path)
        try:
            return StudyConfig.model_validate(data), every
        except ValidationError as error:
            new = list(wrong_in(error, data))
            every = [*every, *new]
    return None


def named(wrong: Iterable[FieldPath]) -> list[FieldPath]:
    """Wrong fields but for those of sources, whose names are all that others depend on."""
    return [path for path in wrong if not _is_in_source(path)]


def right_sources(config: StudyConfig, wrong: Iterable[FieldPath]) -> StudyConfig:
    """The definition with the sources alone that are what was written."""
    replaced = {path[:3] for path in wrong if _is_in_source(path)}
    sections = {
        str(name): {
            key: source
            for key, source in getattr(config.corpus, str(name)).items()
            if (corpus, name, key) not in replaced
        }
        for corpus, name in SOURCES
    }
    return config.model_copy(update={"corpus": config.corpus.model_copy(update=sections)})


def _is_in_source(path: FieldPath) -> bool:
    return len(path) >= 3 and path[:2] in SOURCES


def _set_aside(data: dict[str, Any], path: FieldPath) -> None:
    if _is_in_source(path):
        data[str(path[0])][path[1]][path[2]] = dict(SOURCES[path[:2]])
        return
    section: Any = data
    for depth, key in enumerate(path):
        if not isinstance(section, dict):  # of a list the whole goes
            _set_aside(data, path[:depth])
            return
        if depth == len(path) - 1:
            section.pop(key, None)
            if path in REQUIRED:
                section[key] = deepcopy(REQUIRED[path])
        else:
            section = section.get(key)
