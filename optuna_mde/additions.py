"""What a study learns after its runs have ended: losses on further sets, another objective."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import TrialState

from optuna_mde.losses import check_goals, checked_losses, checked_url
from optuna_mde.mde.urls import trust
from optuna_mde.objective import Objective, ObjectiveError, ObjectiveLike
from optuna_mde.scalars import whole
from optuna_mde.trials.facts import read_facts
from optuna_mde.trials.notes import set_present_objective
from optuna_mde.trials.records import Record
from optuna_mde.trials.scores import write_scores


def add_losses(
    study: optuna.Study,
    losses: Mapping[int, Mapping[str, float]],
    *,
    logprobs: Mapping[int, str | os.PathLike[str]] | None = None,
) -> None:
    """Add losses on further validation sets to trials that are finished.

    A run whose weights were kept can be scored on a set that did not exist when it was trained.
    Finished trials are read-only in Optuna, so that the losses are kept beside them, in the
    study's storage: the sampler, `recommend`, `predict` and the figures read them as if the
    trials had reported them. The trials' values stay what they were told; a set that was added
    counts in the objective where the objective names it (`set_objective`). Of a set that is added
    twice to one trial, the later loss counts. Any number of processes may add at once.

    Args:
        study: the study.
        losses: ``{trial number: {validation set: nats per token}}``.
        logprobs: ``{trial number: URL}`` of the experts' token log-probabilities on these sets
            (`save_logprobs`), by which MDE serves them too.

    Raises:
        ValueError: if there is no such trial, it is not finished or failed, it reported a loss of
            the set itself, a loss is NaN or no number, or the study's runs report no losses.

    Example:
        >>> import optuna, optuna_mde
        >>> def objective(trial):
        ...     mixture = optuna_mde.suggest_mixture(trial, ["web", "code"])
        ...     return optuna_mde.report_losses(trial, {"books": 3 - mixture["web"] ** 0.5})
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study(sampler=optuna_mde.MDESampler(seed=0))
        >>> study.optimize(objective, n_trials=3)
        >>> optuna_mde.add_losses(study, {0: {"faq": 2.1}, 1: {"faq": 1.9}})
        >>> sorted(optuna_mde.get_losses(study)[1])
        ['books', 'faq']
    """
    trials = {trial.number: trial for trial in read_facts(study).trials}
    _check_loss_study(study, trials)
    added: dict[int, dict[str, float]] = {}
    for key, values in _by_trial("losses", losses).items():
        trial = _finished("losses", trials, key)
        checked = _of_trial(f"losses of trial {trial.number}", values)
        told = [name for name in checked if name in trial.reported]
        if told:
            raise ValueError(
                f"losses: trial {trial.number} reported a loss of {', '.join(map(repr, told))} "
                f"itself, which stands; give the set that was scored now another name"
            )
        unscored = [name for name, loss in checked.items() if math.isnan(loss)]
        if unscored:
            raise ValueError(
                f"losses of trial {trial.number}: NaN for {', '.join(map(repr, unscored))}, which "
                f"is no loss; leave out the sets that a trial was not scored on"
            )
        added[trial.number] = checked
    urls = {
        _finished("logprobs", trials, key).number: checked_url(f"logprobs of trial {key}", url)
        for key, url in _by_trial("logprobs", logprobs or {}).items()
    }
    for url in urls.values():
        trust(url)
    if added or urls:
        write_scores(study, added, urls)


def get_losses(study: optuna.Study) -> dict[int, dict[str, float]]:
    """Losses of every trial that has any, those among them that were added later.

    Args:
        study: the study.

    Returns:
        ``{trial number: {validation set: nats per token}}``.
    """
    return {t.number: dict(t.losses) for t in read_facts(study).trials if t.losses}


def set_objective(study: optuna.Study, objective: ObjectiveLike) -> None:
    """Give a study another objective, for all that its runs have told and will tell.

    The sampler searches for it from the next trial on, and `recommend`, `predict` and the figures
    take the runs' values from their losses. Optuna's own values of finished trials cannot change:
    ``study.best_trial`` goes by what each trial was told.

    Args:
        study: the study; it keeps its number of directions.
        objective: as in `report_losses`; where that is called with another one, this one counts.

    Raises:
        ValueError: if the objective cannot be read, has another number of values than the study
            directions, or weighs a set that no run has a loss of.
    """
    goals = Objective.parse(objective)
    check_goals(study, goals)
    known = {name for trial in read_facts(study).trials for name in trial.losses}
    missing = [name for name in goals.sets if name not in known]
    if known and missing:
        raise ObjectiveError(
            f"the objective weighs {', '.join(missing)}, which no run has a loss of; there are "
            f"{', '.join(sorted(known))}. Losses of finished runs on further sets are added by "
            f"add_losses"
        )
    set_present_objective(study, goals.to_json())


def _by_trial(what: str, given: Any) -> Mapping[Any, Any]:
    if not isinstance(given, Mapping):
        raise ValueError(f"{what} must be a mapping by trial number, got {given!r}")
    return given


def _of_trial(what: str, values: Any) -> dict[str, float]:
    try:
        return checked_losses(values)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None


def _finished(what: str, trials: Mapping[int, Record], key: Any) -> Record:
    number = whole(f"{what}: a trial number", key)
    trial = trials.get(number)
    if trial is None:
        raise ValueError(
            f"{what}: the study has no trial {number}; numbers run from 0 to "
            f"{max(trials, default=-1)}"
        )
    if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
        state = trial.state.name.lower()
        raise ValueError(
            f"{what}: trial {number} is {state if state != 'fail' else 'failed'}; losses are "
            f"added to finished ones, and a running one reports its own (report_losses)"
        )
    return trial


def _check_loss_study(study: optuna.Study, trials: Mapping[int, Record]) -> None:
    if not any(trial.reported for trial in trials.values()):
        raise ValueError(
            f"no run of study {study.study_name!r} reports losses, so that added ones would stand "
            f"beside no others; let the runs report theirs (report_losses)"
        )
