"""Few weights that meet many equations, beside scipy's exact non-negative least squares."""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls

from optuna_mde.mde.sparse_weights import sparse_weights


def rms(columns: np.ndarray, target: np.ndarray, kept: np.ndarray, weights: np.ndarray) -> float:
    return float(np.sqrt(np.mean((target - weights @ columns[kept]) ** 2)))


def test_fewer_weights_than_an_exact_solution_has() -> None:
    rng = np.random.default_rng(0)
    smooth = rng.normal(size=(1000, 30)) @ (rng.normal(size=(30, 120)) * 0.8 ** np.arange(120))
    columns = smooth + 0.001 * rng.normal(size=smooth.shape)
    target = columns.mean(axis=0)
    kept, weights = sparse_weights(columns, target, tolerance=0.01)
    exact, _ = nnls(columns.T, target)
    assert rms(columns, target, kept, weights) <= 0.01
    assert len(kept) < 0.5 * np.count_nonzero(exact)
    assert (weights > 0).all()
    assert len(set(kept.tolist())) == len(kept)


def test_where_the_target_is_out_of_reach_the_error_is_the_least_one() -> None:
    rng = np.random.default_rng(1)
    columns, target = rng.random((40, 60)), rng.normal(size=60)
    kept, weights = sparse_weights(columns, target, tolerance=1e-9)
    _, least = nnls(columns.T, target)
    found = rms(columns, target, kept, weights)
    np.testing.assert_allclose(found, least / np.sqrt(60), rtol=1e-6)


def test_equal_columns_do_no_harm() -> None:
    rng = np.random.default_rng(2)
    columns = np.repeat(rng.random((300, 200)), 2, axis=0)
    target = columns.mean(axis=0)
    kept, weights = sparse_weights(columns, target, tolerance=1e-4)
    assert rms(columns, target, kept, weights) <= 1e-4


def test_nothing_helps() -> None:
    kept, weights = sparse_weights(np.ones((5, 3)), -np.ones(3), tolerance=0.0)
    assert len(kept) == len(weights) == 0
