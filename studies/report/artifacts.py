"""Files of runs as a dashboard opens them: what was asked, what came of it, losses on the way.

Nothing is copied: the store reads the folders of runs, and makes table and picture of losses from
them. An artifact's id is the run's name (a hash) and one of our own files, so that whatever else
a storage asks for does not exist.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.trial import TrialState
from optuna_mde_studies.report import curves
from optuna_mde_studies.report.curve_picture import svg
from optuna_mde_studies.runner.experiment import RUN_ATTR
from optuna_mde_trainers.spec import RESULT_FILE, SPEC_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping

    import optuna

ADDED_FOLDER = "artifacts"
CURVE_FILE, PICTURE_FILE = "losses.csv", "losses.svg"
FILES = {"0": (RESULT_FILE, "application/json"), "1": (SPEC_FILE, "application/json"),
         "2": (CURVE_FILE, "text/csv"), "3": (PICTURE_FILE, "image/svg+xml")}  # fmt: skip
"""Last digit of an id -> name of the file and its type; the last two are made of a result."""
_MADE = {digit for digit, (name, _) in FILES.items() if name in (CURVE_FILE, PICTURE_FILE)}
_ID = re.compile(r"([0-9a-f]{16})-([0123])")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_RUN = re.compile(r"[0-9a-f]{16}")


class RunFiles:
    """An artifact store of Optuna's that reads the folders of a study's runs.

    What a user adds in the dashboard lies in a folder of its own, beside them.

    Args:
        runs: the folder that holds them.
    """

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._added = FileSystemArtifactStore(runs.parent / ADDED_FOLDER)

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """The file of an id.

        Raises:
            ArtifactNotFound: if there is none.
        """
        if _UUID.fullmatch(artifact_id):
            return self._added.open_reader(artifact_id)
        found = _ID.fullmatch(artifact_id)
        if found is None:
            raise ArtifactNotFound(artifact_id)
        run, digit = found.groups()
        name, _ = FILES[digit]
        if name in (CURVE_FILE, PICTURE_FILE):
            curve = curves.read(self._runs / run)
            if curve is None:
                raise ArtifactNotFound(artifact_id)
            text = curve.table() if name == CURVE_FILE else svg(curve)
            return io.BytesIO(text.encode("utf-8"))
        try:
            return (self._runs / run / name).open("rb")
        except OSError as error:
            raise ArtifactNotFound(artifact_id) from error

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Keeps what a user adds; folders of runs hold what their trainer wrote."""
        _refuse_other(artifact_id)
        (self._runs.parent / ADDED_FOLDER).mkdir(exist_ok=True)
        self._added.write(artifact_id, content_body)

    def remove(self, artifact_id: str) -> None:
        """Removes what a user has added."""
        _refuse_other(artifact_id)
        self._added.remove(artifact_id)


def _refuse_other(artifact_id: str) -> None:
    if not _UUID.fullmatch(artifact_id):
        raise PermissionError(f"{artifact_id}: folders of runs are only read here")


def publish(study: optuna.Study, runs: Path) -> None:
    """Names the files of finished runs on their trials, where they are not named yet, and shows
    their losses on the way in a note, where nobody has written one.

    Finished trials take no attributes: the study bears them, where the dashboard looks too.
    """
    known = study._storage.get_study_system_attrs(study._study_id)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
        run = Path(str(trial.user_attrs.get(RUN_ATTR) or "")).name
        if not _RUN.fullmatch(run) or not (runs / run / RESULT_FILE).is_file():
            continue
        keys = {d: f"dashboard:artifacts:{trial._trial_id}:{run}-{d}" for d in FILES}
        missing = [digit for digit, key in keys.items() if key not in known]
        if _MADE & {*missing} and curves.read(runs / run) is None:
            missing = [digit for digit in missing if digit not in _MADE]
        for digit in missing:
            name, kind = FILES[digit]
            meta = {"artifact_id": f"{run}-{digit}", "filename": name, "mimetype": kind}
            text = json.dumps({**meta, "encoding": None})
            study._storage.set_study_system_attr(study._study_id, keys[digit], text)
            if name == PICTURE_FILE:
                _note(study, trial._trial_id, f"{run}-{digit}", known)


def _note(study: optuna.Study, trial: int, picture: str, known: Mapping[str, Any]) -> None:
    """A picture in a trial's note, as large as it is; among the files it is a stamp."""
    from optuna_dashboard._note import note_ver_key, save_note_with_version

    if note_ver_key(trial) not in known:
        body = f"![losses on the way](/artifacts/{study._study_id}/{trial}/{picture})"
        save_note_with_version(study._storage, study._study_id, trial, 1, body)
