"""Climbing against optima that are known, and against SLSQP."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from botorch.acquisition.acquisition import AcquisitionFunction
from scipy.optimize import minimize

from optuna_mde.acquisition.ascent import ROUNDS, ascend
from optuna_mde.simplex.region import Region, sample


class Quadratic(AcquisitionFunction):
    """-(x - target)' H (x - target) / 2, with a count of its evaluations."""

    def __init__(self, target: np.ndarray, curvature: np.ndarray) -> None:
        torch.nn.Module.__init__(self)
        self.target, self.curvature = torch.from_numpy(target), torch.from_numpy(curvature)
        self.calls = 0

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        away = X.squeeze(-2) - self.target
        return -0.5 * ((away @ self.curvature) * away).sum(dim=-1)


def mixture(K: int, upper: float = 1.0, **options) -> Region:
    return Region(np.zeros(K), np.full(K, upper), (slice(0, K),), **options)


def quadratic(K: int, seed: int, spread: float = 1.5) -> Quadratic:
    """Curvatures over ``spread`` orders of magnitude; the optimum lies on a face."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(K, K)))
    curvature = basis @ np.diag(10.0 ** rng.uniform(0.0, spread, K)) @ basis.T
    return Quadratic(rng.dirichlet(np.ones(K)) + rng.normal(0.0, 0.3, K), curvature)


def by_slsqp(acquisition: Quadratic, region: Region) -> float:
    target, H = acquisition.target.numpy(), acquisition.curvature.numpy()
    constraints = [{"type": "eq", "fun": lambda x: x.sum() - 1.0}]
    if len(region.b):
        constraints.append({"type": "ineq", "fun": lambda x: region.A @ x - region.b})
    result = minimize(
        lambda x: 0.5 * (x - target) @ H @ (x - target),
        region.center,
        jac=lambda x: H @ (x - target),
        bounds=list(zip(region.lower, region.upper, strict=True)),
        constraints=constraints,
        method="SLSQP",
        options={"ftol": 1e-13, "maxiter": 500},
    )
    return -float(result.fun)


@pytest.mark.parametrize("K", [2, 7, 24])
@pytest.mark.parametrize("kind", ["plain", "capped", "linear"])
def test_every_start_ends_at_the_optimum_of_a_concave_function(K: int, kind: str) -> None:
    if kind == "linear":
        A = np.zeros((2, K))
        A[0, :2] = 1.0, -2.0  # part 0 at least twice part 1
        A[1, 1] = 1.0  # part 1 at least a tenth
        region = mixture(K, A=A, b=np.array([0.0, 0.1]))
    else:
        region = mixture(K, 1.5 / K if kind == "capped" else 1.0)
    for seed in range(3):
        acquisition = quadratic(K, seed)
        starts = sample(region, 6, np.random.default_rng(seed))
        points, values = ascend(acquisition, region, starts)
        assert acquisition.calls <= ROUNDS + 1
        assert all(region.contains(x) for x in points)
        np.testing.assert_allclose(values, by_slsqp(acquisition, region), atol=2e-4)


def test_zeros_are_exact() -> None:
    acquisition = Quadratic(np.array([0.7, 0.4, -0.3, -0.2]), np.eye(4))
    points, _ = ascend(acquisition, mixture(4), np.full((1, 4), 0.25))
    np.testing.assert_allclose(points[0], [0.65, 0.35, 0.0, 0.0], atol=1e-6)
    assert (points[0, 2:] == 0.0).all()
    assert points[0].sum() == 1.0


def test_other_parameters_have_their_own_scale() -> None:
    """A parameter that matters a thousand times more, and one that matters less."""
    region = Region(np.zeros(6), np.ones(6), (slice(0, 4),))
    target = np.array([0.4, 0.3, 0.2, 0.1, 0.3, 0.8])
    acquisition = Quadratic(target, np.diag([1.0, 1.0, 1.0, 1.0, 1e3, 1e-1]))
    points, _ = ascend(acquisition, region, sample(region, 4, np.random.default_rng(0)))
    np.testing.assert_allclose(points, np.tile(target, (4, 1)), atol=2e-2)


def test_discrete_and_fixed_columns_stay() -> None:
    region = Region(
        np.array([0.0, 0.0, 0.2, 0.0, 0.0, 0.0]),
        np.array([1.0, 1.0, 0.2, 1.0, 1.0, 1.0]),
        (slice(0, 3),),
        grids={3: np.array([0.0, 0.5, 1.0])},
        one_hots=(slice(4, 6),),
    )
    acquisition = Quadratic(np.array([0.1, 0.7, 0.9, 0.1, 0.0, 0.0]), np.eye(6))
    start = np.array([[0.5, 0.3, 0.2, 0.5, 0.0, 1.0]])
    points, _ = ascend(acquisition, region, start)
    np.testing.assert_allclose(points[0], [0.1, 0.7, 0.2, 0.5, 0.0, 1.0], atol=1e-6)
    np.testing.assert_array_equal(points[0, 2:], start[0, 2:])


def test_a_region_without_anything_to_move_gives_the_starts_back() -> None:
    region = Region(np.array([0.3, 0.7]), np.array([0.3, 0.7]), (slice(0, 2),))
    acquisition = Quadratic(np.array([1.0, 0.0]), np.eye(2))
    points, values = ascend(acquisition, region, np.array([[0.3, 0.7]]))
    np.testing.assert_array_equal(points, [[0.3, 0.7]])
    assert values[0] == pytest.approx(-0.49)


def test_a_point_without_a_value_is_left() -> None:
    class Broken(Quadratic):
        def forward(self, X: torch.Tensor) -> torch.Tensor:
            return super().forward(X) + torch.where(X[:, 0, 0] > 0.6, torch.nan, 0.0)

    acquisition = Broken(np.array([0.9, 0.1, 0.0]), np.eye(3))
    starts = np.array([[0.1, 0.4, 0.5], [0.8, 0.1, 0.1]])
    points, values = ascend(acquisition, mixture(3), starts)
    assert points[0, 0] <= 0.6
    assert values[0] > -0.5 * np.square(starts[0] - [0.9, 0.1, 0.0]).sum()
    assert values[1] == -np.inf
