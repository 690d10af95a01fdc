"""Which studies there are: below a folder, or in a storage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from optuna_mde_studies.runner.folder import StudyError, StudyFolder, stored_config
from optuna_mde_studies.runner.identity import find
from optuna_mde_studies.runner.trials import holders, num_finished

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Found:
    """A study, and how far it is."""

    name: str
    finished: int
    """Trials, shortened experts included."""
    wanted: int | None
    """Finished trials that its definition asks for; None where there is no definition."""
    state: str
    place: str
    """Its folder, or what the storage says of it."""


def below(folder: Path) -> Iterator[Found]:
    """The studies of the folders in a folder, by name; one that cannot be read says why."""
    for path in sorted(folder.iterdir() if folder.is_dir() else ()):
        study = StudyFolder(path)
        if study.definition.is_file():
            try:
                yield _in_folder(study)
            except StudyError as error:
                yield Found(path.name, 0, None, f"cannot be read: {error}", str(path))


def within(storage: optuna.storages.BaseStorage) -> Iterator[Found]:
    """The studies of a storage, by name."""
    import optuna

    for name in sorted(optuna.get_all_study_names(storage)):
        study = optuna.load_study(study_name=name, storage=storage)
        states = [trial.state for trial in study.get_trials(deepcopy=False)]
        running = states.count(optuna.trial.TrialState.RUNNING)
        place = str(study.user_attrs.get("mde_folder", ""))
        yield Found(
            name, num_finished(study), None, f"{running} running" if running else "", place
        )


def _in_folder(folder: StudyFolder) -> Found:
    config = stored_config(folder)
    folder = folder.placed(config)
    wanted = config.search.n_trials
    name, finished, working = config.name, 0, False
    study = find(folder, config.name)
    if study is not None:
        name, finished, working = study.study_name, num_finished(study), bool(holders(study))
    if working or folder.is_running():
        state = "running now"
    else:
        state = "finished" if finished >= wanted else "not finished"
    return Found(name, finished, wanted, state, str(folder.path))
