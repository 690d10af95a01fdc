"""Planted worlds, where MDE is right or wrong: what the surrogate makes of a few runs."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from benchmarks import planted
from optuna_mde.gp.features import Features
from optuna_mde.gp.fitting import fit
from optuna_mde.gp.surrogate import Runs, Surrogate
from optuna_mde.mde.coreset import Coreset
from optuna_mde.mde.experts import ExpertTable

SEED = 11  # of no benchmark
K, M = planted.DOMAINS, planted.SETS
BLOCK = slice(0, K)


@cache
def coreset_of(name: str) -> Coreset:
    world = planted.make(name, SEED)
    logprobs = {
        domain: dict(zip(world.sets, values, strict=True))
        for domain, values in zip(world.domains, world.logprobs, strict=True)
    }
    return Coreset(ExpertTable(world.domains, logprobs))


def learned(name: str, n: int, *, files: bool = True, shift: float = 0.0) -> Surrogate:
    """The surrogate after the experts (unless they are passed in) and n mixtures."""
    world = planted.make(name, SEED)
    X = np.random.default_rng(0).dirichlet(np.ones(K), n)
    Y = np.array([world.run(x, i, SEED) for i, x in enumerate(X)]) + shift
    corner = np.zeros(n, dtype=bool)
    if not world.passed:
        X, Y = np.concatenate([np.eye(K), X]), np.concatenate([world.told, Y])
        corner = np.concatenate([np.full(K, files), corner])
    features = Features(
        K, [BLOCK], world.sets, BLOCK if files else None, coreset_of(name) if files else None
    )
    return fit(features, Runs(*map(torch.from_numpy, (X, Y, corner))))


def errors(name: str, surrogate: Surrogate) -> tuple[np.ndarray, np.ndarray]:
    """Errors and sd of the predicted mean of all sets, of 200 mixtures."""
    X = np.random.default_rng(1).dirichlet(np.ones(K), 200)
    W = torch.full((1, M), 1.0 / M, dtype=torch.float64)
    mean, sd = (t.numpy()[:, 0] for t in surrogate.goals(torch.from_numpy(X), W))
    return mean - planted.make(name, SEED).mean(X), sd


def rms(error: np.ndarray) -> float:
    return float(np.sqrt(np.mean(error**2)))


@pytest.mark.parametrize("name", ["exact", "longer", "scaled"])
def test_where_mde_is_right_a_dozen_runs_are_enough(name: str) -> None:
    error, sd = errors(name, learned(name, 12))
    assert rms(error) < 0.015
    assert np.mean(np.abs(error) < 1.645 * sd) > 0.75
    assert not learned(name, 12).denies_mde


def test_runs_that_are_all_above_the_prior_are_believed() -> None:
    """By .4 nats, and by 1.4: each prediction follows its runs."""
    near, far = learned("longer", 12), learned("longer", 12, shift=1.0)
    X = torch.from_numpy(np.random.default_rng(2).dirichlet(np.ones(K), 20))
    moved = far.posterior(X)[0] - near.posterior(X)[0]
    torch.testing.assert_close(moved, torch.ones_like(moved), atol=0.02, rtol=0)


@pytest.mark.parametrize("name", ["useless", "interact", "half"])
def test_where_mde_is_wrong_it_is_no_worse_than_no_files(name: str) -> None:
    error, sd = errors(name, learned(name, 20))
    without, _ = errors(name, learned(name, 20, files=False))
    assert rms(error) < 1.1 * rms(without)
    assert np.mean(np.abs(error) < 1.645 * sd) > 0.7
    assert learned(name, 20).denies_mde


@pytest.mark.parametrize("files", [True, False])
@pytest.mark.parametrize("name", ["flat", "alike"])
def test_noise_is_learned_where_it_is_most_of_what_there_is(name: str, files: bool) -> None:
    noise = planted.make(name, SEED).noise
    found = float(learned(name, 20, files=files).noise_sd.mean())
    assert noise / 1.5 < found < 1.5 * noise


@pytest.mark.parametrize("apart", [0.01, 1e-3, 0.0])
def test_noise_is_learned_where_files_are_nearly_the_same(apart: float) -> None:
    """Experts whose probabilities differ by a percent, less, or not at all: a dozen flat runs."""
    world = planted.make("flat", SEED)
    middle = world.logprobs.mean(axis=0)
    logprobs = middle + apart * (world.logprobs - middle)
    files = {
        domain: dict(zip(world.sets, values, strict=True))
        for domain, values in zip(world.domains, logprobs, strict=True)
    }
    coreset = Coreset(ExpertTable(world.domains, files))
    features = Features(K, [BLOCK], world.sets, BLOCK, coreset)
    stated = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        X = np.concatenate([np.eye(K), rng.dirichlet(np.ones(K), 12)])
        Y = rng.normal(-middle.mean(axis=-1), world.noise, (len(X), M))
        Y[:K] = -logprobs.mean(axis=-1)
        surrogate = fit(features, Runs(*map(torch.from_numpy, (X, Y, np.arange(len(X)) < K))))
        stated.append(float(surrogate.noise_sd.square().mean().sqrt()) / world.noise)
    assert min(stated) > 1 / 1.5
    assert max(stated) < 1.5


def test_a_dip_that_files_promise_is_not_believed_against_flat_runs() -> None:
    world = planted.make("flat", SEED)
    X = np.random.default_rng(1).dirichlet(np.ones(K), 200)
    promised = np.ptp(planted.mde(world.logprobs)(X).mean(axis=1))
    error, _ = errors("flat", learned("flat", 20))
    assert rms(error) < 0.1 * promised


@pytest.mark.parametrize("files", [True, False])
def test_diverged_runs_do_no_harm(files: bool) -> None:
    """Three of twenty that ended 5 nats higher."""
    world = planted.make("accident", SEED)
    assert len(world.diverged) == 3
    broken, _ = errors("accident", learned("accident", 20, files=files))
    clean, _ = errors("exact", learned("exact", 20, files=files))
    assert rms(broken) < 2.5 * rms(clean)
