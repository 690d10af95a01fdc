"""What of a begun study's definition may change, and what is said of the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import yaml
from optuna_mde_studies.definition.consistency import FieldPath
from optuna_mde_studies.definition.reading import Definition, DefinitionError, dotted
from optuna_mde_studies.definition.revising import is_revision, mend
from optuna_mde_studies.runner.folder import afresh, stored_config, write_definition
from optuna_mde_studies.wording import count, shown

if TYPE_CHECKING:
    from optuna_mde_studies.definition.config import StudyConfig
    from optuna_mde_studies.runner.folder import StudyFolder

CHANGEABLE: tuple[FieldPath, ...] = (
    ("search", "n_trials"),
    ("search", "bounds"),
    ("objective",),
    ("target",),
    ("launch",),
    ("confirm",),
    ("storage",),
    ("runs",),
    ("warm_start",),
)
"""Fields that may change while a study lives: no finished run would come out differently."""

LONGEST = 100
"""Characters of a value in a message."""

SETS: tuple[FieldPath, ...] = (("corpus", "validation"), ("corpus", "tasks"))
"""Sections of sets, which may be added and taken out: finished runs are scored on new ones."""


def keep_definition(folder: StudyFolder, definition: Definition) -> None:
    """Stores the definition beside its study, or checks it against the one that began the study.

    Raises:
        DefinitionError: if a field changed that runs depend on.
    """
    discard_empty(folder)
    check_definition(folder, definition)
    write_definition(folder, definition.config)


def discard_empty(folder: StudyFolder) -> None:
    """Removes a study without a trial from the folder: it has not begun, and another definition
    may ask for other objectives. To be called by whoever owns the folder."""
    if folder.url is None and not _has_trials(folder):
        folder.database.unlink(missing_ok=True)


def check_definition(folder: StudyFolder, definition: Definition) -> None:
    """Checks a definition against the one that began the study in the folder; nothing is written.

    A study without a trial has not begun: another definition simply takes its place.

    Raises:
        DefinitionError: if a field changed that runs depend on.
    """
    if _has_trials(folder) and folder.definition.exists():
        refuse_changes(stored_config(folder), definition, f"in {folder.path}")


def refuse_changes(old: StudyConfig, definition: Definition, where: str) -> None:
    """Compares a definition with the one that a study was begun with.

    Raises:
        DefinitionError: if a field changed that runs depend on, with both values of each.
    """
    before, new = old.model_dump(mode="json"), definition.config.model_dump(mode="json")
    changes = [
        change
        for change in differences(before, new)
        if not _is_changeable(*change) and not is_revision(change[0], before, new)
    ]
    lines = [_refusal(where, definition, *change) for change in changes]
    lines += _goals_problem(old, where, definition)
    if lines:
        raise DefinitionError("\n".join(lines))


def changed_fields(
    folder: StudyFolder,
    config: StudyConfig,
    is_said: Callable[[FieldPath], bool] = lambda path: False,
) -> list[str]:
    """What differs from the definition that is kept in the folder, a line a field.

    Args:
        folder: the study's.
        config: the definition of today.
        is_said: whether a field is spoken of elsewhere.

    Raises:
        StudyError: if that is damaged.
    """
    if not folder.definition.exists():
        return []
    old, new = stored_config(folder).model_dump(mode="json"), config.model_dump(mode="json")
    found = [change for change in differences(old, new) if not is_said(change[0])]
    pairs = ((dotted(path), *_differing(a, b)) for path, a, b in found)
    return [f"{path}: {before} before, {now} now" for path, before, now in pairs]


def _has_trials(folder: StudyFolder) -> bool:
    if not folder.database.exists():
        return False
    from optuna.study import get_all_study_summaries

    return any(summary.n_trials for summary in get_all_study_summaries(folder.storage()))


def differences(old: Any, new: Any, path: FieldPath = ()) -> Iterator[tuple[FieldPath, Any, Any]]:
    """Fields whose values differ in two definitions: where, and both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from differences(old.get(key), new.get(key), (*path, key))
    elif old != new:
        yield path, old, new


def _is_changeable(path: FieldPath, old: Any, new: Any) -> bool:
    if len(path) == 3 and path[:2] in SETS:
        return old is None or new is None
    return any(path[: len(field)] == field for field in CHANGEABLE)


def _goals_problem(old: StudyConfig, where: str, definition: Definition) -> list[str]:
    """An Optuna study keeps its number of values."""
    before, now = old.goals.names, definition.config.goals.names
    if len(before) == len(now):
        return []
    return [
        f"{definition.place(('objective',))}: the study {where} has "
        f"{count(len(before), 'goal')} ({', '.join(before)}), and now there would be {len(now)}: "
        "Optuna fixes their number when a study begins. Give the definition another name and "
        f"`warm_start: [{old.name}]`, a new study that takes all of its runs over and trains none "
        "again; or ask one goal at a time, `optuna-mde recommend --objective`"
    ]


def _refusal(where: str, definition: Definition, path: FieldPath, old: Any, new: Any) -> str:
    if path[:2] in SETS:
        return (
            f"{definition.place(path)}: {path[2]!r} is a set that the study {where} has losses "
            f"on, and {dotted(path)} was {_short(old)}: give the other set another name"
        )
    verb = "has" if path[:2] == ("corpus", "domains") else "was begun with"  # or got by a split
    other = mend(path, definition.config.model_dump(mode="json"))
    return (
        f"{definition.place(path)}: the study {where} {verb} "
        f"{dotted(path)} = {_short(old)}, and now it is {_short(new)}: runs under both cannot be "
        f"compared. Take the old value, {f'{other}, ' if other else ''}or "
        f"{afresh(definition.config.storage)}"
    )


def written(value: Any) -> str:
    """A value as YAML on one line: unset fields left out, no passwords."""
    if value is None:
        return "nothing"
    plain = _without_unset(_without_passwords(value))
    text = yaml.safe_dump(
        plain, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf
    )
    return text.strip().removesuffix("\n...")


def _without_unset(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_unset(held) for key, held in value.items() if held is not None}
    return value


def _differing(old: Any, new: Any) -> tuple[str, str]:
    """Both values in short, long ones from where they begin to differ."""
    texts = [written(value) for value in (old, new)]
    pairs = enumerate(zip(*texts, strict=False))
    same = next((i for i, (a, b) in pairs if a != b), min(map(len, texts)))
    if max(map(len, texts)) > 60 and same > 20:
        texts = [f"…{text[same - 20 :]}" for text in texts]
    return _cut(texts[0]), _cut(texts[1])


def _short(value: Any) -> str:
    return _cut(written(value))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _without_passwords(value: Any) -> Any:
    """The same value; URLs of storages stand in `storage`, `warm_start` and commands."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, dict):
        return {key: _without_passwords(held) for key, held in value.items()}
    return [_without_passwords(held) for held in value] if isinstance(value, list) else value
