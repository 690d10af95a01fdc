from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import linprog, minimize

from optuna_mde.simplex.projection import (
    MixtureError,
    binding,
    check_bounds,
    corner,
    fix_parts,
    project,
    uniform,
)
from optuna_mde.simplex.region import Region, design, sample


def bounds(k: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    lower = rng.random(k) * 0.8 / k
    upper = np.minimum(1.0, lower + rng.random(k) * 3 / k + 0.3 / k)
    return lower, np.minimum(1.0, upper + max(0.0, 1.01 - upper.sum()) / k)


def block_region(k: int, cap: float, A: np.ndarray, b: np.ndarray) -> Region:
    return Region(np.zeros(k), np.full(k, cap), (slice(0, k),), A=A, b=b)


@pytest.mark.parametrize("k", [2, 3, 7, 64])
def test_projection_is_that_of_bisection(k: int) -> None:
    rng = np.random.default_rng(k)
    for _ in range(20):
        lower, upper = bounds(k, rng)
        points = rng.normal(scale=rng.choice([0.1, 1.0, 1e3]), size=(4, k))
        projected = project(points, lower, upper)
        assert np.abs(projected.sum(axis=1) - 1.0).max() < 1e-12
        assert (projected >= lower).all()
        assert (projected <= upper).all()
        for p, x in zip(points, projected, strict=True):
            low, high = -1e5, 1e5
            for _ in range(200):
                middle = (low + high) / 2
                above = np.clip(p - middle, lower, upper).sum() > 1.0
                low, high = (middle, high) if above else (low, middle)
            assert np.clip(p - low, lower, upper) == pytest.approx(x, abs=1e-10)


def test_projection_of_an_allowed_point_is_itself() -> None:
    x = np.random.default_rng(0).dirichlet(np.ones(5), size=50)
    assert project(x, np.zeros(5), np.ones(5)) == pytest.approx(x, abs=1e-15)
    assert project(corner(5, 2), np.zeros(5), np.ones(5)).tolist() == corner(5, 2).tolist()


def test_projection_on_caps_that_leave_one_point() -> None:
    caps = np.array([0.2, 0.3, 0.5])
    assert project(np.array([9.0, 0.0, 0.0]), np.zeros(3), caps) == pytest.approx(caps)


def test_constraints_are_projected_on_exactly() -> None:
    rng = np.random.default_rng(0)
    k = 7
    A = np.zeros((2, k))
    A[0, :2], A[1, [0, 2]] = (1.0, -2.0), (0.5, -1.0)
    region = block_region(k, 0.5, A, np.array([0.0, -0.1]))
    for x in rng.dirichlet(np.full(k, 0.3), size=10):
        snapped = region.snap(x)[0]
        assert region.contains(snapped, tol=1e-12)
        assert (A @ snapped >= region.b).all()
        best = minimize(
            lambda z, x=x: ((z - x) ** 2).sum(),
            region.center,
            bounds=[(0, 0.5)] * k,
            constraints=[
                {"type": "eq", "fun": lambda z: z.sum() - 1},
                {"type": "ineq", "fun": lambda z: A @ z - region.b},
            ],
            options={"ftol": 1e-14, "maxiter": 300},
        )
        assert ((snapped - x) ** 2).sum() <= best.fun + 1e-7


def test_samples_fill_a_constrained_region() -> None:
    A, b = np.array([[1.0, -2.0, 0.0, 0.0]]), np.zeros(1)
    region = block_region(4, 0.6, A, b)
    X = sample(region, 500, np.random.default_rng(0))
    assert all(region.contains(x) for x in X)
    assert (X @ A[0] > 1e-3).mean() > 0.9  # not on the constraint's face
    assert len(np.unique(X.round(6), axis=0)) == 500


def test_contradicting_constraints_are_refused() -> None:
    region = block_region(3, 1.0, np.array([[1.0, 1.0, 0.0]]), np.array([1.5]))
    with pytest.raises(MixtureError, match="exclude every mixture"):
        _ = region.center


def test_constraints_that_act_as_an_equation() -> None:
    A = np.array([[1.0, -2.0, 0.0], [-1.0, 2.0, 0.0]])
    region = block_region(3, 1.0, A, np.zeros(2))
    for x in sample(region, 20, np.random.default_rng(0)):
        assert x[0] == pytest.approx(2 * x[1], abs=1e-9)
        assert region.contains(x)


def test_design_is_uniform_on_the_simplex_and_stateless() -> None:
    region = Region(np.zeros(4), np.ones(4), (slice(0, 3),))
    X = np.array([design(region, 3, i) for i in range(256)])
    assert design(region, 3, 17).tolist() == X[17].tolist()
    assert design(region, 4, 17).tolist() != X[17].tolist()
    # a part of a flat Dirichlet over three is Beta(1, 2)
    for j in range(3):
        assert stats.kstest(X[:, j], stats.beta(1, 2).cdf).statistic < 0.05
    assert stats.kstest(X[:, 3], stats.uniform.cdf).statistic < 0.05


def test_grids_and_choices_are_equally_likely() -> None:
    region = Region(
        np.zeros(4),
        np.ones(4),
        grids={0: np.linspace(0, 1, 5)},
        one_hots=(slice(1, 4),),
    )
    X = sample(region, 4000, np.random.default_rng(0))
    assert all(region.contains(x) for x in X[:50])
    assert np.bincount((X[:, 0] * 4).round().astype(int)) / 4000 == pytest.approx(0.2, abs=0.03)
    assert X[:, 1:].mean(axis=0) == pytest.approx(1 / 3, abs=0.03)


def test_contains_sees_every_kind_of_violation() -> None:
    region = Region(
        np.zeros(6),
        np.array([0.6, 1.0, 1.0, 1.0, 1.0, 1.0]),
        (slice(0, 2),),
        {2: np.array([0.0, 0.5, 1.0])},
        (slice(3, 5),),
        np.array([[1.0, -1.0, 0, 0, 0, 0]]),
        np.array([-0.5]),
    )
    good = np.array([0.5, 0.5, 0.5, 1.0, 0.0, 0.3])
    assert region.contains(good)
    for j, value in [(0, 0.7), (2, 0.4), (3, 0.5), (5, 1.2), (5, np.nan)]:
        bad = good.copy()
        bad[j] = value
        assert not region.contains(bad)
        assert region.contains(region.snap(bad)[0])
    assert not region.contains([0.2, 0.8, 0.5, 1.0, 0.0, 0.3])  # the linear constraint


@pytest.mark.parametrize(
    ("fixed", "expected"),
    [
        ({0: 0.4}, ([0.4, 0.0, 0.0], [0.4, 1.0, 1.0])),
        ({0: 0.9, 1: 0.9}, ([0.5, 0.5, 0.0], [0.5, 0.5, 1.0])),
        ({0: 0.2, 1: 0.2, 2: 0.2}, ([1 / 3] * 3, [1 / 3] * 3)),
        ({0: -1.0}, ([0.0, 0.0, 0.0], [0.0, 1.0, 1.0])),
    ],
)
def test_fixed_parts_leave_room_for_the_others(
    fixed: dict[int, float], expected: tuple[list[float], list[float]]
) -> None:
    lower, upper = fix_parts(np.zeros(3), np.ones(3), fixed)
    assert lower == pytest.approx(expected[0])
    assert upper == pytest.approx(expected[1])
    assert lower.sum() <= 1 <= upper.sum()


def test_fixed_parts_win_over_bounds_of_the_others() -> None:
    lower, upper = fix_parts(np.array([0.0, 0.4, 0.0]), np.array([1.0, 0.5, 0.1]), {0: 0.8})
    assert lower.tolist() == [0.8, 0.0, 0.0]
    assert uniform(lower, upper).sum() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("lower", "upper", "message"),
    [
        ([0.0, 0.0], [0.4, 0.5], r"0.4 \(web\) \+ 0.5 \(code\) = 0.9 < 1"),
        ([0.7, 0.6], [1.0, 1.0], r"0.7 \(web\) \+ 0.6 \(code\) = 1.3 > 1"),
        ([0.5, 0.0], [0.4, 1.0], r"'web' are \(0.5, 0.4\)"),
        ([0.0, 0.0], [float("nan"), 1.0], "'web'"),
    ],
)
def test_impossible_bounds_are_refused_with_the_arithmetic(
    lower: list[float], upper: list[float], message: str
) -> None:
    with pytest.raises(MixtureError, match=message):
        check_bounds(["web", "code"], lower, upper)


