"""The folder of a study: what lies where, who may write, whether a definition still fits it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from filelock import FileLock, Timeout
from optuna_mde_studies.definition.config import StudyConfig
from optuna_mde_studies.definition.consistency import FieldPath
from optuna_mde_studies.definition.reading import Definition, DefinitionError, dotted
from optuna_mde_trainers.spec import explain, write_atomic
from pydantic import ValidationError

from optuna_mde.mde.urls import trust

if TYPE_CHECKING:
    import optuna

RUNS = "runs"
"""Studies lie in this folder under the current one, unless `--out` says otherwise."""

CHANGEABLE: tuple[FieldPath, ...] = (
    ("search", "n_trials"),
    ("search", "bounds"),
    ("target",),
    ("launch",),
    ("confirm",),
    ("warm_start",),
)
"""Fields that may change while a study lives: no finished run would come out differently."""

SQLITE_TIMEOUT = 120.0
"""Seconds a writer waits for the others. SQLite's default of 5 is short on a loaded machine."""


class StudyError(RuntimeError):
    """A study that cannot be gone on with; the message says why and what to do."""


@dataclass(frozen=True)
class StudyFolder:
    """Paths in a study's folder."""

    path: Path

    @property
    def definition(self) -> Path:
        return self.path / "definition.yaml"

    @property
    def database(self) -> Path:
        return self.path / "study.db"

    @property
    def mark(self) -> Path:
        return self.path / "study.id"

    @property
    def corpus(self) -> Path:
        return self.path / "corpus"

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    @property
    def imported(self) -> Path:
        """Files of experts that were trained elsewhere."""
        return self.path / "imported"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def confirmation(self) -> Path:
        return self.path / "confirm.json"

    @property
    def recommendation(self) -> Path:
        return self.path / "recommendation.json"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def storage_url(self) -> str:
        path = str(self.database.resolve())
        # Optuna formats the URL (for `{SCHEMA_VERSION}`), so braces of a path are doubled.
        return f"sqlite:///{path.replace('{', '{{').replace('}', '}}')}"

    def storage(self) -> optuna.storages.BaseStorage:
        """The study's storage, ready for several writing processes. What its trials name below the
        folder may be read from now on: the folder is one that the user has named.

        Raises:
            StudyError: if the file is damaged, or of another version of Optuna.
        """
        from optuna.exceptions import StorageInternalError
        from optuna.storages import RDBStorage
        from sqlalchemy.exc import SQLAlchemyError

        trust(str(self.database.resolve()))
        engine = {"connect_args": {"timeout": SQLITE_TIMEOUT}}
        try:
            return RDBStorage(self.storage_url, engine_kwargs=engine)
        except (SQLAlchemyError, StorageInternalError, RuntimeError) as error:
            reason = str(error).strip().split("\n")[0]
            raise StudyError(
                f"{self.database} cannot be opened ({reason}); put a copy of it back, or start "
                "afresh with `--out OTHER_FOLDER`"
            ) from error

    def asking(self) -> FileLock:
        """Held while a trial is created: Optuna's row locks do not exist in SQLite, so two
        processes could get one trial number, or the same waiting trial."""
        return FileLock(self.path / ".ask.lock", timeout=SQLITE_TIMEOUT)

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Makes this process the only one that runs the study.

        Raises:
            StudyError: if another process does.
        """
        lock = FileLock(
            self.path / ".runner.lock", timeout=1.0
        )  # `is_running` holds it an instant
        try:
            lock.acquire()
        except Timeout:
            raise StudyError(
                f"{self.path}: another process runs this study; wait for it or stop it "
                "(`optuna-mde status` shows how far it is)"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def is_running(self) -> bool:
        """Whether some process runs the study now."""
        lock = FileLock(self.path / ".runner.lock", timeout=0)
        if not self.path.is_dir() or not os.access(self.path, os.W_OK):
            return False
        try:
            with lock:
                return False
        except Timeout:
            return True


def create(folder: StudyFolder) -> None:
    """Makes the folder and tries to write into it.

    Raises:
        DefinitionError: if it cannot be written.
    """
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        probe = folder.path / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise DefinitionError(
            f"--out {folder.path}: the study's folder cannot be written ({reason.lower()}); "
            "name another with --out"
        ) from None


def keep_definition(folder: StudyFolder, definition: Definition) -> None:
    """Stores the definition beside its study, or checks it against the one that began the study.

    A study without a trial has not begun: another definition simply takes its place.

    Raises:
        DefinitionError: if a field changed that runs depend on.
    """
    new = definition.config.model_dump(mode="json")
    if not _has_trials(folder):
        folder.database.unlink(missing_ok=True)
    elif folder.definition.exists():
        old = stored_config(folder).model_dump(mode="json")
        changes = [change for change in differences(old, new) if not _is_changeable(change[0])]
        if changes:
            raise DefinitionError("\n".join(_refusal(folder, definition, *c) for c in changes))
    write_atomic(folder.definition, yaml.safe_dump(new, sort_keys=False, allow_unicode=True))


def _has_trials(folder: StudyFolder) -> bool:
    if not folder.database.exists():
        return False
    from optuna.study import get_all_study_summaries

    return any(summary.n_trials for summary in get_all_study_summaries(folder.storage()))


def stored_config(folder: StudyFolder) -> StudyConfig:
    """The definition that the study was begun with.

    Raises:
        StudyError: if the file is damaged.
    """
    try:
        return StudyConfig.model_validate(yaml.safe_load(folder.definition.read_text("utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        reason = explain(error) if isinstance(error, ValidationError) else str(error)
        raise StudyError(
            f"{folder.definition} is not what the study was begun with "
            f"({' '.join(reason.split())[:200]}); put a copy of it back"
        ) from None


def differences(old: Any, new: Any, path: FieldPath = ()) -> Iterator[tuple[FieldPath, Any, Any]]:
    """Fields whose values differ in two definitions: where, and both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from differences(old.get(key), new.get(key), (*path, key))
    elif old != new:
        yield path, old, new


def _is_changeable(path: FieldPath) -> bool:
    return any(path[: len(field)] == field for field in CHANGEABLE)


def _refusal(
    folder: StudyFolder, definition: Definition, path: FieldPath, old: Any, new: Any
) -> str:
    return (
        f"{definition.place(path)}: the study in {folder.path} was begun with "
        f"{dotted(path)} = {_short(old)}, and now it is {_short(new)}: runs under both cannot be "
        "compared. Take the old value, or start afresh with `--out OTHER_FOLDER`"
    )


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "…"
