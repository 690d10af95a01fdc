"""The surrogate against dense linear algebra, refits without a run, and a world that is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from optuna_mde.gp.features import SLOPES, Features
from optuna_mde.gp.fitting import fit
from optuna_mde.gp.surrogate import Runs, Surrogate
from optuna_mde.mde.coreset import Coreset
from optuna_mde.mde.experts import ExpertTable
from tests.optuna_mde.fits import features_of, fitted_to_rates, runs_of


def fresh(world, n: int = 200) -> torch.Tensor:
    K = len(world.domains)
    return torch.from_numpy(np.random.default_rng(77).dirichlet(np.ones(K), n))


def mean_goal(M: int) -> torch.Tensor:
    return torch.full((1, M), 1.0 / M, dtype=torch.float64)


def test_experts_make_few_runs_enough(world) -> None:
    X = fresh(world)
    truth = world.true_losses(X.numpy())
    errors = {}
    for experts in (True, False):
        surrogate = fit(features_of(world, experts), runs_of(world, 5))
        mean, _ = surrogate.posterior(X)
        errors[experts] = np.sqrt(np.mean((mean.numpy() - truth) ** 2))
        if experts:
            goal, _ = surrogate.goals(X, mean_goal(len(world.sets)))
            assert spearmanr(goal[:, 0], truth.mean(axis=1))[0] > 0.9
    assert errors[True] < 0.75 * errors[False]


@pytest.mark.parametrize("experts", [True, False])
def test_intervals_hold_what_they_promise(world, experts: bool) -> None:
    X = fresh(world)
    truth = world.true_losses(X.numpy())
    inside, goal_inside = [], []
    for seed in range(4):
        surrogate = fit(features_of(world, experts), runs_of(world, 14, seed))
        mean, sd = (t.numpy() for t in surrogate.posterior(X))
        inside.append(np.abs(mean - truth) <= 1.645 * sd)
        goal, spread = (t.numpy()[:, 0] for t in surrogate.goals(X, mean_goal(len(world.sets))))
        goal_inside.append(np.abs(goal - truth.mean(axis=1)) <= 1.645 * spread)
    assert 0.75 <= np.mean(inside) <= 0.995
    assert 0.7 <= np.mean(goal_inside) <= 1.0


def test_few_runs_without_experts_are_not_believed_too_readily() -> None:
    """Power laws of the tokens that serve a set: the posterior alone holds .60 of them."""
    K, M, n = 7, 4, 12
    inside = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        serves = rng.uniform(0.2, 1.0, (K, M)) ** 2
        X, Z = rng.dirichlet(np.ones(K), n), rng.dirichlet(np.ones(K), 100)
        losses = [2.0 + 1.5 * (1e-3 + rates @ serves) ** -0.25 for rates in (X, Z)]
        Y = losses[0] + 0.02 * rng.normal(size=(n, M))
        surrogate = fitted_to_rates(X, Y)
        mean, sd = (t.numpy() for t in surrogate.posterior(torch.from_numpy(Z)))
        inside.append(np.abs(mean - losses[1]) <= 1.645 * sd)
    assert 0.8 <= np.mean(inside) <= 0.97


@pytest.mark.parametrize("experts", [True, False])
def test_repeats_tell_the_noise(world, experts: bool) -> None:
    """Six mixtures run once say nothing of the noise; run four times each they do."""
    K, noise = len(world.domains), 0.1
    inner = np.random.default_rng(0).dirichlet(np.ones(K), 6)
    found = {}
    for times in (1, 4):
        X = np.concatenate([np.eye(K), np.repeat(inner, times, axis=0)])
        Y = world.true_losses(X) + np.random.default_rng(1).normal(0.0, noise, (len(X), 5))
        runs = Runs(torch.from_numpy(X), torch.from_numpy(Y), torch.arange(len(X)) < K)
        found[times] = float(fit(features_of(world, experts), runs).noise_sd.median())
    assert found[1] < 0.5 * noise < found[4] < 1.1 * noise


def test_leave_one_out_equals_a_refit_without_the_run(world) -> None:
    features, runs = features_of(world), runs_of(world, 6)
    surrogate = fit(features, runs, steps=0)
    mean, sd = surrogate.leave_one_out()
    for i in (4, 7):
        kept = torch.arange(len(runs.X)) != i
        without = fit(
            features,
            Runs(runs.X[kept], runs.Y[kept], runs.corner[kept]),
            surrogate.state(),
            steps=0,
        )
        expected, spread = without.posterior(runs.X[[i]])
        torch.testing.assert_close(mean[[i]], expected)
        torch.testing.assert_close(sd[[i]], (spread**2 + without.noise_sd**2).sqrt())


def test_believing_keeps_means_and_takes_away_doubt(world) -> None:
    surrogate = fit(features_of(world), runs_of(world, 6))
    pending, elsewhere = fresh(world, 2), fresh(world, 50)
    believing = surrogate.believe(pending)
    before, doubt = surrogate.posterior(pending)
    after, rest = believing.posterior(pending)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0)
    assert (rest < 0.1 * doubt).all()
    torch.testing.assert_close(
        believing.posterior(elsewhere)[0], surrogate.posterior(elsewhere)[0], atol=1e-4, rtol=0
    )
    assert surrogate.believe(pending[:0]) is surrogate


def test_a_missing_loss_leaves_the_other_outputs_alone(world) -> None:
    features, runs = features_of(world), runs_of(world, 8)
    full = fit(features, runs, steps=0)
    holed = runs.Y.clone()
    holed[6, 0] = torch.nan
    partial = fit(features, Runs(runs.X, holed, runs.corner), full.state(), steps=0)
    X = fresh(world, 20)
    assert partial.posterior(X)[0].isfinite().all()
    torch.testing.assert_close(partial.posterior(X)[0][:, 1:], full.posterior(X)[0][:, 1:])
    assert not torch.equal(partial.posterior(X)[0][:, 0], full.posterior(X)[0][:, 0])


def test_a_diverged_run_does_not_spoil_the_others(world) -> None:
    features, runs = features_of(world), runs_of(world, 12)
    X = fresh(world)
    truth = world.true_losses(X.numpy())

    def error(Y: torch.Tensor) -> float:
        mean, _ = fit(features, Runs(runs.X, Y, runs.corner)).posterior(X)
        return float(np.sqrt(np.mean((mean.numpy() - truth) ** 2)))

    clean = error(runs.Y)
    for value in (11.0, 1e30, torch.inf, -torch.inf):
        broken = runs.Y.clone()
        broken[9] = value
        assert error(broken) < 3.0 * clean, value


def test_a_diverged_run_is_predicted_from_the_others_as_surely_as_they_are(world) -> None:
    """What is added to its noise, so that it tells little, is none of a run like the others."""
    features, runs = features_of(world), runs_of(world, 12)
    broken = runs.Y.clone()
    broken[9] += 8.0
    mean, sd = fit(features, Runs(runs.X, broken, runs.corner)).leave_one_out()
    others = torch.tensor([i for i in range(16) if i != 9 and not runs.corner[i]])
    assert (sd[9] < 2.0 * sd[others].max(dim=0).values).all()
    assert ((mean[9] - runs.Y[9]).abs() < 1.0).all()


@pytest.mark.parametrize("n", [0, 1, 2])
def test_next_to_no_runs(world, n: int) -> None:
    surrogate = fit(features_of(world), runs_of(world, n))
    mean, sd = surrogate.posterior(fresh(world, 5))
    assert mean.isfinite().all()
    assert (sd > 0).all()


def test_constant_and_repeated_observations() -> None:
    features = Features(2, [slice(0, 2)], ("a",))
    X = torch.tensor([[0.5, 0.5]] * 5 + [[0.2, 0.8]] * 5, dtype=torch.float64)
    runs = Runs(X, torch.full((10, 1), 3.0).double(), torch.zeros(10, dtype=torch.bool))
    mean, sd = fit(features, runs).posterior(X[:1])
    assert mean.item() == pytest.approx(3.0, abs=1e-3)
    assert np.isfinite(sd.item())


def test_goals_of_correlated_sets_are_less_certain_than_of_independent_ones(world) -> None:
    surrogate = fit(features_of(world), runs_of(world, 10))
    sd = torch.ones(1, len(world.sets), dtype=torch.float64)
    W = mean_goal(len(world.sets))
    independent = 1.0 / len(world.sets) ** 0.5
    assert independent < surrogate.spread(sd, W).item() < 1.0
    torch.testing.assert_close(surrogate.correlation, surrogate.correlation.mT)
    assert torch.linalg.eigvalsh(surrogate.correlation).min() > 0


def test_sets_that_the_experts_serve_alike_are_taken_to_err_together(world) -> None:
    features = features_of(world)
    mixtures = np.random.default_rng(5).dirichlet(np.ones(len(world.domains)), 2000)
    alike = np.corrcoef(world.table.losses(mixtures).T)
    assert np.abs(features.likeness.numpy() - alike).max() < 0.35  # other mixtures, on a coreset
    assert features.likeness.diagonal().numpy() == pytest.approx(1.0)
    pairs = np.triu_indices(len(world.sets), 1)
    assert np.corrcoef(features.likeness.numpy()[pairs], alike[pairs])[0, 1] > 0.9
    # experts show nothing of what errors have in common, so that this is before any run
    correlation = fit(features, runs_of(world, 0)).correlation.numpy()[pairs]
    assert spearmanr(correlation, alike[pairs])[0] > 0.8
    one_is_new = Features(4, [slice(0, 4)], (*world.sets, "new"), slice(0, 4), features.coreset)
    assert one_is_new.likeness[-1].isnan().all()


@pytest.mark.parametrize("experts", [True, False])
def test_joint_posterior_agrees_with_the_marginal_one(world, experts: bool) -> None:
    surrogate: Surrogate = fit(features_of(world, experts), runs_of(world, 8))
    X = fresh(world, 6).reshape(2, 3, -1)
    W = torch.eye(5, dtype=torch.float64)[:2]
    mean, covariance = surrogate.joint_goals(X, W)
    expected, sd = surrogate.goals(X.reshape(6, -1), W)
    torch.testing.assert_close(mean.reshape(6, 2), expected)
    variances = covariance.diagonal(dim1=-2, dim2=-1).mT.reshape(6, 2)
    torch.testing.assert_close(variances, sd.square(), rtol=1e-6, atol=1e-10)
    assert (torch.linalg.eigvalsh(covariance) > -1e-10).all()


def test_corrections_vanish_at_the_corners(world) -> None:
    """An expert's own loss is its MDE loss: only the offset may move the mean there."""
    _, phi, _ = features_of(world).lift(torch.eye(len(world.domains), dtype=torch.float64))
    torch.testing.assert_close(phi[..., 2:], torch.zeros_like(phi[..., 2:]), atol=1e-8, rtol=0)


