"""Trials that nobody works on any more: told if their run is done, else queued again.

All of it happens under the study's lock, and every step can be the last one before a death: what
is still to be done is read from the trials.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import optuna
from optuna.trial import TrialState
from optuna_mde_studies.runner.experiment import SPEC_ATTR, ForeignSpecError
from optuna_mde_studies.runner.sharing.leases import lease
from optuna_mde_studies.runner.sharing.owners import has_died
from optuna_mde_studies.wording import listed
from optuna_mde_trainers.spec import SpecError

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial
    from optuna_mde_studies.runner.experiment import Experiment

INTERRUPTED = "interrupted"
"""Trial attribute of a trial that no live process works on any more."""
ERROR = "error"
"""Trial attribute: why a run failed for a reason of its own."""
AGAIN = "to_be_continued"
"""Trial attribute of a failed trial whose run another one is to take up, once."""
CONTINUES = "continues"
"""Trial attribute: number of the trial whose run this one takes up."""
FAILURES = "failures"
"""Trial attribute: how often this run has failed for reasons of its own before."""
MAX_FAILURES = 2
"""A run that fails so often is left: death by a signal is no failure of its own."""
MAX_IN_A_ROW = 3
"""Runs that may fail one after the other before a start stops: it is not the mixture then."""

KEPT = (SPEC_ATTR, "phase", "predicted_mean", "predicted_sd", FAILURES)
"""Trial attributes that go over to the trial that takes a run up again."""


def settle(
    study: optuna.Study,
    experiment: Callable[[], Experiment],
    is_left: Callable[[FrozenTrial], bool],
) -> list[FrozenTrial]:
    """Brings trials to an end that nobody works on.

    A trial whose run is finished is told. One that had begun to train fails, and its mixture waits
    in a new trial with the same spec, so that the run goes on where it stopped. One that had not
    got so far fails: nothing is lost but a proposal.

    Args:
        study: the study; its lock is held.
        experiment: opens the study's experiment; called only if a trial was training.
        is_left: whether nobody works on a RUNNING trial.

    Returns:
        The trials that were settled, as they were.
    """
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    left = [trial for trial in running if is_left(trial)]
    for trial in left:
        if SPEC_ATTR not in trial.user_attrs:
            _interrupt(study, trial, again=False)
            continue
        try:
            is_told = _tell(study, trial, experiment())
        except ForeignSpecError:
            _interrupt(study, trial, again=False)
        else:
            if not is_told:
                _interrupt(study, trial, again=True)
    queue_again(study)
    return left


def is_ours(trial: FrozenTrial) -> bool:
    """Whether a RUNNING trial belongs to a worker of this package. Others' are none of our
    business; those of release 0.1.0 have a spec and no lease."""
    return lease(trial) is not None or SPEC_ATTR in trial.user_attrs


def is_abandoned(trial: FrozenTrial) -> bool:
    """Whether a RUNNING trial is ours, and its process known to be dead without waiting."""
    held = lease(trial)
    return is_ours(trial) and (held is None or has_died(held["owner"]))


def queue_again(study: optuna.Study) -> None:
    """Queues every run that is to be taken up and is not queued yet; the study's lock is held."""
    trials = study.get_trials(deepcopy=False)
    taken_up = {trial.user_attrs.get(CONTINUES) for trial in trials}
    for trial in trials:
        waits = trial.state == TrialState.FAIL and trial.user_attrs.get(AGAIN)
        if waits and trial.number not in taken_up:
            _take_up(study, trial, KEPT)


def forgive(study: optuna.Study, say: Callable[[str], None]) -> None:
    """Queues runs again that failed one after the other, as a broken trainer fails them all.

    To be called where a start begins, with the study's lock held. One that is taken up by another
    trial already, or that diverged, is not queued; what waits for its second try has two again.

    Args:
        study: the study.
        say: hears which trials' runs are queued.
    """
    trials = study.get_trials(deepcopy=False)
    row = _failed_in_a_row(trials)
    taken_up = {trial.user_attrs.get(CONTINUES) for trial in trials}
    forgiven = []
    for trial in trials:
        attrs = trial.user_attrs
        if trial.state == TrialState.WAITING and attrs.get(CONTINUES) in row:
            study._storage.set_trial_user_attr(trial._trial_id, FAILURES, 0)
        elif trial.number in row - taken_up and attrs.get(FAILURES, 0) >= MAX_FAILURES:
            _take_up(study, trial, tuple(key for key in KEPT if key != FAILURES))
            forgiven.append(trial.number)
    if forgiven:
        which = f"trial{'s' * (len(forgiven) > 1)} {listed(map(str, forgiven))}"
        say(
            f"TRIED AGAIN: {which} had failed for good among {MAX_IN_A_ROW} or more failures in "
            "a row, which looks like the trainer and not the mixtures; these runs are queued anew"
        )


def _take_up(study: optuna.Study, trial: FrozenTrial, kept: Sequence[str]) -> None:
    """Queues a trial's run, with those of its attributes that go over."""
    attrs = {key: trial.user_attrs[key] for key in kept if key in trial.user_attrs}
    study.enqueue_trial(trial.params, user_attrs={**attrs, CONTINUES: trial.number})


def _failed_in_a_row(trials: Sequence[FrozenTrial]) -> set[int]:
    """Numbers of runs that failed with nothing finished between, as many as stop a start."""
    ended = [trial for trial in trials if trial.datetime_complete is not None]
    row: list[int] = []
    found: set[int] = set()
    for trial in sorted(ended, key=lambda t: (t.datetime_complete, t.number)):
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            row = []
        elif SPEC_ATTR in trial.user_attrs and ERROR in trial.user_attrs:
            row.append(trial.number)
            if len(row) >= MAX_IN_A_ROW:
                found.update(row)
    return found


def fail(study: optuna.Study, trial: optuna.Trial, reason: str, *, is_final: bool) -> bool:
    """Tells of a run that has failed for a reason of its own. The study's lock is held.

    Args:
        study: the study.
        trial: the run's, held by this process.
        reason: what to say of it.
        is_final: whether the same run would fail again for certain.

    Returns:
        Whether the run is queued again: once, as it may have been the machine.
    """
    failures = trial.user_attrs.get(FAILURES, 0) + 1
    trial.set_user_attr(ERROR, reason)
    trial.set_user_attr(FAILURES, failures)
    again = SPEC_ATTR in trial.user_attrs and not is_final and failures < MAX_FAILURES
    if again:
        trial.set_user_attr(AGAIN, True)
    study.tell(trial, state=TrialState.FAIL)
    queue_again(study)
    return again


def _tell(study: optuna.Study, frozen: FrozenTrial, experiment: Experiment) -> bool:
    try:
        spec = experiment.spec(frozen.user_attrs)
    except SpecError:  # of another version: it fails with its reason where it is taken up
        return False
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


def hand_back(study: optuna.Study, trial_id: int) -> None:
    """Gives up a trial that is held here, for another worker to go on with; the study's lock is
    held."""
    frozen = study._storage.get_trial(trial_id)
    if not frozen.state.is_finished():
        _interrupt(study, frozen, again=SPEC_ATTR in frozen.user_attrs)
        queue_again(study)


def _interrupt(study: optuna.Study, frozen: FrozenTrial, *, again: bool) -> None:
    trial = optuna.Trial(study, frozen._trial_id)
    trial.set_user_attr(INTERRUPTED, True)
    if again:
        trial.set_user_attr(AGAIN, True)
    study.tell(trial, state=TrialState.FAIL)
