"""What there is in the place of a study or a definition that is not there."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from optuna_mde_studies.definition.reading import SUFFIXES, DefinitionError, shipped
from optuna_mde_studies.runner.folder import RUNS, StudyFolder

MOST_LISTED = 6
"""Definitions or studies that are named; of more, the nearest names."""
_DEFINITION = re.compile(r"^corpus:", re.MULTILINE)


def check_name(name: str) -> None:
    """Refuses a name that is neither a file nor a shipped definition.

    Raises:
        DefinitionError: with what there is, and what may have been meant.
    """
    if Path(name).is_file() or name in shipped():
        return
    if Path(name).stem in shipped():
        mend = f"the shipped one runs by its name alone: `{Path(name).stem}`"
        raise DefinitionError(f"{name}: no such definition; {mend}")
    there = {"definitions here": _definitions(), f"studies in {RUNS}/": _studies()}
    known = [found for names in there.values() for found in names] + shipped()
    near = difflib.get_close_matches(name, known, n=1)
    near = near or [found for found in known if Path(found).stem == Path(name).stem][:1]
    meant = f"did you mean `{near[0]}`? There are " if near else ""
    parts = [f"{what}: {_listed(name, names)}" for what, names in there.items() if names]
    parts.append(f"shipped definitions, found by name: {', '.join(shipped())}")
    raise DefinitionError(f"{name}: no such definition; {meant}{'; '.join(parts)}")


def _definitions() -> list[str]:
    return [
        path.name
        for path in sorted(Path().iterdir())
        if path.suffix in SUFFIXES and path.is_file() and _is_definition(path)
    ]


def _is_definition(path: Path) -> bool:
    try:
        return _DEFINITION.search(path.read_text("utf-8")) is not None
    except (OSError, UnicodeDecodeError):
        return False


def _studies() -> list[str]:
    runs = Path(RUNS)
    folders = sorted(runs.iterdir()) if runs.is_dir() else []
    return [path.name for path in folders if StudyFolder(path).definition.is_file()]


def _listed(name: str, names: Sequence[str]) -> str:
    if len(names) <= MOST_LISTED:
        return ", ".join(names)
    shown = difflib.get_close_matches(name, names, n=MOST_LISTED, cutoff=0.0)
    return f"{', '.join(shown)} and {len(names) - MOST_LISTED} more"
