"""Weighted tokens against all tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import optuna_mde.mde.coreset
from optuna_mde.mde.coreset import MAX_RMS_ERROR, Coreset, _read, reference_mixtures, temper
from optuna_mde.mde.experts import ExpertTable

K = 5
DOMAINS = tuple(f"d{j}" for j in range(K))


def table(tokens: int, seed: int = 0, domains: tuple[str, ...] = DOMAINS) -> ExpertTable:
    rng = np.random.default_rng(seed)
    base = rng.normal(-3.0, 2.0, tokens)
    data = {
        d: {"a": np.minimum(base + rng.normal(0.0, 1.5, tokens), -1e-4).astype(np.float32)}
        for d in domains
    }
    return ExpertTable(domains, data)


@pytest.mark.parametrize("tokens", [3000, 30_000])
def test_few_tokens_reproduce_the_loss_of_all(tokens: int) -> None:
    full = table(tokens)
    coreset = Coreset(full, seed=0)
    assert coreset.n_tokens[0] < 600
    fresh = reference_mixtures(500, K, np.random.default_rng(99))
    error = coreset.losses(torch.from_numpy(fresh)).numpy() - full.losses(fresh)
    assert np.sqrt(np.mean(error**2)) <= MAX_RMS_ERROR
    assert coreset.rms_error[0] <= MAX_RMS_ERROR


@pytest.mark.parametrize("spread", [0.0, 1.5, 15.0, 100.0])
def test_no_product_of_tokens_underflows_where_experts_differ_by_any_number_of_nats(
    spread: float,
) -> None:
    """What a coreset must match is the loss of every token, in single precision."""
    base, own = np.random.default_rng(0).normal(size=(2, K, 5000))
    logs = np.minimum(2.0 * base[0] - 3.0 + spread * own, 0.0)
    full = ExpertTable(DOMAINS, {d: {"a": logs[j]} for j, d in enumerate(DOMAINS)})
    mixtures = reference_mixtures(200, K, np.random.default_rng(1))
    losses, ratios, _ = _read(full.tables[0], mixtures, np.array([3, 4998]))
    np.testing.assert_allclose(losses, full.losses(mixtures)[:, 0], rtol=1e-6, atol=1e-6)
    top = logs.max(axis=0)
    np.testing.assert_allclose(ratios, np.exp(logs - top)[:, [3, 4998]].T, rtol=2e-4, atol=1e-37)


@pytest.mark.parametrize("n_domains", [12, 48])
def test_few_tokens_reproduce_the_loss_of_many_domains(n_domains: int) -> None:
    full = table(4000, domains=tuple(f"d{j}" for j in range(n_domains)))
    coreset = Coreset(full, seed=0)
    assert coreset.n_tokens[0] < 800
    fresh = reference_mixtures(500, n_domains, np.random.default_rng(99))
    error = coreset.losses(torch.from_numpy(fresh)).numpy() - full.losses(fresh)
    assert (
        np.sqrt(np.mean(error**2)) <= 1.2 * MAX_RMS_ERROR
    )  # of other mixtures than its own check


def test_a_small_set_is_kept_whole_and_exact() -> None:
    full = table(200)
    coreset = Coreset(full)
    fresh = reference_mixtures(100, K, np.random.default_rng(3))
    np.testing.assert_allclose(
        coreset.losses(torch.from_numpy(fresh)).numpy(), full.losses(fresh), atol=1e-9
    )


def test_many_sets_keep_their_order_whichever_experts_they_have() -> None:
    rng = np.random.default_rng(5)
    sets = [f"s{i}" for i in range(40)]
    data = {d: {s: -rng.exponential(3.0, 50).astype(np.float32) for s in sets} for d in DOMAINS}
    for missing in sets[::3]:  # the last domain's expert was not scored on these
        del data[DOMAINS[-1]][missing]
    full = ExpertTable(DOMAINS, data)
    fresh = rng.dirichlet(np.ones(K), 20)
    losses = Coreset(full).losses(torch.from_numpy(fresh)).numpy()
    np.testing.assert_allclose(losses, full.losses(fresh), atol=1e-9)


def test_gradients_reach_the_rates() -> None:
    full = table(200)
    rates = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25], dtype=torch.float64, requires_grad=True)
    Coreset(full).losses(rates).sum().backward()
    np.testing.assert_allclose(rates.grad, full.gradients(rates.detach().numpy())[0], rtol=1e-6)


def test_the_same_seed_gives_the_same_tokens() -> None:
    full = table(3000)
    rates = torch.full((1, K), 1.0 / K, dtype=torch.float64)
    first, again = (Coreset(full, seed=4).losses(rates) for _ in range(2))
    assert torch.equal(first, again)


def test_tempering_keeps_corners_and_order() -> None:
    rates = torch.tensor([[0.6, 0.3, 0.1], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]], dtype=torch.float64)
    soft = temper(rates, 0.75)
    torch.testing.assert_close(soft.sum(dim=-1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(soft[1], rates[1])
    assert soft[2, 2] == 0.0
    assert rates[0, 0] > soft[0, 0] > soft[0, 1] > soft[0, 2] > rates[0, 2]
    assert temper(rates, 1.0) is rates


def test_a_large_set_that_fails_its_check_keeps_few_tokens_and_says_how_far_it_is_off(
    monkeypatch,
) -> None:
    full = table(20_000)
    monkeypatch.setattr(optuna_mde.mde.coreset, "MAX_RMS_ERROR", 0.0)
    coreset = Coreset(full)
    assert coreset.n_tokens[0] < 1500
    fresh = reference_mixtures(500, K, np.random.default_rng(99))
    error = coreset.losses(torch.from_numpy(fresh)).numpy() - full.losses(fresh)
    assert coreset.rms_error[0] == pytest.approx(np.sqrt(np.mean(error**2)), rel=0.3)


def test_errors_are_stated_as_they_are_elsewhere() -> None:
    """Stated over mixtures that did not choose the tokens: neither too low nor too high."""
    ratios = []
    for seed in range(6):
        full = table(9_000, seed)
        coreset = Coreset(full, seed)
        fresh = reference_mixtures(500, K, np.random.default_rng(99))
        error = coreset.losses(torch.from_numpy(fresh)).numpy() - full.losses(fresh)
        ratios.append(coreset.rms_error[0] / np.sqrt(np.mean(error**2)))
    assert 0.8 < np.mean(ratios) < 1.25
