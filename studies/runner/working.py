"""One worker by itself: `optuna-mde work`, for schedulers that start processes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from optuna_mde_studies.runner import precedence
from optuna_mde_studies.runner.agreement import agree_on_files
from optuna_mde_studies.runner.corpus import open_experiment
from optuna_mde_studies.runner.folder import StudyError, create
from optuna_mde_studies.runner.launchers import launcher
from optuna_mde_studies.runner.messages import Event, Exhausted, Failed, Noted, SearchOrder, Told
from optuna_mde_studies.runner.opening import begin, check
from optuna_mde_studies.runner.recovery import MAX_IN_A_ROW, forgive
from optuna_mde_studies.runner.sharing.owners import owner
from optuna_mde_studies.runner.showing import show_best, show_trial
from optuna_mde_studies.runner.trials import WANTED_ATTR, num_finished
from optuna_mde_studies.runner.worker import Worker

if TYPE_CHECKING:
    from optuna_mde_studies.definition.reading import Definition
    from optuna_mde_studies.runner.display import Display
    from optuna_mde_studies.runner.folder import StudyFolder


def work(definition: Definition, folder: StudyFolder, progress: Display) -> int:
    """Performs trials, one after the other, until as many are finished as are wanted.

    The study is begun if it is not there yet; other workers may do the same at once.

    Returns:
        Finished trials.

    Raises:
        DefinitionError: if the definition does not fit the study, its text or this machine.
        StudyError: if runs keep failing.
    """
    folder = folder.placed(definition.config, progress.line)
    settled = precedence.settle(folder, definition, changes=False)
    definition = settled.definition
    check(definition, folder)
    create(folder)
    study = begin(definition, folder)
    experiment = open_experiment(definition, folder, study, progress)
    agree_on_files(folder, study)
    precedence.keep(folder, definition)
    for line in settled.lines:
        progress.line(line)
    if WANTED_ATTR not in study.user_attrs:
        study.set_user_attr(WANTED_ATTR, definition.config.search.n_trials)
    progress.total = study.user_attrs[WANTED_ATTR]
    progress.done = num_finished(study)
    progress.stage(f"working: {progress.done} of {progress.total} trials are finished")
    show_best(study, progress)
    if progress.done < progress.total:
        with folder.asking():
            forgive(study, progress.line)
    launcher(definition.config.launch).warm_up()
    failures, ended = 0, False

    def hear(event: Event) -> None:
        nonlocal failures, ended
        progress.event(0, event)
        match event:
            case Told(number):
                failures = 0
                show_trial(study, progress, number)
            case Failed():
                failures += 1
            case Noted(text):
                progress.line(text)
            case Exhausted():
                ended = True

    with owner() as me:
        worker = Worker(lambda: experiment, me, hear, sys.stderr)
        while not ended:
            worker.perform(SearchOrder())
            if failures >= MAX_IN_A_ROW:
                raise StudyError(f"{failures} runs failed one after the other")
    return num_finished(study)
