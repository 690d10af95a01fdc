"""What outputs share, against one dense Gaussian of everything, and when runs deny MDE."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import MultivariateNormal

from optuna_mde.gp import shared
from optuna_mde.gp.shared import SharedSlopes, shared_slopes

N, M, L = 6, 3, 4
MEAN = torch.tensor([0.0, 0.1, 0.2, -0.1], dtype=torch.float64)
SD = torch.tensor([0.1, 0.2, 0.15, 0.1], dtype=torch.float64)
OWN = torch.full((M, L), 0.05, dtype=torch.float64)
TOLERANCE = 0.15


def problem(coefficients: torch.Tensor, noise: float, n: int = N) -> tuple[torch.Tensor, ...]:
    """Regressors, and targets of outputs that have these coefficients `[M, L]`."""
    draw = torch.Generator().manual_seed(0)
    phi = torch.randn(n, M, L, generator=draw, dtype=torch.float64)
    targets = (phi * coefficients).sum(dim=-1)
    targets = targets + noise * torch.randn(n, M, generator=draw, dtype=torch.float64)
    weights = torch.ones(n, M, dtype=torch.float64)
    weights[1, 2] = 0.0
    return phi, torch.where(weights > 0, targets, torch.nan), weights


def learned(coefficients: torch.Tensor, noise: float, n: int = N) -> SharedSlopes:
    return shared_slopes(*problem(coefficients, noise, n), MEAN, SD, OWN, TOLERANCE)


def dense(phi: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, factors: torch.Tensor):
    """Posterior mean and covariance of β, and the evidence, of all outputs as one Gaussian."""
    sigma, omega, tau = factors
    rows = torch.cat([phi[:, i] for i in range(M)])
    used = weights.mT.reshape(-1) > 0
    owner = torch.arange(M).repeat_interleave(len(phi))
    same = (owner[:, None] == owner).double()
    own = (rows * OWN[owner] * omega) @ (rows * OWN[owner] * omega).mT * same
    prior = torch.diag((tau * SD).square())
    noise = torch.eye(len(rows), dtype=torch.float64) * (sigma * TOLERANCE) ** 2
    covariance = (rows @ prior @ rows.mT + own + noise)[used][:, used]
    y, rows = targets.mT.reshape(-1)[used], rows[used]
    gain = prior @ rows.mT @ torch.linalg.inv(covariance)
    evidence = MultivariateNormal(rows @ MEAN, covariance).log_prob(y)
    return MEAN + gain @ (y - rows @ MEAN), prior - gain @ rows @ prior, evidence


def test_one_cell_is_the_dense_posterior(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_FACTORS", (2.0,))
    monkeypatch.setattr(shared, "_TOLERANCES", (0.5,))
    coefficients = MEAN + 0.1 * torch.randn(M, L, generator=torch.Generator().manual_seed(3))
    found = learned(coefficients.double(), 0.1)
    factors = torch.tensor([0.5, 2.0, 2.0], dtype=torch.float64)
    mean, covariance, _ = dense(*problem(coefficients.double(), 0.1), factors)
    torch.testing.assert_close(found.mean, mean)
    torch.testing.assert_close(found.root @ found.root.mT, covariance)
    assert found.rest == pytest.approx(0.5 * TOLERANCE)


def test_cells_are_weighted_by_their_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tolerances, equally likely before the runs."""
    monkeypatch.setattr(shared, "_FACTORS", (1.0,))
    monkeypatch.setattr(shared, "_TOLERANCES", (0.5, 2.0))
    coefficients = MEAN.expand(M, L) + 0.05
    found = learned(coefficients, 0.12)
    cells = [
        dense(*problem(coefficients, 0.12), torch.tensor([step, 1.0, 1.0]).double())
        for step in (0.5, 2.0)
    ]
    share = torch.softmax(torch.stack([cell[2] for cell in cells]), dim=0)
    mean = share[0] * cells[0][0] + share[1] * cells[1][0]
    torch.testing.assert_close(found.mean, mean)
    spread = torch.stack([c[0] - mean for c in cells])
    covariance = share[0] * cells[0][1] + share[1] * cells[1][1]
    covariance = covariance + (spread * share[:, None]).mT @ spread
    torch.testing.assert_close(found.root @ found.root.mT, covariance)


def test_evidence_wins_against_the_prior() -> None:
    """A coefficient twenty sd away, that all outputs have, is learned from a dozen runs."""
    coefficients = MEAN.clone()
    coefficients[2] += 20.0 * SD[2]
    found = learned(coefficients.expand(M, L), 0.05, n=12)
    torch.testing.assert_close(found.mean, coefficients, atol=0.1, rtol=0)
    assert found.strain > 1.0


def test_strain_is_of_what_bends_and_not_of_level() -> None:
    usual = learned(MEAN.expand(M, L), 0.05, n=12)
    assert usual.strain < 0.7
    moved = MEAN.clone()
    moved[0] += 10.0 * SD[0]  # the offset: runs of another length
    assert learned(moved.expand(M, L), 0.05, n=12).strain < 1.0
    noisy = learned(MEAN.expand(M, L), 12.0 * TOLERANCE, n=12)
    assert noisy.strain > 1.0  # whatever is left, it is none of MDE's
    apart = MEAN + torch.tensor([-1.0, 0.0, 1.0]).double()[:, None]
    assert learned(apart, 0.05, n=12).strain > 1.0  # right for one of three outputs


def test_no_run_leaves_what_is_believed() -> None:
    phi, targets, weights = problem(MEAN.expand(M, L), 0.1)
    found = shared_slopes(phi, targets, 0.0 * weights, MEAN, SD, OWN, TOLERANCE)
    torch.testing.assert_close(found.mean, MEAN)
    assert found.strain <= 1.0
