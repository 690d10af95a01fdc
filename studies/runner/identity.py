"""Which study of a storage is a folder's, whatever it is called by now.

A study may be renamed (Optuna Dashboard makes a copy of another name, with the study's user
attributes, and deletes the first). So it bears a mark, which its folder keeps too.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from optuna_mde_studies.runner.folder import StudyError
from optuna_mde_studies.runner.sharing.storages import is_there
from optuna_mde_trainers.spec import write_atomic

if TYPE_CHECKING:
    import optuna
    from optuna.study._frozen import FrozenStudy
    from optuna_mde_studies.runner.folder import StudyFolder

MARK_ATTR = "mde_study"
"""Study attribute: {"id": drawn at random, "name": the definition's}."""


def present_name(
    folder: StudyFolder, storage: optuna.storages.BaseStorage, name: str
) -> str | None:
    """What the folder's study is called now; None if there is none yet.

    It is the one with the folder's mark; where the folder has none (another machine's, or one of
    release 0.1.0), the one of the definition's name, else one that began under it.

    Args:
        folder: the study's.
        storage: where it is looked for.
        name: the definition's.
    """
    kept, here = kept_mark(folder), str(folder.path.resolve())
    # A copy of a study bears its mark as well: the one of the name, else the older one, counts.
    studies = sorted(storage.get_all_studies(), key=lambda s: (s.study_name != name, s._study_id))
    for is_meant in (
        lambda study: kept and _mark(study).get("id") == kept,
        lambda study: study.study_name == name,
        lambda study: _mark(study).get("name") == name,
        lambda study: not _mark(study) and study.user_attrs.get("mde_folder") == here,
    ):
        for study in studies:
            if is_meant(study):
                return study.study_name
    return None


def find(
    folder: StudyFolder, name: str, sampler: optuna.samplers.BaseSampler | None = None
) -> optuna.Study | None:
    """The folder's study, as it is; None if there is none yet. Nothing is made.

    Args:
        folder: the study's.
        name: the definition's.
        sampler: who proposes. None: one that is never asked.

    Raises:
        StudyError: if its storage cannot be opened.
    """
    import optuna

    if not is_there(folder.storage_url):
        return None
    storage = folder.storage()
    found = present_name(folder, storage, name)
    if found is None:
        return None
    return optuna.load_study(
        study_name=found, storage=storage, sampler=sampler or optuna.samplers.RandomSampler()
    )


def open_existing(folder: StudyFolder, name: str | None) -> optuna.Study:
    """The folder's study, as it is; nothing is made.

    Args:
        folder: the study's.
        name: the definition's; None if it cannot be read.

    Raises:
        StudyError: if there is no storage, it is damaged, or holds no such study.
    """
    study = find(folder, name or "")
    if study is None:
        is_here = is_there(folder.storage_url)
        raise StudyError(f"it holds no study of {folder.path}" if is_here else "missing")
    return study


def mark(folder: StudyFolder, study: optuna.Study, name: str) -> None:
    """Marks a study as the folder's, unless it is marked already.

    Args:
        folder: the study's.
        study: the study.
        name: the definition's.
    """
    known = mark_of(study)
    if not known:
        known = kept_mark(folder) or uuid.uuid4().hex
        study.set_user_attr(MARK_ATTR, {"id": known, "name": name})
    if kept_mark(folder) != known:
        write_atomic(folder.mark, known + "\n")


def mark_of(study: optuna.Study) -> str:
    """The mark that a study bears; empty if there is none."""
    known = study.user_attrs.get(MARK_ATTR)
    found = known.get("id") if isinstance(known, dict) else None
    return found if isinstance(found, str) else ""


def kept_mark(folder: StudyFolder) -> str:
    """The mark in the folder; empty if there is none."""
    try:
        return folder.mark.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _mark(study: FrozenStudy) -> Mapping[str, Any]:
    found = study.user_attrs.get(MARK_ATTR)
    return found if isinstance(found, dict) else {}
