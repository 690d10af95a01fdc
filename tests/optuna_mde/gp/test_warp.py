"""Losses without MDE as logarithms of their distance from a floor."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from benchmarks.prediction import DATA, Split
from benchmarks.tables import Recording
from optuna_mde.gp.warp import Warp
from tests.optuna_mde.fits import fitted_to_rates

TWINS = DATA / "twins"
K, M = 6, 4


def law(rates: np.ndarray) -> np.ndarray:
    """Losses `[n]` by the law of data mixing: a floor, and an exponential of the rates."""
    return 1.0 + 3.0 * np.exp(-4.0 * rates @ np.linspace(0.0, 1.0, K))


def mixtures(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(K, 0.7), n)


def test_back_and_forth() -> None:
    warp = Warp.of(
        torch.tensor([[2.0, 5.0], [3.0, 7.0]], dtype=torch.float64), torch.tensor([True, False])
    )
    losses = torch.tensor([[1.6, -4.0], [9.0, 0.0]], dtype=torch.float64)
    latent = warp.latent(losses)
    torch.testing.assert_close(warp.losses(latent), losses)
    torch.testing.assert_close(latent[:, 1], losses[:, 1])
    bent = latent.clone().requires_grad_()
    (slope,) = torch.autograd.grad(warp.losses(bent).sum(), bent)
    torch.testing.assert_close(warp.slope(losses), slope)


@pytest.mark.parametrize(("factor", "offset"), [(10.0, 0.0), (1.0, -50.0)])
def test_the_unit_of_an_objective_does_not_matter(factor: float, offset: float) -> None:
    X, Z = mixtures(14, 0), torch.from_numpy(mixtures(50, 1))
    Y = np.stack([law(np.roll(X, i, axis=1)) for i in range(M)], axis=1)
    plain, moved = fitted_to_rates(X, Y), fitted_to_rates(X, factor * Y + offset)
    (mean, sd), (other, wider) = plain.posterior(Z), moved.posterior(Z)
    torch.testing.assert_close(other, factor * mean + offset, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(wider, factor * sd, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(moved.noise_sd, factor * plain.noise_sd, rtol=1e-3, atol=0)


@pytest.mark.parametrize("values", [[3.0, 3.0], [1e20, 1e20], [1e6, 1e6 + 1e-10], [0.0, 1e-30]])
def test_losses_that_are_as_good_as_alike_stay_finite(values: list[float]) -> None:
    Y = torch.tensor(values, dtype=torch.float64).unsqueeze(-1)
    latent = Warp.of(Y, torch.tensor([True])).latent(Y)
    assert latent.isfinite().all()
    assert (latent[1] - latent[0]).abs() <= math.log(3.0) + 1e-9


def test_twelve_recorded_runs_order_the_others() -> None:
    """In nats as they are the rank correlation is .948; the intervals are those of single runs."""
    recording = Recording.load(TWINS)
    found, inside = [], []
    for seed in range(5):
        split = Split.draw(recording, seed)
        rows, others = split.train[:12], split.test
        surrogate = fitted_to_rates(recording.mixtures[rows], recording.losses[rows])
        mean, sd = surrogate.posterior(torch.from_numpy(recording.mixtures[others]))
        truth = recording.losses[others]
        found.append(spearmanr(mean.mean(dim=1), truth.mean(axis=1))[0])
        total = (sd.square() + surrogate.noise_sd.square()).sqrt().numpy()
        inside.append(np.abs(mean.numpy() - truth) <= 1.645 * total)
    assert np.mean(found) > 0.958
    assert 0.85 <= np.mean(inside) <= 0.97


@pytest.mark.parametrize("level", ["lowest", "highest"])
def test_repeats_at_any_level_tell_the_same_noise(level: str) -> None:
    """If it were alike in logarithms, repeats at the highest would make it .7 of what it is."""
    noise, X = 0.05, mixtures(24, 3)
    order = np.argsort(law(X))
    repeated = np.repeat(X[order[[0 if level == "lowest" else -1]]], 16, axis=0)
    X = np.concatenate([X, repeated])
    seeds = np.random.default_rng(4).normal(0.0, noise, (len(X), M))
    found = fitted_to_rates(X, law(X)[:, None] + seeds).noise_sd
    assert float(found.log().mean().exp()) == pytest.approx(noise, rel=0.2)
