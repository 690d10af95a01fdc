"""How much of the answer is MDE's: how far the surrogate follows it, and what it says alone.

Notation: ``W`` `[1, M]` the weights of the objective, of which those of the sets that the experts'
files know count here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optuna_mde.answers.differences import difference
from optuna_mde.answers.fitted import Fitted
from optuna_mde.answers.intervals import Interval, interval
from optuna_mde.answers.trust import rank_correlation
from optuna_mde.mde.optimum import minimise
from optuna_mde.simplex.projection import Array
from optuna_mde.simplex.region import sample

DRAWN = 200  # allowed mixtures over which the two are compared: R² within .01
_FEWEST = 4  # runs, below which nothing is compared


@dataclass(frozen=True)
class MdeAlone:
    """MDE beside the surrogate that has learned from runs what MDE gets wrong."""

    mixture: dict[str, float]
    """The allowed mixture with the lowest MDE loss: what MDE alone would recommend."""
    loss: float
    """Its MDE loss, nats per token."""
    cost: Interval
    """Predicted loss of that mixture minus that of the recommended one; 90 %."""
    followed: float
    """Share of the variance of predicted losses over allowed mixtures that MDE's explain (R²)."""
    spearman: float | None
    """Rank correlation of MDE losses with those of the runs that are no experts; None below 4."""
    error: float | None
    """Root mean square of MDE loss minus observed loss of these runs, nats per token."""
    bias: float | None
    """Its mean."""


def mde_alone(fitted: Fitted, best: Array) -> MdeAlone | None:
    """MDE's part in the answer at a recommended input `[d]`.

    None without experts' log-probabilities for every set of the objective. MDE losses are those of
    the coreset.
    """
    observations = fitted.observations
    if fitted.experts is None or observations.block is None or fitted.is_unlike:
        return None
    w, outputs = fitted.overall[0], list(observations.outputs)
    table = fitted.experts.coreset.table().of_first(len(observations.domains))
    if not {outputs[i] for i in np.flatnonzero(w)} <= set(table.sets):
        return None
    weights = np.array([w[outputs.index(s)] if s in outputs else 0.0 for s in table.sets])

    def mde(rates: Array) -> Array:
        found: Array = table.losses(np.ascontiguousarray(rates)) @ weights
        return found

    block = observations.block
    alone = best.copy()
    alone[block] = minimise(table, weights, fitted.region, block)
    alone = fitted.region.snap(alone)[0]
    drawn = sample(fitted.region, DRAWN, np.random.default_rng(0))
    mean, sd = difference(fitted, best, alone, fitted.overall)
    predicted, _ = fitted.looking_at(DRAWN).goals(drawn, fitted.overall)
    runs = observations.mixed
    observed = observations.Y[runs][:, w != 0.0] @ w[w != 0.0]
    told, observed = mde(observations.X[runs][:, block]), np.asarray(observed)
    known = np.isfinite(observed)
    enough = known.sum() >= _FEWEST
    errors = (told - observed)[known]
    decoded, groups = fitted.space.decode(alone), fitted.space.groups
    parts = [name for group in groups for name in group.names]
    return MdeAlone(
        mixture={name.removeprefix(groups[0].prefix): decoded[name] for name in parts},
        loss=float(mde(alone[None, block])[0]),
        cost=interval(float(mean[0]), float(sd[0])),
        followed=float(np.corrcoef(predicted[:, 0], mde(drawn[:, block]))[0, 1] ** 2),
        spearman=rank_correlation(told[known], observed[known]) if enough else None,
        error=float(np.sqrt(np.mean(errors**2))) if enough else None,
        bias=float(errors.mean()) if enough else None,
    )
