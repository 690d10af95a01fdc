"""Maximising over a region: optima that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from botorch.acquisition.acquisition import AcquisitionFunction

from optuna_mde.acquisition.polish import candidates, maximise
from optuna_mde.simplex.region import Region


class Bowl(AcquisitionFunction):
    """-|x - target|², maximal at the point of the region next to the target."""

    def __init__(self, target: list[float]) -> None:
        torch.nn.Module.__init__(self)
        self.target = torch.tensor(target, dtype=torch.float64)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        return -(X.squeeze(-2) - self.target).square().sum(dim=-1)


def mixture_region(K: int, **options) -> Region:
    upper = options.pop("upper", np.ones(K))
    return Region(np.zeros(K), np.asarray(upper, dtype=float), (slice(0, K),), **options)


def best(target: list[float], region: Region, seed: int = 0) -> np.ndarray:
    anchors = region.center[None]
    points, values = maximise(Bowl(target), region, anchors, np.random.default_rng(seed))
    assert all(region.contains(p) for p in points)
    assert (np.diff(values) <= 0).all()
    return points[0]


@pytest.mark.parametrize("K", [2, 7, 24])
def test_interior_optimum(K: int) -> None:
    target = np.random.default_rng(K).dirichlet(np.full(K, 5.0))
    np.testing.assert_allclose(best(target.tolist(), mixture_region(K)), target, atol=4e-3)


def test_a_face_is_reached_with_exact_zeros() -> None:
    x = best([0.7, 0.4, -0.3, -0.2], mixture_region(4))
    np.testing.assert_allclose(x, [0.65, 0.35, 0.0, 0.0], atol=1e-3)
    assert x[2] == 0.0
    assert x[3] == 0.0
    assert abs(x.sum() - 1.0) <= 1e-12


def test_zeros_survive_the_projection() -> None:
    """Projecting a point whose shares add up to 1 - 1e-16 lifts its zeros by as much."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        target = np.where(np.arange(7) < 3, rng.dirichlet(np.full(7, 3.0)) + 0.3, -0.3)
        x = best(target.tolist(), mixture_region(7), seed)
        np.testing.assert_array_equal(x[3:], 0.0)


def test_caps_and_linear_constraints_are_kept() -> None:
    capped = mixture_region(4, upper=[0.4, 0.4, 1.0, 1.0])
    np.testing.assert_allclose(best([1.0, 0.0, 0.0, 0.0], capped)[0], 0.4, atol=1e-9)
    # part 0 at least twice part 1
    linear = mixture_region(3, A=np.array([[1.0, -2.0, 0.0]]), b=np.zeros(1))
    x = best([0.0, 1.0, 0.0], linear)
    assert x[0] >= 2 * x[1] - 1e-9
    np.testing.assert_allclose(x, [4 / 7, 2 / 7, 1 / 7], atol=0.15)


def test_steps_and_categories_beside_a_mixture() -> None:
    region = Region(
        np.zeros(6),
        np.ones(6),
        (slice(0, 2),),
        grids={2: np.array([0.0, 0.5, 1.0])},
        one_hots=(slice(3, 6),),
    )
    x = best([0.3, 0.7, 0.6, 0.1, 0.8, 0.1], region)
    np.testing.assert_allclose(x, [0.3, 0.7, 0.5, 0.0, 1.0, 0.0], atol=4e-3)


def test_candidates_cover_faces_corners_and_anchors() -> None:
    region = mixture_region(4)
    anchor = np.array([[0.5, 0.3, 0.2, 0.0]])
    pool = candidates(region, anchor, 400, np.random.default_rng(0))
    assert all(region.contains(x) for x in pool)
    for corner in np.eye(4):
        assert (np.abs(pool - corner).sum(axis=1) < 1e-9).any()
    assert (np.abs(pool - anchor).sum(axis=1) < 0.2).sum() > 20
    assert ((pool == 0).any(axis=1)).mean() > 0.1


def test_a_failing_acquisition_gradient_leaves_the_candidates() -> None:
    class Kinked(Bowl):
        def forward(self, X: torch.Tensor) -> torch.Tensor:
            if X.requires_grad:
                raise RuntimeError("no gradient")
            return super().forward(X)

    region = mixture_region(3)
    points, _ = maximise(
        Kinked([0.2, 0.3, 0.5]), region, region.center[None], np.random.default_rng(0)
    )
    np.testing.assert_allclose(points[0], [0.2, 0.3, 0.5], atol=0.05)
