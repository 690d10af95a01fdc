"""A study where it is to be worked on: made or found, and agreed on by all that start it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import optuna
from optuna_mde_studies.runner import agreement, identity
from optuna_mde_studies.runner.checks import check_machine, check_sources
from optuna_mde_studies.runner.folder import write_definition
from optuna_mde_studies.runner.remote import check_url
from optuna_mde_studies.runner.trials import num_finished

if TYPE_CHECKING:
    from optuna_mde_studies.definition.config import StudyConfig
    from optuna_mde_studies.definition.reading import Definition
    from optuna_mde_studies.runner.folder import StudyFolder


def open_study(folder: StudyFolder, config: StudyConfig) -> optuna.Study:
    """The study, made if it is not there yet: an ordinary Optuna study of the definition's name,
    which may be renamed later.

    Its sampler here is one that is never asked: the workers have the real one.
    """
    goals, storage = config.goals.names, folder.storage()
    study = optuna.create_study(
        study_name=identity.present_name(folder, storage, config.name) or config.name,
        storage=storage,
        sampler=optuna.samplers.RandomSampler(),
        directions=["minimize"] * len(goals),
        load_if_exists=True,
    )
    if study.metric_names != list(goals):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(goals))
    identity.mark(folder, study, config.name)
    if folder.url is None or agreement.FOLDER_ATTR not in study.user_attrs:
        agreement.agree_on_files(folder, study)
    else:
        agreement.check_files(folder, study)
    return study


def begin(definition: Definition, folder: StudyFolder) -> optuna.Study:
    """The study, which all that start it now agree on; to be called where it may be trained.

    Raises:
        DefinitionError: if it was begun with another definition.
        StudyError: if another machine has its files elsewhere.
    """
    with folder.asking():
        agreement.check(folder, definition)
        study = open_study(folder, definition.config)
        if agreement.DEFINITION_ATTR not in study.user_attrs:
            agreement.publish(study, definition.config)
        if not folder.definition.exists():
            write_definition(folder, definition.config)
        return study


def check(definition: Definition, folder: StudyFolder) -> bool:
    """Refuses what can be known to be wrong with a start before it; nothing is written.

    Returns:
        Whether trials are to be run.

    Raises:
        DefinitionError: if the definition is none of the study any more, names sources that cannot
            be read, or asks for something that this machine lacks.
        StudyError: if the study's files are elsewhere.
    """
    check_url(definition, folder)
    agreement.check(folder, definition)
    study = identity.find(folder, definition.config.name)
    if study is None and not folder.corpus.exists():
        check_sources(definition)
    is_left = study is None or num_finished(study) < definition.config.search.n_trials
    if is_left:
        check_machine(definition)
    return is_left
