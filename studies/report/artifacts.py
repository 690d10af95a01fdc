"""Files of runs as a dashboard opens them: what was asked, what came of it, losses on the way.

Nothing is copied: the store reads the folders of runs. An artifact's id is the run's name (a hash)
and one of our own files, so that whatever else a storage asks for does not exist.
"""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.trial import TrialState
from optuna_mde_studies.runner.experiment import RUN_ATTR
from optuna_mde_trainers.spec import RESULT_FILE, SPEC_FILE, RunResult, SpecError

if TYPE_CHECKING:
    import optuna

ADDED_FOLDER = "artifacts"
CURVE_FILE = "losses.csv"
FILES = {"0": (RESULT_FILE, "application/json"), "1": (SPEC_FILE, "application/json"),
         "2": (CURVE_FILE, "text/csv")}  # fmt: skip
"""Last digit of an id -> name of the file and its type; the curve is made of a result's points."""
_ID = re.compile(r"([0-9a-f]{16})-([012])")
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
        try:
            if name == CURVE_FILE:
                return io.BytesIO(_curve(self._runs / run))
            return (self._runs / run / name).open("rb")
        except (OSError, SpecError) as error:
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
    """Names the files of finished runs on their trials, where they are not named yet.

    Finished trials take no attributes: the study bears them, where the dashboard looks too.
    """
    known = study._storage.get_study_system_attrs(study._study_id)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
        run = Path(str(trial.user_attrs.get(RUN_ATTR) or "")).name
        if not _RUN.fullmatch(run) or not (runs / run / RESULT_FILE).is_file():
            continue
        for digit, (name, kind) in FILES.items():
            key = f"dashboard:artifacts:{trial._trial_id}:{run}-{digit}"
            if key not in known and (name != CURVE_FILE or _has_points(runs / run)):
                meta = {"artifact_id": f"{run}-{digit}", "filename": name, "mimetype": kind}
                text = json.dumps({**meta, "encoding": None})
                study._storage.set_study_system_attr(study._study_id, key, text)


def _has_points(run: Path) -> bool:
    try:
        return bool(RunResult.read(run / RESULT_FILE).points)
    except (OSError, SpecError):
        return False


def _curve(run: Path) -> bytes:
    """Losses at every scored point of a run, a line a point, its end last."""
    result = RunResult.read(run / RESULT_FILE)
    out = io.StringIO()
    table = csv.writer(out)
    table.writerow(["tokens", *result.losses])
    for point in result.points:
        table.writerow([point.tokens, *(point.losses.get(name, "") for name in result.losses)])
    table.writerow([result.tokens, *result.losses.values()])
    return out.getvalue().encode("utf-8")
