"""The marginal likelihood against torch's density, finite differences and GPyTorch's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gpytorch
import numpy as np
import pytest
import torch
from botorch.models import SingleTaskGP
from gpytorch.means import ZeroMean
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import LogNormalPrior
from torch.distributions import MultivariateNormal

from benchmarks.tables import Recording
from optuna_mde.gp.features import Features
from optuna_mde.gp.fitting import (
    DenseGP,
    DenseMarginalLogLikelihood,
    SeedNoise,
    fit,
    log_density,
    winsorise,
)
from optuna_mde.gp.priors import columns_of, noise_of
from optuna_mde.gp.surrogate import Runs
from optuna_mde.mde.coreset import Coreset
from optuna_mde.mde.experts import ExpertTable
from tests.optuna_mde.fits import features_of, runs_of

ENVIRONMENT = Path(__file__).parents[3] / "benchmarks" / "data" / "environment"


def covariances(batch: int, n: int) -> torch.Tensor:
    roots = torch.randn(batch, n, n, generator=torch.Generator().manual_seed(0)).double()
    return roots @ roots.mT + torch.eye(n, dtype=torch.float64)


def residuals(batch: int, n: int) -> torch.Tensor:
    return torch.randn(batch, n, generator=torch.Generator().manual_seed(1)).double()


def test_log_density_is_the_normal_one() -> None:
    covariance, residual = covariances(3, 6), residuals(3, 6)
    expected = MultivariateNormal(torch.zeros(6).double(), covariance).log_prob(residual)
    torch.testing.assert_close(log_density(residual, covariance), expected)


def test_gradients_of_log_density_are_finite_differences() -> None:
    covariance = covariances(2, 4).requires_grad_(True)
    residual = residuals(2, 4).requires_grad_(True)

    def symmetric(r: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return log_density(r, (c + c.mT) / 2.0)

    assert torch.autograd.gradcheck(symmetric, (residual, covariance))


@pytest.mark.parametrize("experts", [True, False])
def test_marginal_likelihood_and_its_gradients_are_gpytorchs(world, experts: bool) -> None:
    process = fit(features_of(world, experts), runs_of(world, 8)).process
    kernel, evidence = process.kernel.requires_grad_(True), process.evidence
    likelihood = SeedNoise(evidence)
    likelihood.second_noise = process.noise.unsqueeze(-1)
    likelihood.register_prior(
        "noise_prior", LogNormalPrior(-4.0, 1.0), lambda known: known.second_noise
    )
    found = []
    for kind, marginal in (
        (SingleTaskGP, ExactMarginalLogLikelihood),
        (DenseGP, DenseMarginalLogLikelihood),
    ):
        model = kind(
            evidence.inputs,
            evidence.targets.unsqueeze(-1),
            likelihood=likelihood,
            covar_module=kernel,
            mean_module=ZeroMean(batch_shape=evidence.targets.shape[:1]),
            outcome_transform=None,
        ).train()
        with gpytorch.settings.fast_computations(log_prob=False, covar_root_decomposition=False):
            value = marginal(likelihood, model)(model(*model.train_inputs), model.train_targets)
        free = [p for p in model.parameters() if p.requires_grad]
        found.append((value, torch.autograd.grad(value.sum(), free)))
    (theirs, their_slopes), (ours, our_slopes) = found
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(our_slopes, their_slopes)


def test_noise_is_fitted_to_all_outputs_together(world) -> None:
    """A step of all noise variances at once, either way, lowers the posterior of all outputs."""
    runs = runs_of(world, 20)
    features = features_of(world, experts=False)
    surrogate = fit(features, runs)
    process, prior = surrogate.process, noise_of(features)
    covariance = process.kernel.forward(process.evidence.inputs, process.evidence.inputs)

    def log_posterior(log_noise: torch.Tensor) -> float:
        noise = torch.diag_embed(process.evidence.noise(log_noise.exp()))
        density = log_density(process.evidence.targets, covariance + noise).sum()
        return float(density + prior.log_prob(log_noise).sum())

    fitted = log_posterior(process.noise.log())
    for step in (-0.1, 0.1):
        assert log_posterior(process.noise.log() + step) < fitted


def test_a_loss_far_above_the_others_of_its_set_is_pulled_in_and_tells_little(world) -> None:
    """Beside MDE: less than a standard unit is never far, however alike the others are."""
    features = features_of(world)
    targets = torch.zeros(8, len(world.sets), dtype=torch.float64)
    targets[3, 0], targets[3, 1] = 0.9, 50.0
    found, doubt = winsorise(features, targets)
    assert found[3, 0] == 0.9
    assert 1.0 <= found[3, 1] < 10.0
    assert doubt[3, 1] >= found[3, 1].square()  # less than a run like the others by as much
    assert doubt.count_nonzero() == 1


def test_a_line_search_that_leaps_does_not_cost_the_fit() -> None:
    """Eight recorded runs on which L-BFGS looks at an sd of e^230 for one of the sets."""
    recording = Recording.load(ENVIRONMENT)
    mixtures = np.random.default_rng(1000).permutation(recording.rows("dirichlet", "face"))
    rows = [*recording.rows("natural", "uniform"), *mixtures[:6]]
    X, Y = (torch.from_numpy(a[rows]) for a in (recording.mixtures, recording.losses))
    K = len(recording.domains)
    features = Features(K, [slice(0, K)], recording.sets)
    surrogate = fit(features, Runs(X, Y, torch.zeros(8, dtype=torch.bool)))
    before = columns_of(features, None).lengthscale.log()
    assert (surrogate.state().lengthscale - before).abs().max() > 0.5


def test_a_set_that_only_two_experts_know_tells_nothing_of_what_sets_share(world) -> None:
    """Runs of the others' domains are then far from its MDE loss: of their text, not of MDE."""
    K, runs = len(world.domains), runs_of(world, 12)
    logprobs = {d: dict(world.logprobs[d]) for d in world.domains}
    for domain in world.domains[:2]:
        logprobs[domain]["later"] = logprobs[domain][world.sets[0]]
    coreset = Coreset(ExpertTable(world.domains, logprobs))
    sets = [*world.sets, "later"]
    features = Features(K, [slice(0, K)], sets, slice(0, K), coreset)
    later = runs.Y[:, :1] - torch.where(runs.corner, 0.0, 3.0).unsqueeze(-1)
    found = fit(features, replace(runs, Y=torch.cat([runs.Y, later], dim=-1)))
    alone = fit(features_of(world), runs)
    assert found.shared is not None
    assert alone.shared is not None
    torch.testing.assert_close(found.shared.mean, alone.shared.mean)
