"""What counts where machines of one study ask for different things: goal, number, bounds, sets.

Three definitions are compared: the file as it was at this machine's last start, the file as it is
now, and what the study has in its storage. What somebody has changed here counts for all machines;
what was changed elsewhere counts here.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from optuna_mde_studies.definition.config import StudyConfig
from optuna_mde_studies.definition.consistency import FieldPath, inconsistencies
from optuna_mde_studies.definition.reading import DefinitionError, dotted
from optuna_mde_studies.runner.agreement import check_storage, published
from optuna_mde_studies.runner.changes import SETS, written
from optuna_mde_studies.runner.folder import StudyError, StudyFolder, stored_config
from optuna_mde_studies.runner.identity import find, kept_mark, mark_of
from optuna_mde_studies.wording import shown
from optuna_mde_trainers.spec import write_atomic

from optuna_mde.objective import Objective

if TYPE_CHECKING:
    import optuna
    from optuna_mde_studies.definition.reading import Definition

SHARED: tuple[FieldPath, ...] = (
    ("search", "n_trials"),
    ("search", "bounds"),
    ("objective",),
    ("target",),
)
"""Fields that may change and are one for all machines of a study; so are its sets and domains."""
DOMAINS: FieldPath = ("corpus", "domains")
CHANGING = (DOMAINS, ("former_domains",), ("search", "natural"))
"""Fields that change together where domains do."""

Asked = dict[FieldPath, Any]
"""Shared field -> its value as JSON; a set by its section and name; of domains their names."""


@dataclass(frozen=True)
class Settled:
    """A definition with what counts for the study, and what is to be said of it."""

    definition: Definition
    lines: tuple[str, ...] = ()


def settle(folder: StudyFolder, definition: Definition, *, changes: bool = True) -> Settled:
    """What counts for a start on this machine; nothing is written.

    Args:
        folder: the study's.
        definition: of this start.
        changes: whether what has changed here counts for all, as of `run`; `work` takes what
            the study has.

    Raises:
        DefinitionError: if a machine that is new to the study differs from it, or what counts
            does not go together.
    """
    if folder.url is not None:
        check_storage(folder.url, definition)
    study = None if folder.url is None else find(folder, definition.config.name)
    there = None if study is None else published(study, folder.url or "")
    if study is None or there is None:
        return Settled(definition)
    held, now = _asked(there), _asked(definition.config)
    last, file = _last(folder, definition, study), _asked(definition.as_written)
    mine: list[FieldPath] = []
    theirs: list[FieldPath] = []
    strange: list[FieldPath] = []
    for path in dict.fromkeys([*held, *now]):
        if _is_same(path, held.get(path), now.get(path)):
            continue
        if _is_set(definition, path):
            ours = changes
        elif last is None:
            strange.append(path)
            continue
        else:
            ours = changes and not _is_same(path, last.get(path), file.get(path))
        (mine if ours else theirs).append(path)
    if strange:
        raise DefinitionError(_refusal(definition, folder, strange, held, now))
    config = _with(definition.config, there, theirs)
    for path, problem in inconsistencies(config):
        raise DefinitionError(f"{definition.place(path)}: {problem}")
    lines = [f"changed for all machines of the study: {_change(path, held, now)}" for path in mine]
    lines += [_kept(definition, path, held, now, changes=changes) for path in theirs]
    settled = replace(definition, config=config, plain=definition.as_written)
    return Settled(settled, tuple(lines))


def keep(folder: StudyFolder, definition: Definition) -> None:
    """Keeps what the file of this start asks for, to be compared at the next one."""
    if _is_of_folder(folder, definition):
        return
    asked = _asked(definition.as_written) if definition.is_file else {}
    if asked or not folder.asked.exists():
        write_atomic(folder.asked, json.dumps([[list(path), x] for path, x in asked.items()]))


def followed(config: StudyConfig, study: optuna.Study, url: str | None) -> StudyConfig:
    """A definition at work with what counts by now; the same object if nothing has changed.

    Domains stay: other text needs another start.
    """
    if url is None:
        return config
    try:
        there = published(study, url)
    except StudyError:  # of another version: what was agreed on goes on
        return config
    if there is None:
        return config
    held, now = _asked(there), _asked(config)
    paths = [
        path
        for path in dict.fromkeys([*held, *now])
        if path != DOMAINS and not _is_same(path, held.get(path), now.get(path))
    ]
    return _with(config, there, paths) if paths else config


def now_of(folder: StudyFolder, config: StudyConfig) -> StudyConfig:
    """The definition that was kept in a folder, with what counts in the study's storage by now."""
    study = find(folder, config.name)
    return config if study is None else followed(config, study, folder.url)


def changed(before: StudyConfig, now: StudyConfig) -> list[str]:
    """What counts now and did not before, a text a field."""
    one, other = _asked(before), _asked(now)
    paths = [p for p in dict.fromkeys([*one, *other]) if not _is_same(p, one.get(p), other.get(p))]
    return [_change(path, one, other) for path in paths]


