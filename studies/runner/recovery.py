"""Trials that a killed process left RUNNING: told if their run is done, else queued again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import optuna
from optuna.trial import TrialState
from optuna_mde_studies.runner.experiment import SPEC_ATTR

if TYPE_CHECKING:
    from optuna_mde_studies.runner.experiment import Experiment

INTERRUPTED = "interrupted"
"""Trial attribute of a trial that no live process works on any more."""

KEPT = (SPEC_ATTR, "phase", "predicted_mean", "predicted_sd")
"""Trial attributes that go over to the trial that takes a run up again."""


def settle(
    study: optuna.Study,
    experiment: Callable[[], Experiment],
    number: int | None = None,
) -> int:
    """Brings trials to an end that nobody works on.

    A trial whose run is finished is told. One that had begun to train fails, and its mixture waits
    in a new trial with the same spec, so that the run goes on where it stopped. One that had not
    got so far fails: nothing is lost but a proposal.

    Args:
        study: the study.
        experiment: opens the study's experiment; called only if a trial was training.
        number: the one trial to settle. None: all that are RUNNING.

    Returns:
        How many trials were settled.
    """
    stale = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    stale = [trial for trial in stale if number is None or trial.number == number]
    for trial in stale:
        if SPEC_ATTR not in trial.user_attrs:
            _fail(study, trial)
        elif not _tell(study, trial, experiment()):
            _fail(study, trial)
            # After the failure, not before: a death between the two loses a proposal, while the
            # other order would run one mixture twice.
            kept = {key: trial.user_attrs[key] for key in KEPT if key in trial.user_attrs}
            study.enqueue_trial(trial.params, user_attrs=kept)
    return len(stale)


def _tell(study: optuna.Study, frozen: optuna.trial.FrozenTrial, experiment: Experiment) -> bool:
    spec = experiment.spec(frozen.user_attrs)
    result = experiment.finished(spec)
    if result is None:
        return False
    trial = optuna.Trial(study, frozen._trial_id)  # the live trial: its process is gone
    try:
        values = experiment.report(trial, spec, result)
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, values)
    return True


def _fail(study: optuna.Study, frozen: optuna.trial.FrozenTrial) -> None:
    trial = optuna.Trial(study, frozen._trial_id)
    trial.set_user_attr(INTERRUPTED, True)
    study.tell(trial, state=TrialState.FAIL)