def test_points_that_are_there_stay_to_the_last_bit() -> None:
    points = np.array([[0.6, 0.3, 0.1], [1.0, 0.0, 0.0], [0.1, 0.2, 0.7]])
    assert np.array_equal(project(points, np.zeros(3), np.ones(3)), points)


def test_parts_without_room_are_exact_zeros() -> None:
    """Rounding of the others must leave nothing on them, nor take anything from them."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        k = int(rng.integers(3, 10))
        values = rng.dirichlet(np.ones(k)) * 3
        kept = {j: float(values[j]) for j in range(k) if values[j] > 0.2}
        if sum(kept.values()) <= 1.0:
            continue
        lower, upper = fix_parts(np.zeros(k), np.ones(k), kept)
        x = project(rng.random(k), lower, upper)
        free = [j for j in range(k) if j not in kept]
        assert (x[free] == 0.0).all()
        assert abs(x.sum() - 1.0) < 1e-12


@pytest.mark.parametrize("value", [np.inf, 1e300, -np.inf, np.nan])
def test_fixed_parts_may_be_anything(value: float) -> None:
    lower, upper = fix_parts(np.zeros(3), np.ones(3), {0: value, 1: 0.5})
    x = project(np.zeros(3), lower, upper)
    assert x.min() >= 0.0
    assert x.sum() == pytest.approx(1.0, abs=1e-12)


def test_constraints_that_bind_are_those_that_a_vertex_breaks() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        k = int(rng.integers(2, 6))
        lower, upper = bounds(k, rng)
        A, b = rng.normal(size=(6, k)), rng.normal(size=6)
        box = [*zip(lower, upper, strict=True)]
        least = [linprog(a, A_eq=np.ones((1, k)), b_eq=1, bounds=box).fun for a in A]
        kept, rhs = binding(A, b, lower, upper)
        expected = np.array(least) < b
        sizes = np.maximum(np.abs(A).max(axis=1), np.abs(b))
        np.testing.assert_allclose(kept, (A / sizes[:, None])[expected])
        np.testing.assert_allclose(rhs, (b / sizes)[expected])
