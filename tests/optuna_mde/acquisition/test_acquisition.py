"""Acquisitions against BoTorch's own, and what they must prefer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from optuna_mde.acquisition.factory import build
from optuna_mde.acquisition.goals import Limits
from optuna_mde.acquisition.many_goals import (
    ChebyshevImprovement,
    HypervolumeImprovement,
    reference_point,
)
from optuna_mde.acquisition.one_goal import LogKnowledgeGradient, log_improvement
from optuna_mde.gp.features import Features
from optuna_mde.gp.fitting import fit
from optuna_mde.gp.surrogate import Runs, Surrogate


@pytest.fixture
def surrogate() -> Surrogate:
    """Two outputs over a mixture of three parts, that pull apart."""
    X = np.random.default_rng(0).dirichlet(np.ones(3), 12)
    Y = np.stack([(X[:, 0] - 0.8) ** 2, (X[:, 1] - 0.8) ** 2], axis=1)
    runs = Runs(torch.from_numpy(X), torch.from_numpy(Y), torch.zeros(12, dtype=torch.bool))
    return fit(Features(3, [slice(0, 3)], ("a", "b")), runs)


def points(n: int, seed: int = 5) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).dirichlet(np.ones(3), n))


@pytest.mark.parametrize("z", [-2000.0, -30.0, -8.0, -2.0, -1.0, -0.5, 0.0, 1.0, 6.0])
def test_log_improvement_is_the_integral(z: float) -> None:
    value = log_improvement(torch.tensor(z, dtype=torch.float64)).item()
    if z > -10:
        expected = math.log(quad(lambda t: (z - t) * norm.pdf(t), z - 30.0, z, epsabs=0.0)[0])
        assert value == pytest.approx(expected, rel=1e-6)
    else:  # asymptotic series of φ(z)/z² (1 - 3/z²)
        expected = norm.logpdf(z) - 2 * math.log(-z) + math.log1p(-3 / z**2)
        assert value == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("noisy", [True, False])
@pytest.mark.parametrize("weights", [[1.0, 0.0], [0.0, 2.0]])
def test_knowledge_gradient_is_what_a_run_improves_the_best_mean_by(
    surrogate: Surrogate, weights: list[float], noisy: bool
) -> None:
    """Simulated runs at candidates, told to the joint posterior of candidate and incumbent."""
    W = torch.tensor([weights], dtype=torch.float64)
    seen = surrogate.runs.X
    incumbent = seen[(surrogate.means(seen) @ W.mT)[:, 0].argmin()]
    X = points(12)
    pairs = torch.stack([X, incumbent.expand_as(X)], dim=1)
    mean, covariance = surrogate.joint_goals(pairs, W)  # [b, 2, 1], [b, 1, 2, 2]
    noise = float(surrogate.noise_sd @ W[0]) if noisy else 0.0  # of the one set that counts
    draws = np.random.default_rng(0).standard_normal(400_000)
    expected = []
    for (here, there), c in zip(mean[..., 0].numpy(), covariance[:, 0].numpy(), strict=True):
        told = (c[0, 0] + noise**2) ** 0.5
        surprise = told * draws  # of the run's loss
        moved = [m + c[i, 0] / told**2 * surprise for i, m in enumerate((here, there))]
        expected.append(np.maximum(moved[1] - moved[0], 0.0).mean())
    acquisition = LogKnowledgeGradient(surrogate, W, Limits([]), seen, noisy=noisy)
    found = acquisition(X.unsqueeze(-2)).exp().numpy()
    np.testing.assert_allclose(found, expected, rtol=0.05, atol=1e-5)


def test_beside_the_incumbent_there_is_nothing_to_gain(surrogate: Surrogate) -> None:
    W = torch.tensor([[0.3, 0.7]], dtype=torch.float64)
    acquisition = LogKnowledgeGradient(surrogate, W, Limits([]), surrogate.runs.X)
    assert acquisition.incumbent is not None
    beside = acquisition.incumbent + torch.tensor([1e-3, -1e-3, 0.0], dtype=torch.float64)
    _, sd = surrogate.goals(beside.unsqueeze(0), W)
    assert acquisition(beside[None, None]).exp() < 0.1 * sd


def test_a_limit_keeps_the_search_where_it_is_met(surrogate: Surrogate) -> None:
    W = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    X = points(400)
    free = build(surrogate, W, [], surrogate.runs.X, seed=0)
    limited = build(surrogate, W, [(1, 0.2)], surrogate.runs.X, seed=0)
    best = X[free(X.unsqueeze(-2)).argmax()]
    allowed = X[limited(X.unsqueeze(-2)).argmax()]
    assert (best[1] - 0.8) ** 2 > 0.2
    assert (allowed[1] - 0.8) ** 2 < 0.25


def losses(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_limits_are_kept_with_the_chance_that_all_of_them_are() -> None:
    """Outputs taken as independent, each by its own mean and sd."""
    limits = Limits([(2, 1.0), (0, 3.0)])
    mean, sd = losses([2.9, 0.0, 1.2], [3.1, 9.0, 0.9]), losses([0.1, 1.0, 0.4], [0.2, 1.0, 0.1])
    chances = norm.cdf([(1.0 - 1.2) / 0.4, 1.0]) * norm.cdf([(3.0 - 2.9) / 0.1, -0.5])
    found = limits.log_probability(mean, sd).exp().numpy()
    assert found == pytest.approx(chances)
    assert Limits([]).log_probability(mean, sd).tolist() == [0.0, 0.0]


def test_an_excess_is_counted_in_units_of_each_output() -> None:
    """The sum of what is above a limit; what is below another one pays for nothing."""
    limits = Limits([(2, 1.0), (0, 3.0)])
    values = losses([4.0, 0.0, 2.0], [4.0, 0.0, 0.0], [2.0, 0.0, 0.0])
    scale = torch.tensor([2.0, 1.0, 0.1], dtype=torch.float64)
    expected = [1.0 / 2.0 + 1.0 / 0.1, 1.0 / 2.0, 0.0]
    assert limits.excess(values, scale).numpy() == pytest.approx(expected, abs=2e-3)
    assert (limits.excess(values, scale) >= torch.tensor(expected) - 1e-9).all()


def test_an_excess_leads_back_to_the_limit() -> None:
    """Its gradient is 1 above, 0 below, and changes within a hundredth of a unit."""
    limits, scale = Limits([(0, 3.0)]), torch.ones(1, dtype=torch.float64)
    X = losses([2.99], [3.0], [3.01]).requires_grad_(True)
    (slopes,) = torch.autograd.grad(limits.excess(X, scale).sum(), X)
    assert slopes[:, 0].tolist() == pytest.approx([0.0, 0.5, 1.0], abs=1e-4)


def test_limits_are_kept_if_every_mean_is_at_most_the_limit() -> None:
    limits = Limits([(2, 1.0), (0, 3.0)])
    means = losses([3.0, 9.0, 1.0], [3.1, 0.0, 0.0], [0.0, 0.0, 1.1])
    assert limits.kept(means).tolist() == [True, False, False]
    assert Limits([]).kept(means).tolist() == [True, True, True]


def test_without_an_allowed_incumbent_the_allowed_region_is_sought(surrogate: Surrogate) -> None:
    W = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    far = surrogate.runs.X[surrogate.runs.Y[:, 1] > 0.3]
    acquisition = build(surrogate, W, [(1, 0.05)], far, seed=0)
    X = points(300)
    chosen = X[acquisition(X.unsqueeze(-2)).argmax()]
    assert (chosen[1] - 0.8) ** 2 < 0.1


def test_hypervolume_improvement_fills_the_gap_of_the_front(surrogate: Surrogate) -> None:
    W = torch.eye(2, dtype=torch.float64)
    ends = torch.tensor([[0.8, 0.2, 0.0], [0.2, 0.8, 0.0]], dtype=torch.float64)
    acquisition = build(surrogate, W, [], ends, seed=0)
    assert isinstance(acquisition, HypervolumeImprovement)
    between = torch.tensor([[[0.5, 0.5, 0.0]], [[0.0, 0.0, 1.0]]], dtype=torch.float64)
    values = acquisition(between)
    assert values[0] > values[1]
    assert acquisition.inner.X_baseline.shape[-1] == 3


def test_many_goals_are_scalarised_and_repeatable(surrogate: Surrogate) -> None:
    W = torch.rand(5, 2, generator=torch.Generator().manual_seed(0)).double()
    W = W / W.sum(dim=1, keepdim=True)
    X = points(30).unsqueeze(-2)
    first, again, other = (build(surrogate, W, [], surrogate.runs.X, seed=s)(X) for s in (1, 1, 2))
    assert isinstance(build(surrogate, W, [], surrogate.runs.X, seed=1), ChebyshevImprovement)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.isfinite().all()


@pytest.mark.parametrize("goals", [1, 2, 5])
def test_no_acquisition_draws_from_torchs_global_generator(
    surrogate: Surrogate, goals: int
) -> None:
    W = torch.rand(goals, 2, generator=torch.Generator().manual_seed(0)).double()
    X = points(20).unsqueeze(-2)
    values = []
    for state in (1, 2):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        values.append(build(surrogate, W, [], surrogate.runs.X, seed=3)(X))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*values)


def test_points_that_are_on_no_front_are_left_out(surrogate: Surrogate) -> None:
    """They cost a box decomposition each, and no improvement is measured against them."""
    seen, W = surrogate.runs.X, torch.eye(2, dtype=torch.float64)
    acquisition = build(surrogate, W, [], seen, seed=0)
    kept = acquisition.inner.X_baseline
    mean = surrogate.means(seen)
    front = (mean.unsqueeze(0) <= mean.unsqueeze(1)).all(dim=-1).sum(dim=1) == 1
    assert 0 < len(kept) < len(seen)
    assert all(bool((kept == x).all(dim=-1).any()) for x in seen[front])


def test_the_reference_point_lies_behind_the_front() -> None:
    mean = torch.tensor([[0.0, 1.0], [1.0, 0.0], [5.0, 5.0]], dtype=torch.float64)
    point = reference_point(mean, torch.zeros_like(mean))
    torch.testing.assert_close(point, torch.tensor([1.1, 1.1], dtype=torch.float64))
