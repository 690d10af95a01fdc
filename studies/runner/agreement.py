"""What machines that share a study agree on before any of them trains: definition, files.

The definition travels with the study, as an attribute of it. Whatever could run a program stays
at home: of `launch` only fields that say how much of a machine a run takes are written, and read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState
from optuna_mde_studies.definition.config import StudyConfig
from optuna_mde_studies.definition.reading import DefinitionError
from optuna_mde_studies.runner.changes import check_definition, refuse_changes
from optuna_mde_studies.runner.folder import StudyError, StudyFolder
from optuna_mde_studies.runner.identity import find, kept_mark, mark_of
from optuna_mde_studies.runner.sharing.mirror import RemoteError
from optuna_mde_studies.runner.sharing.storages import StorageError, kind
from optuna_mde_studies.wording import shown
from optuna_mde_trainers.spec import explain
from pydantic import ValidationError

if TYPE_CHECKING:
    import optuna
    from optuna_mde_studies.definition.reading import Definition

DEFINITION_ATTR = "definition"
"""Study attribute: {"config": the definition without what stays at home, "command": whether runs
are made by a command of the user's}."""
FOLDER_ATTR = "mde_folder"
"""Study attribute: folder that the paths on trials start from."""
TRAVELLING = (
    *("accelerator", "devices", "num_nodes", "strategy", "compile", "activation_checkpointing"),
    *("checkpoint_every_n_steps", "checkpoint_every_n_minutes", "keep_weights"),
    *("workers", "launcher", "time_limit"),
)
"""Fields of `launch` that travel."""


def check(folder: StudyFolder, definition: Definition) -> None:
    """Checks definition and files against those of the study that was begun; nothing is written.

    Raises:
        DefinitionError: if a field differs that runs depend on.
        StudyError: if the storage cannot be opened, or the study's files are elsewhere.
    """
    if folder.url is None:
        check_definition(folder, definition)
        return
    check_storage(folder.url, definition)
    study = find(folder, definition.config.name)
    if study is None:
        return
    kept = _kept(study)
    if kept is not None:
        _check_kept(kept, folder.url, definition)
    check_files(folder, study)


def _check_kept(kept: Mapping[str, Any], url: str, definition: Definition) -> None:
    refuse_changes(_read(kept, url), definition, f"in {shown(url)}")
    if kept.get("command") and definition.config.launch.command is None:
        raise DefinitionError(
            f"{definition.place(('launch', 'command'))}: the runs of this study are made by a "
            "command, and a command is never taken from a storage; write it into the definition, "
            "or say --set launch.command='python my_train.py --spec {spec} --out {out}'"
        )


def publish(study: optuna.Study, config: StudyConfig) -> None:
    """Writes the definition on its study, for other machines."""
    text = config.model_dump(mode="json", exclude={"storage", "runs", "warm_start"})
    text["launch"] = {name: text["launch"][name] for name in TRAVELLING}
    if text["launch"]["launcher"] in ("slurm", "ray"):  # others may not reach the cluster
        text["launch"]["launcher"] = "subprocess"
    kept = {"config": text, "command": config.launch.command is not None}
    if study.user_attrs.get(DEFINITION_ATTR) != kept:
        study.set_user_attr(DEFINITION_ATTR, kept)


def published(study: optuna.Study, url: str) -> StudyConfig | None:
    """The definition on a study; None if there is none.

    Args:
        study: the study.
        url: of its storage, for the message.

    Raises:
        StudyError: if it cannot be read.
    """
    kept = _kept(study)
    return None if kept is None else _read(kept, url)


def join(folder: StudyFolder, name: str) -> StudyConfig:
    """The definition of a study from its storage, for a folder that has none; nothing is written.

    Args:
        folder: the study's, with the storage's URL.
        name: of the study.

    Raises:
        StudyError: if the storage has no such study.
    """
    assert folder.url is not None
    study = find(folder, name)
    kept = None if study is None else _kept(study)
    if kept is None:
        raise StudyError(
            f"there is no definition {name!r} here, and no study of this name with a definition "
            f"in {shown(folder.url)}"
        )
    return _read(kept, folder.url).model_copy(update={"storage": folder.url})


def agree_on_files(folder: StudyFolder, study: optuna.Study) -> None:
    """Keeps where the study's files lie; to be called once a start can be refused no more.

    Raises:
        StudyError: if they are others: runs of one machine would be gone for the next.
    """
    known = study.user_attrs.get(FOLDER_ATTR)
    if known == folder.root:
        return
    check_files(folder, study)
    if known is not None:  # of one machine alone, whose files are here
        folder.share(folder.corpus, folder.runs, folder.imported, folder.confirmation)
    folder.share(folder.mark)
    study.set_user_attr(FOLDER_ATTR, folder.root)
    if folder.shared is not None:
        folder.files.mkdir(parents=True, exist_ok=True)
        mark = folder.files / folder.mark.name
        mark.write_text(kept_mark(folder) + "\n", encoding="utf-8")


def check_files(folder: StudyFolder, study: optuna.Study) -> None:
    """Sees that the study's files are the same for all machines.

    Raises:
        StudyError: if they are others.
    """
    known, here = study.user_attrs.get(FOLDER_ATTR), folder.root
    if folder.url is None or known is None or known == here:
        return
    mark = _mark_there(folder)
    # Every machine's own folder bears the mark: only one that has files has been moved.
    is_own = folder.shared is None and folder.remote is None
    has_files = not is_own or folder.corpus.is_dir() or folder.runs.is_dir()
    is_moved = bool(mark) and mark == mark_of(study) and has_files
    if is_moved and not study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        return  # else it is mounted elsewhere on the machine that runs them
    raise StudyError(
        f"the runs of this study lie in {known}, and here they would lie in {here}; share one "
        "folder, under the same path or URL on every machine: add `--set "
        f"runs={str(known).rpartition('/')[0]}`, or `--out`"
    )


def _mark_there(folder: StudyFolder) -> str:
    """What says whose the files are, where machines share them; empty where nothing does."""
    path = folder.files / folder.mark.name
    if folder.mirror is None:
        return path.read_text("utf-8").strip() if path.is_file() else ""
    try:
        found = folder.mirror.read(path.name)
    except RemoteError as error:
        raise StudyError(f"runs: {error}") from None
    return (found or b"").decode("utf-8", "replace").strip()


def check_storage(url: str, definition: Definition) -> None:
    """Sees that a storage of this kind can be shared.

    Raises:
        DefinitionError: if not.
    """
    try:
        kind(url)
    except StorageError as error:
        raise DefinitionError(f"{definition.place(('storage',))}: {error}") from None


def _kept(study: optuna.Study) -> Mapping[str, Any] | None:
    kept = study.user_attrs.get(DEFINITION_ATTR)
    return kept if isinstance(kept, Mapping) else None


def _read(kept: Mapping[str, Any], url: str) -> StudyConfig:
    try:
        found = dict(kept["config"])
        found["launch"] = {
            name: value for name, value in found["launch"].items() if name in TRAVELLING
        }
        return StudyConfig.model_validate(
            {**found, "storage": None, "runs": None, "warm_start": ()}
        )
    except ValidationError as error:
        reason = explain(error)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = str(error)
    raise StudyError(
        f"{shown(url)}: the study's definition cannot be read ({reason}); it may be of another "
        "version of optuna-mde"
    )
