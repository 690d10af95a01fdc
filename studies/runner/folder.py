"""The folder of a study: what lies where, who may write, the definition that is kept in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from filelock import FileLock, Timeout
from optuna_mde_studies.definition.config import StudyConfig
from optuna_mde_studies.definition.reading import DefinitionError
from optuna_mde_studies.runner.sharing.mirror import Mirror, RemoteError
from optuna_mde_studies.runner.sharing.patience import Say, held, patient
from optuna_mde_studies.runner.sharing.storages import StorageError, lock, open_storage
from optuna_mde_studies.wording import shown
from optuna_mde_trainers.spec import explain, write_atomic
from pydantic import ValidationError

from optuna_mde.mde.urls import trust

if TYPE_CHECKING:
    import optuna

RUNS = "runs"
"""Studies lie in this folder under the current one, unless `--out` says otherwise."""

TURN_SECONDS = 10.0
"""A proposal takes less than a second in most studies: beyond this, many workers wait, and foresee
one another's proposals beside each other sooner than one after the other."""


def afresh(url: str | None) -> str:
    """How another study is begun in place of one; a storage of its own knows that by its name.

    Args:
        url: of that storage; None of a study in its folder.
    """
    return "start afresh " + ("under another `name`" if url else "with `--out OTHER_FOLDER`")


class StudyError(RuntimeError):
    """A study that cannot be gone on with; the message says why and what to do."""


@dataclass(frozen=True)
class StudyFolder:
    """Where a study lies: its folder, and what it shares with other machines."""

    path: Path
    url: str | None = None
    """Of the storage. None: a file of SQLite in the folder."""
    shared: Path | None = None
    """Folder of the corpus and the runs. None: the study's own."""
    say: Say | None = None
    """Hears that the storage is away and is waited for. None: it is not waited for."""
    remote: str | None = None
    """URL of the folder that machines share in place of a path: the study's own has copies."""

    def placed(self, config: StudyConfig, say: Say | None = None) -> StudyFolder:
        """The same folder, with storage and runs where the definition has them."""
        shared = remote = None
        if config.runs is not None and "://" in config.runs:
            remote = f"{config.runs.rstrip('/')}/{config.name}"
        elif config.runs is not None:
            shared = Path(config.runs) / config.name
        return StudyFolder(self.path, config.storage, shared, say or self.say, remote)

    @property
    def files(self) -> Path:
        """What all machines see: the corpus, the runs, and what was found."""
        return self.path if self.shared is None else self.shared

    @property
    def root(self) -> str:
        """Where these are for all machines: what relative paths on trials start from."""
        return self.remote or str(self.files.resolve())

    @property
    def mirror(self) -> Mirror | None:
        """What moves files between here and the URL; None where machines share a path."""
        return None if self.remote is None else Mirror(self.remote, self.files, self.say)

    def bring(self, *paths: Path, only: Callable[[str], bool] = lambda name: True) -> None:
        """Sees that files, or all below folders, are here as others have left them at the URL.

        Args:
            paths: below `files`.
            only: which of them are wanted, by name.

        Raises:
            StudyError: if the URL does not answer.
        """
        if self.mirror is not None:
            with _remote_errors():
                self.mirror.pull(*self._names(paths), only=only)

    def share(self, *paths: Path, removes: bool = False) -> None:
        """Sees that files, or all below folders, are at the URL as they are here.

        Args:
            paths: below `files`.
            removes: whether what has been taken away here goes there too.

        Raises:
            StudyError: if the URL does not answer.
        """
        if self.mirror is not None:
            with _remote_errors():
                self.mirror.push(*self._names(paths), removes=removes)

    def _names(self, paths: Iterable[Path]) -> list[str]:
        return [path.relative_to(self.files).as_posix() for path in paths]

    @property
    def definition(self) -> Path:
        return self.path / "definition.yaml"

    @property
    def asked(self) -> Path:
        """What the definition of this machine's last start asked for, of what machines share."""
        return self.path / "asked.json"

    @property
    def database(self) -> Path:
        return self.path / "study.db"

    @property
    def mark(self) -> Path:
        return self.path / "study.id"

    @property
    def corpus(self) -> Path:
        return self.files / "corpus"

    @property
    def runs(self) -> Path:
        return self.files / "runs"

    @property
    def imported(self) -> Path:
        """Files of experts that were trained elsewhere."""
        return self.files / "imported"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def confirmation(self) -> Path:
        return self.files / "confirm.json"

    @property
    def recommendation(self) -> Path:
        return self.files / "recommendation.json"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def storage_url(self) -> str:
        return self.url or f"sqlite:///{self.database.resolve()}"

    def storage(self) -> optuna.storages.BaseStorage:
        """The study's storage, ready for several writing processes. What its trials name below the
        folder may be read from now on: the folder is one that the user has named.

        Raises:
            StudyError: if it cannot be reached, is damaged, or of another version of Optuna.
        """
        trust(f"{self.root}/runs")
        try:
            opened = open_storage(self.storage_url, self.files)
        except StorageError as error:
            if self.url is not None:
                raise StudyError(f"storage {shown(self.url)}: {error}") from error
            raise StudyError(
                f"{self.database} cannot be opened ({error}); put a copy of it back, or start "
                "afresh with `--out OTHER_FOLDER`"
            ) from error
        return opened if self.say is None else patient(opened, self.say)

    def asking(self) -> AbstractContextManager[Any]:
        """The study's lock, of all processes on all machines that work on it: Optuna's row locks
        do not exist in SQLite, so that two could get one trial number, or one waiting trial."""
        return held(lambda: lock(self.storage_url, self.files, "ask"), self.say)

    def turn(self, study_id: int) -> AbstractContextManager[Any]:
        """What a worker holds while it proposes: whoever proposes at the same time has to foresee
        what the others are about to take, which costs each of them as much as all of them.

        Entering raises what `is_away` knows after `TURN_SECONDS`: proposing needs no lock.
        """
        return lock(self.storage_url, self.files, f"turn-{study_id}", TURN_SECONDS)

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Makes this process the only one that runs the study from its folder; of a study in a
        storage of its own there may be more.

        Raises:
            StudyError: if another process does.
        """
        lock = FileLock(
            self.path / ".runner.lock", timeout=1.0
        )  # `is_running` holds it an instant
        try:
            lock.acquire()
        except Timeout:
            if self.url is not None:
                yield
                return
            raise StudyError(
                f"{self.path}: another process runs this study; wait for it or stop it "
                "(`optuna-mde status` shows how far it is), or help it with `optuna-mde work`"
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


@contextmanager
def _remote_errors() -> Iterator[None]:
    try:
        yield
    except RemoteError as error:
        raise StudyError(f"runs: {error}") from error


def at(path: Path) -> StudyFolder:
    """The study's folder, with storage and runs where the definition in it has them."""
    folder = StudyFolder(path)
    if folder.definition.is_file():
        with suppress(StudyError):  # whoever needs the definition says what is wrong with it
            return folder.placed(stored_config(folder))
    return folder


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


def write_definition(folder: StudyFolder, config: StudyConfig) -> None:
    """Keeps a definition in the folder."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    is_secret = any(shown(url) != url for url in (config.storage or "", *config.warm_start))
    write_atomic(folder.definition, text, mode=0o600 if is_secret else None)


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
