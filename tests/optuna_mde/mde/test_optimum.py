"""The convex optimum of the MDE losses."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from optuna_mde.mde.coreset import Coreset
from optuna_mde.mde.experts import ExpertTable
from optuna_mde.mde.optimum import minimise
from optuna_mde.simplex.region import Region

BLOCK = slice(0, 4)


def region(upper: float = 1.0, **options) -> Region:
    return Region(np.zeros(4), np.full(4, upper), (BLOCK,), **options)


@pytest.mark.parametrize("weights", [[1, 1, 1, 1, 1], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1]])
def test_no_duality_gap_is_left(world, weights: list[float]) -> None:
    w = np.array(weights, dtype=float) / sum(weights)
    rates = minimise(world.table, w, region(), BLOCK)
    gradient = w @ world.table.gradients(rates)
    # Frank-Wolfe's gap bounds the distance to the optimum of a convex function.
    assert gradient @ rates - gradient.min() < 1e-6
    assert rates.sum() == pytest.approx(1.0, abs=1e-12)


def test_caps_bind_as_they_should(world) -> None:
    w = np.full(5, 0.2)
    rates = minimise(world.table, w, region(0.3), BLOCK)
    reference = minimize(
        lambda x: float(w @ world.table.losses(x)),
        np.full(4, 0.25),
        bounds=[(0.0, 0.3)] * 4,
        constraints=[{"type": "eq", "fun": lambda x: x.sum() - 1.0}],
        method="trust-constr",
        options={"gtol": 1e-10, "xtol": 1e-12, "maxiter": 3000},
    )
    assert rates.max() <= 0.3
    assert w @ world.table.losses(rates) <= reference.fun + 1e-6


def test_linear_constraints_are_kept(world) -> None:
    linear = region(A=np.array([[1.0, -3.0, 0.0, 0.0]]), b=np.zeros(1))
    rates = minimise(world.table, np.full(5, 0.2), linear, BLOCK)
    assert linear.contains(rates)


def test_a_coresets_optimum_is_as_good_as_its_losses() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(-3.0, 2.0, 40_000)
    experts = {
        f"d{j}": {s: np.minimum(base + rng.normal(0.2 * j, 1.0, len(base)), -1e-3) for s in "ab"}
        for j in range(4)
    }
    table = ExpertTable(list(experts), experts)
    coreset = Coreset(table)
    w = np.array([0.5, 0.5])
    exact = minimise(table, w, region(), BLOCK)
    rough = minimise(coreset.table(), w, region(), BLOCK)
    excess = w @ (table.losses(rough) - table.losses(exact))
    assert 0.0 <= excess + 1e-9 < coreset.rms_error.max() / 2