def passed_over(folder: StudyFolder, definition: Definition, config: StudyConfig) -> str:
    """What a file says otherwise than its study, in a line, where it is only read; "" if nothing.

    The number of trials is none of it: `--set` says that of a start, and files seldom follow.
    """
    if _is_of_folder(folder, definition):
        return ""
    asked, held = _asked(definition.config), _asked(config)
    differ = [
        dotted(path)
        for path in dict.fromkeys([*held, *asked])
        if path != ("search", "n_trials") and not _is_same(path, held.get(path), asked.get(path))
    ]
    if not differ:
        return ""
    return (
        f"{definition.label} differs from the study in {', '.join(differ)}: the answer is the "
        "study's; `optuna-mde run` takes up what the file says now"
    )


def is_shared(path: FieldPath) -> bool:
    """Whether a field is one for all machines."""
    return any(path[: len(field)] == field for field in (*SHARED, *SETS, *CHANGING))


def _asked(config: StudyConfig) -> Asked:
    dump = config.model_dump(mode="json")
    found = {path: _at(dump, path) for path in SHARED}
    for section in SETS:
        found |= {(*section, name): source for name, source in _at(dump, section).items()}
    return found | {DOMAINS: list(dump["corpus"]["domains"])}


def _at(dump: Mapping[str, Any], path: FieldPath) -> Any:
    found: Any = dump
    for key in path:
        found = found[key]
    return found


def _last(folder: StudyFolder, definition: Definition, study: optuna.Study) -> Asked | None:
    """What this machine's file asked for at the last start; None if there was none."""
    if kept_mark(folder) != mark_of(study):
        return None
    if _is_of_folder(folder, definition):  # the folder's own definition says what it said
        return _asked(definition.as_written)
    try:
        pairs = json.loads(folder.asked.read_text("utf-8"))
        return {tuple(path): value for path, value in pairs} or None
    except (OSError, ValueError, TypeError):  # one of an older version has none
        return _asked(stored_config(folder)) if folder.definition.is_file() else None


def _is_of_folder(folder: StudyFolder, definition: Definition) -> bool:
    return definition.label == str(folder.definition)


def _is_set(definition: Definition, path: FieldPath) -> bool:
    """Whether `--set` said the field, or part of it."""
    return any(
        place.startswith("--set ") and (path[: len(known)] == known or known[: len(path)] == path)
        for known, place in definition.places.items()
    )


def _is_same(path: FieldPath, one: Any, other: Any) -> bool:
    if path == ("objective",):
        return Objective.parse(one).to_json() == Objective.parse(other).to_json()
    if path == DOMAINS:
        return set(one) == set(other)
    if path[:2] in SETS:  # another source under an old name is refused by itself
        return (one is None) == (other is None)
    return bool(one == other)


def _with(config: StudyConfig, there: StudyConfig, paths: list[FieldPath]) -> StudyConfig:
    """A definition with fields of another one."""
    if not paths:
        return config
    dump, held = config.model_dump(mode="json"), there.model_dump(mode="json")
    for path in (one for p in paths for one in (CHANGING if p == DOMAINS else (p,))):
        section = _at(dump, path[:-1])
        try:
            section[path[-1]] = _at(held, path)
        except KeyError:
            del section[path[-1]]
    return StudyConfig.model_validate(dump)


def _change(path: FieldPath, before: Asked, now: Asked) -> str:
    return f"{dotted(path)}: {written(before.get(path))} → {written(now.get(path))}"


def _kept(
    definition: Definition, path: FieldPath, held: Asked, now: Asked, *, changes: bool
) -> str:
    mend = _setting(path, now.get(path))
    how = f"; {mend} changes it for all machines" if mend else ""
    if not changes:
        how = "; `optuna-mde run` with the definition changes it for all machines"
    return (
        f"{dotted(path)}: what the study has counts, {written(held.get(path))}, and not "
        f"{written(now.get(path))} of {definition.label}{how}"
    )


def _setting(path: FieldPath, value: Any) -> str:
    if value is None or path == DOMAINS:
        return ""
    return f"`--set {shlex.quote(f'{dotted(path)}={written(value)}')}`"


def _refusal(
    definition: Definition,
    folder: StudyFolder,
    paths: list[FieldPath],
    held: Asked,
    now: Asked,
) -> str:
    def lines() -> Iterator[str]:
        for path in paths:
            mend = _setting(path, now.get(path))
            yield (
                f"{definition.place(path)}: {written(held.get(path))} in the study, and "
                f"{written(now.get(path))} here" + (f"; {mend} changes it for all" if mend else "")
            )
        url = shown(folder.url or "")
        yield (
            f"This machine is new to the study {definition.config.name} in {url}, so that its "
            "definition does not count where the two differ: write there what the study has, or "
            f"join by name, without the file: `optuna-mde run {definition.config.name} "
            f"--storage {url}`"
        )

    return "\n".join(lines())
