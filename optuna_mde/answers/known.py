"""Which losses anything can be said of.

A set that came later may be scored of some runs only. Its level is known from one full run, or
from MDE losses of all experts; with neither, what the model says of it is its prior, in no unit of
the set. One full run is enough for an answer, since every study begins with one: all mixtures are
then expected to be alike, within wide intervals. Those from two and three are too narrow, as
nothing tests them yet, and `notes` says so.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from optuna_mde.objective import ObjectiveError
from optuna_mde.observations import Kind, Observations

if TYPE_CHECKING:
    from optuna_mde.mde.loading import Experts


def mde_sets(experts: Experts | None) -> frozenset[str]:
    """Validation sets on which all experts that MDE has at all have log-probabilities."""
    if experts is None:
        return frozenset()
    table, n = experts.table, len(experts.table.used)
    pairs = zip(table.sets, table.tables, strict=True)
    return frozenset(name for name, tokens in pairs if len(tokens.experts) == n)


def known(observations: Observations, experts: Experts | None) -> tuple[int, ...]:
    """Losses, or plain values, that can be predicted."""
    told = (~np.isnan(observations.Y[observations.full])).sum(axis=0)
    by_mde = mde_sets(experts)
    return tuple(
        i
        for i in observations.losses
        if told[i]
        or observations.targets[i].kind is Kind.VALUE
        or observations.targets[i].name in by_mde
    )


def check_known(observations: Observations, losses: Collection[int]) -> None:
    """Refuse goals and limits on losses that cannot be predicted.

    Args:
        observations: with the goals and limits in force.
        losses: those that can.

    Raises:
        ObjectiveError: if there are such goals or limits.
    """
    weighed = observations.weights.sum(axis=0) > 0.0
    limited = {i for i, _ in observations.objective.limits_on(observations.outputs)}
    asked = [i for i in observations.losses if weighed[i] or i in limited]
    unknown = [i for i in asked if i not in losses]
    if not unknown:
        return
    told = ", ".join(f"{observations.outputs[i]} ({_told(observations, i)})" for i in unknown)
    raise ObjectiveError(
        f"no full run has a loss of {told}, so that nothing can be said of it; score the runs "
        f"that lack it: `optuna-mde score` goes on where it stopped and takes up what a trainer "
        f"of your own has left, add_losses adds losses by trial number"
    )


def _told(observations: Observations, i: int) -> str:
    """How many runs have a loss, none of which is a full one."""
    n, count = len(observations.Y), int((~np.isnan(observations.Y[:, i])).sum())
    if not count:
        return f"none of {n} finished runs has one"
    verb = "has" if count == 1 else "have"
    return f"{count} of {n} finished runs {verb} one, after a share of a run"