def test_experts_hold_the_corners_whatever_runs_inside_say(world) -> None:
    """An offset that all runs inside agree on is none of the experts', which were observed."""
    runs, shift = runs_of(world, 10), 0.3
    Y = torch.where(runs.corner[:, None], runs.Y, runs.Y + shift)
    surrogate = fit(features_of(world), Runs(runs.X, Y, runs.corner))
    corners = surrogate.posterior(runs.X[runs.corner])[0] - runs.Y[runs.corner]
    inside = surrogate.posterior(fresh(world))[0].numpy() - world.true_losses(fresh(world).numpy())
    assert corners.abs().max() < shift / 4
    assert abs(inside.mean() - shift) < shift / 4


def test_curves_charge_their_slope_where_one_domain_alone_teaches() -> None:
    """Then MDE is ``L - log λ`` and a learning curve of slope s is ``L - s log λ``."""
    logprobs = {
        "useful": {"set": np.linspace(-3.0, -1.0, 64)},
        "useless": {"set": np.full(64, -60.0)},
    }
    coreset = Coreset(ExpertTable(list(logprobs), logprobs))
    features = Features(2, [slice(0, 2)], ["set"], slice(0, 2), coreset)
    rates = torch.tensor([[0.1, 0.9], [0.7, 0.3]], dtype=torch.float64)
    _, phi, _ = features.lift(rates)
    curve, steepness = (phi * features.units)[:, 0, -2:].mT
    log_rate = rates[:, 0].log()
    low, high = SLOPES
    torch.testing.assert_close(curve, (1.0 - low) * log_rate, atol=1e-3, rtol=0)
    torch.testing.assert_close(steepness, (low - high) * log_rate, atol=1e-9, rtol=0)


