"""docs/model.md followed to the letter, with dense matrices, beside the surrogate."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from optuna_mde.gp.features import Features
from optuna_mde.gp.fitting import fit
from optuna_mde.gp.surrogate import Runs
from optuna_mde.mde.coreset import Coreset, reference_mixtures
from optuna_mde.mde.experts import ExpertTable

K, SETS = 3, ("a", "b", "c")
RNG = np.random.default_rng(0)

BETA = np.array([0, 0, 0.2, 0.2, -0.1, 0.25, 0.1])
B = np.array([0.1, 0.1, 0.15, 0.1, 0.1, 0.1, 0.1])
S = np.array([0.06, 0.08, 0.28, 0.1, 0.1, 0.1, 0.1])
FACTORS, TOLERANCES = (0.5, 1, 2, 4, 8, 16), (1, 2, 4, 8, 16, 32)


@pytest.fixture(scope="module", params=[1.0, 0.1], ids=["files apart", "files alike"])
def study(request):
    """Three experts' corners and nine mixtures, MDE being .1 nats and a landscape off."""
    own = np.arange(K)[:, None, None] == RNG.choice(K, (1, len(SETS), 300), p=[0.5, 0.3, 0.2])
    logs = RNG.normal(-3.5, 0.5, own.shape) + 1.5 * own
    logs = logs.mean(axis=0) + request.param * (logs - logs.mean(axis=0))
    files = {f"d{j}": dict(zip(SETS, logs[j], strict=True)) for j in range(K)}
    coreset = Coreset(ExpertTable(list(files), files))
    X = np.concatenate([np.eye(K), RNG.dirichlet(np.ones(K), 9)])
    off = np.where(X.max(axis=1) < 1, 0.1 + 0.2 * np.sin(4 * X[:, 0]), 0.0)
    Y = losses(coreset, X) + (off + RNG.normal(0, 0.005, len(X)))[:, None]
    plain = 2.0 + X @ [0.1, 0.4, 0.9] + RNG.normal(0, 0.005, len(X))
    corner = X.max(axis=1) == 1.0
    features = Features(K, [slice(0, K)], (*SETS, "other"), slice(0, K), coreset)
    runs = Runs(*map(torch.from_numpy, (X, np.c_[Y, plain], corner)))
    return coreset, fit(features, runs)


def losses(coreset, rates):
    return coreset.losses(torch.from_numpy(rates)).numpy()


def tempered(rates, alpha):
    powered = (rates + 1e-3) ** alpha - 1e-3**alpha
    return powered / powered.sum(axis=1, keepdims=True)


def regressors(coreset, rates):
    """Prior means `[n, M]`, and f `[n, M, 7]` but for the centre of the level (section 2)."""
    alone, mde = losses(coreset, np.eye(K)), losses(coreset, rates)
    m = losses(coreset, tempered(rates, 0.9))
    curve, steep = (-s * np.log(rates @ np.exp(-alone / s)) for s in (0.5, 1.0))
    dilution = np.repeat(1 - np.square(rates).sum(axis=1, keepdims=True), len(SETS), axis=1)
    bend = mde - losses(coreset, tempered(rates, 0.5))
    terms = [np.ones_like(m), m, dilution, bend, rates @ alone - mde, curve - mde, steep - curve]
    return m, np.stack(terms, axis=-1)


def standards(coreset, X, Y):
    """c, κ `[M]` and v `[M, 7]`, from runs `[n, K]`, `[n, M]` that are no experts."""
    m, f = regressors(coreset, reference_mixtures(128, K, np.random.default_rng(0)))
    v = f.std(axis=0, ddof=1)
    left = Y - regressors(coreset, X)[0]
    kappa = np.maximum(
        m.std(axis=0, ddof=1), np.median(left, axis=0) - np.quantile(left, 0.16, axis=0)
    )
    v[:, 0], v[:, 1], v[:, 2] = 1.0, kappa, 1.0
    return m.mean(axis=0), kappa, v


