"""How many trials a study has, by what became of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna.trial import TrialState
from optuna_mde_studies.runner.recovery import INTERRUPTED

if TYPE_CHECKING:
    import optuna

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
"""What counts as a trial of `search.n_trials`; a shortened expert ends PRUNED."""


def num_finished(study: optuna.Study) -> int:
    """Finished trials, as `search.n_trials` counts them."""
    return len(study.get_trials(deepcopy=False, states=FINISHED))


def counts(study: optuna.Study) -> dict[str, int]:
    """Trials by state; those that were interrupted and queued again are not failures."""
    found: dict[str, int] = {}
    for trial in study.get_trials(deepcopy=False):
        state = trial.state.name.lower()
        if trial.state == TrialState.FAIL and trial.user_attrs.get(INTERRUPTED):
            state = "interrupted"
        found[state] = found.get(state, 0) + 1
    return found