@pytest.mark.parametrize("experts", [True, False])
def test_gradients_reach_a_face(world, experts: bool) -> None:
    surrogate = fit(features_of(world, experts), runs_of(world, 8))
    X = torch.tensor([[0.0, 0.5, 0.5, 0.0]], dtype=torch.float64, requires_grad=True)
    mean, sd = surrogate.posterior(X)
    (mean.sum() + sd.sum()).backward()
    assert X.grad is not None
    assert X.grad.isfinite().all()


def test_a_warm_start_of_no_steps_keeps_hyperparameters(world) -> None:
    features, runs = features_of(world), runs_of(world, 8)
    fitted = fit(features, runs)
    again = fit(features, runs, fitted.state(), steps=0)
    X = fresh(world, 10)
    torch.testing.assert_close(again.posterior(X), fitted.posterior(X))


def test_sets_scored_on_different_runs_leave_their_mean_uncertain() -> None:
    """Every run reports two of three sets, and errs on them by opposite noise: all three pairs
    look opposed, which no three variables can be, and the variance of their mean was negative."""
    rng = np.random.default_rng(0)
    X = rng.dirichlet(np.ones(3), 120)
    error = rng.normal(0.0, 0.1, 120)
    Y = np.full((120, 3), np.nan)
    for pair, rows in zip(((0, 1), (1, 2), (0, 2)), np.arange(120).reshape(3, 40), strict=True):
        Y[rows[:, None], pair] = 3.0 + np.outer(error[rows], [1.0, -1.0])
    runs = Runs(torch.from_numpy(X), torch.from_numpy(Y), torch.zeros(120, dtype=torch.bool))
    surrogate = fit(Features(3, [slice(0, 3)], ("a", "b", "c")), runs)
    C = surrogate.correlation
    assert C.diagonal().numpy() == pytest.approx(1.0)
    assert (C[np.triu_indices(3, 1)] < -0.2).all()  # the pairs are opposed as far as three can be
    new = torch.from_numpy(rng.dirichlet(np.ones(3), 20))
    (_, sd), (_, goal) = surrogate.posterior(new), surrogate.goals(new, mean_goal(3))
    assert (goal[:, 0] > 0.1 * sd.mean(dim=1)).all()
