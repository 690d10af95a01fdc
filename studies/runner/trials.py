"""How many trials a study has, by what became of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna.trial import TrialState
from optuna_mde_studies.exchange.origin import is_own
from optuna_mde_studies.runner.recovery import INTERRUPTED, is_ours

if TYPE_CHECKING:
    import optuna

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
"""What counts as a trial of `search.n_trials`; a shortened expert ends PRUNED."""


WANTED_ATTR = "n_trials"
"""Study attribute: `search.n_trials` of whoever started the study last, for all workers."""


def num_finished(study: optuna.Study) -> int:
    """Finished trials, as `search.n_trials` counts them: none that were taken over."""
    return sum(map(is_own, study.get_trials(deepcopy=False, states=FINISHED)))


def num_held(study: optuna.Study) -> int:
    """RUNNING trials that workers of this package hold."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return sum(is_ours(trial) for trial in running)


def counts(study: optuna.Study) -> dict[str, int]:
    """Trials by state; those that were interrupted and queued again are not failures,
    and those that were taken over from elsewhere are not the study's."""
    found: dict[str, int] = {}
    for trial in study.get_trials(deepcopy=False):
        state = trial.state.name.lower()
        if trial.state == TrialState.FAIL and trial.user_attrs.get(INTERRUPTED):
            state = "interrupted"
        elif trial.state in FINISHED and not is_own(trial):
            state = "taken over"
        found[state] = found.get(state, 0) + 1
    return found