def shared(y, phi, kappa, v):
    """Mean, covariance and strain by the formulas (3) and (4): every cell by a dense normal."""
    n, M, _ = phi.shape
    A = np.concatenate([phi[:, i] for i in range(M)])
    target = y.T.ravel() - A @ BETA
    cells = list(itertools.product(FACTORS, FACTORS, TOLERANCES))
    weights, means, covariances = [], [], []
    for tau, omega, step in cells:
        V = (0.15 * step) ** 2 * np.eye(n * M)
        for i in range(M):
            block = slice(i * n, (i + 1) * n)
            V[block, block] += (phi[:, i] * (omega * S * kappa[i] / v[i]) ** 2) @ phi[:, i].T
        before = np.diag((tau * B) ** 2)
        total = V + A @ before @ A.T
        alpha = np.linalg.solve(total, target)
        prior = sum(-2.0 * np.log1p((np.log(x) / 0.7) ** 2 / 3) for x in (tau, omega, step))
        weights.append(-0.5 * (target @ alpha + np.linalg.slogdet(total)[1]) + prior)
        means.append(before @ A.T @ alpha)
        covariances.append(before - before @ A.T @ np.linalg.solve(total, A @ before))
    share = np.exp(np.array(weights) - max(weights))
    share /= share.sum()
    away = np.array(means) - share @ means
    covariance = np.einsum("c,cij->ij", share, covariances)
    covariance += np.einsum("c,ci,cj->ij", share, away, away)
    bent, moved = A[:, 2:], share @ means
    far = np.sqrt(np.square(bent @ moved[2:]).sum() / np.square(bent * B[2:]).sum())
    _, omega, step = np.exp(share @ np.log(cells))
    return BETA + moved, covariance, max(far / 3, omega / 2, step / 1.75)


def matern(r):
    return (1 + r + r**2 / 3) * np.exp(-r)


def test_what_is_shared_and_the_posterior_are_those_of_the_page(study):
    coreset, surrogate = study
    X, Y, corner = (v.numpy() for v in vars(surrogate.runs).values())
    n, M = len(X), len(SETS)
    new = np.random.default_rng(1).dirichlet(np.full(K, 0.5), 20)
    rates = np.concatenate([X, new])
    c, kappa, v = standards(coreset, X[~corner], Y[~corner, :M])
    m, f = regressors(coreset, rates)
    f[..., 1] -= c
    y0 = (Y[:, :M] - m[:n]) / kappa
    beta, covariance, strain = shared(y0, f[:n] / kappa[:, None], kappa, v)
    assert surrogate.shared.strain == pytest.approx(strain)
    assert surrogate.shared.mean.numpy() == pytest.approx(beta)

    state, (mean, sd) = surrogate.state(), surrogate.posterior(torch.from_numpy(new))
    roots, level = np.sqrt(rates + 0.002) - np.sqrt(0.002), (m - c) / kappa
    q = np.square(rates).sum(axis=1)
    a = np.exp(1.5 * (q - 0.3))
    seeds = np.where(np.r_[corner, np.zeros(len(new), bool)][:, None], 0.0, rates)
    for i in range(M + 1):
        length, o, omega, psi = (
            np.exp(x[i].numpy())
            for x in (state.lengthscale, state.outputscale, state.slopescale, state.blend)
        )
        eta2 = float(state.noise[i])
        gaps = [z[:, None] - z for z in (roots / length[0], level / length[1])]
        distance = np.sqrt(5 * sum(np.square(gap).sum(axis=-1) for gap in gaps))
        if i < M:
            phi, own, per = f[:, i] / v[i], S, v[i] / kappa[i]
            prior = m[:, i] + f[:, i] @ beta
            y, noise = (Y[:, i] - prior[:n]) / kappa[i], np.full(n, eta2)
        else:  # no expert kept it: section 7
            none = np.zeros(len(rates))
            phi = np.stack([none + 1, level.mean(axis=1), 1 - q, none, none, none, none], axis=1)
            own, per = np.array([1, 1, 1, 0, 0, 0, 0]), np.zeros(7)
            floor = Y[:, i].min() - 0.5 * np.ptp(Y[:, i])
            h = np.log(Y[:, i] - floor)
            centre, unit = np.sort(h)[(n - 1) // 2], np.diff(np.quantile(h, [0.16, 0.84]))[0] / 2
            y, noise = (h - centre) / unit, eta2 * (np.exp(centre) / (Y[:, i] - floor)) ** 2
        k = (phi * (omega * own) ** 2) @ phi.T + (phi * per) @ covariance @ (phi * per).T
        blends = [4 * rates[:, j] * rates[:, k] for j, k in itertools.combinations(range(K), 2)]
        k += psi**2 * np.transpose(blends) @ blends
        k += eta2 * seeds @ seeds.T + o**2 * np.outer(a, a) * matern(distance)
        solved = np.linalg.solve(k[:n, :n] + np.diag(noise), np.c_[y, k[:n, n:]])
        g = k[n:, :n] @ solved[:, 0]
        deviation = np.sqrt(np.diag(k[n:, n:] - k[n:, :n] @ solved[:, 1:]))
        if i < M:
            expected, spread = prior[n:] + kappa[i] * g, kappa[i] * deviation
        else:
            expected = floor + np.exp(centre + unit * g)
            spread = (expected - floor) * unit * deviation * np.sqrt(1 + (18 / max(n, 8)) ** 2)
        assert mean[:, i].detach().numpy() == pytest.approx(expected, rel=1e-7)
        assert sd[:, i].detach().numpy() == pytest.approx(spread, rel=1e-5)
