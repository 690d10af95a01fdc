"""The mixture with the lowest weighted MDE loss: a convex problem."""

from __future__ import annotations

import numpy as np

from optuna_mde.mde.experts import ExpertTable
from optuna_mde.simplex.projection import Array
from optuna_mde.simplex.region import Region

MIXTURES = 300  # losses and gradients that a minimum takes, all counted as losses
_STEPS = 50
_TOLERANCE = 1e-7  # nats per token, on the duality gap


def minimise(table: ExpertTable, weights: Array, region: Region, block: slice) -> Array:
    """Minimise ``Σ_i w_i L_i(λ)`` over the region's mixtures.

    The multiplicative step of expectation maximisation ``λ_j ← λ_j · mean_t p_j / p_MDE``
    decreases the loss for certain, but ends slowly; SLSQP finishes, and meets the bounds and
    linear constraints.

    Args:
        table: the experts' table, or that of a coreset.
        weights: `[M]` weights of the table's sets.
        region: bounds and constraints.
        block: the mixture's columns of the region.

    Returns:
        `[K]` rates. The loss is within 1e-6 nats per token of the table's optimum.
    """
    weights = np.asarray(weights, dtype=float) / np.sum(weights)
    K = block.stop - block.start
    rates = np.full(K, 1.0 / K)
    for _ in range(_STEPS):
        gradient = weights @ table.gradients(rates)
        # Frank-Wolfe's gap bounds the distance to the optimum: the loss is convex.
        if float(gradient @ rates - gradient.min()) < _TOLERANCE:
            break
        rates = rates * -gradient
        rates /= rates.sum()
    return _finish(table, weights, region, block, rates)


def _finish(
    table: ExpertTable, weights: Array, region: Region, block: slice, start: Array
) -> Array:
    from scipy.optimize import minimize

    def snap(rates: Array) -> Array:
        x = region.center.copy()
        x[block] = rates
        snapped: Array = region.snap(x)[0][block]
        return snapped

    rows = np.flatnonzero((region.A[:, block] != 0).any(axis=1))
    A, b = region.A[rows][:, block], region.b[rows]
    constraints = [
        {"type": "eq", "fun": lambda x: x.sum() - 1.0, "jac": lambda x: np.ones_like(x)}
    ]
    if len(b):
        constraints.append({"type": "ineq", "fun": lambda x: A @ x - b, "jac": lambda x: A})
    result = minimize(
        lambda x: float(weights @ table.losses(np.clip(x, 0.0, 1.0))),
        snap(start),
        jac=lambda x: weights @ table.gradients(np.clip(x, 0.0, 1.0)),
        method="SLSQP",
        bounds=list(zip(region.lower[block], region.upper[block], strict=True)),
        constraints=constraints,
        options={"ftol": 1e-12, "maxiter": 200},
    )
    ends = [snap(x) for x in (result.x, start) if np.isfinite(x).all()]
    # A share of 1e-6 is what an optimiser leaves of a zero, and worth less than the tolerance.
    tidied = [snap(np.where(x < 1e-6, 0.0, x)) for x in ends]
    return min(tidied, key=lambda x: float(weights @ table.losses(x)))
