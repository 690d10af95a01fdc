"""A small world with experts, whose true losses are known; fixtures of many tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import pytest

from optuna_mde.asks.proposal import Proposal, Proposer
from optuna_mde.mde.experts import ExpertTable
from tests.optuna_mde.web_server import Server

DOMAINS = ("web", "code", "books", "math")
SETS = ("web", "code", "books", "math", "unseen")
TOKENS = 1500


@dataclass(frozen=True)
class World:
    """Experts' log-probabilities, and losses that MDE explains up to a smooth remainder."""

    logprobs: dict[str, dict[str, np.ndarray]]
    table: ExpertTable
    noise: float = 0.01

    @property
    def domains(self) -> tuple[str, ...]:
        return DOMAINS

    @property
    def sets(self) -> tuple[str, ...]:
        return SETS

    def true_losses(self, rates: np.ndarray) -> np.ndarray:
        """Noise-free losses `[n, M]` of mixtures `[n, K]`; those of the experts at corners."""
        rates = np.atleast_2d(rates)
        tempered = rates**0.8
        tempered /= tempered.sum(axis=1, keepdims=True)
        mixed = 1.0 - (rates**2).sum(axis=1, keepdims=True)
        shift = np.array([0.05, -0.05, 0.1, 0.0, -0.1])
        bend = rates[:, [0]] * rates[:, [1]]
        return self.table.losses(tempered) - mixed * (0.2 + shift) + 0.3 * bend

    def observed(self, rates: np.ndarray, seed: int) -> np.ndarray:
        """A run of every mixture; an expert's loss is its MDE value."""
        clean = self.true_losses(rates)
        noise = np.random.default_rng(seed).normal(0.0, self.noise, clean.shape)
        corner = (np.atleast_2d(rates) == 1.0).any(axis=1, keepdims=True)
        return np.where(corner, clean, clean + noise)


def _world() -> World:
    rng = np.random.default_rng(0)
    affinity = rng.normal(0.0, 0.3, (len(SETS), len(DOMAINS)))
    affinity[range(4), range(4)] += 1.2
    logprobs: dict[str, dict[str, np.ndarray]] = {d: {} for d in DOMAINS}
    for i, name in enumerate(SETS):
        base = rng.normal(-4.0, 1.5, TOKENS)
        for j, domain in enumerate(DOMAINS):
            values = base + affinity[i, j] + rng.normal(0.0, 1.0, TOKENS)
            logprobs[domain][name] = np.minimum(values, -1e-3).astype(np.float32)
    return World(logprobs, ExpertTable(DOMAINS, logprobs))


@pytest.fixture(scope="session")
def world() -> World:
    return _world()


@pytest.fixture
def quiet() -> Iterator[None]:
    """Optuna says nothing but errors."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


class Counting(Proposer):
    """A proposer that answers at once, with the region's centre."""

    def propose(self, history: Any, region: Any, *, seed: int) -> Proposal:
        return Proposal(region.center, "model", 1.0, 0.1)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what happens around the model, not of the model."""
    monkeypatch.setattr("optuna_mde.asks.proposal.Proposer", Counting)


@pytest.fixture
def server() -> Iterator[Server]:
    """A web server."""
    server = Server()
    yield server
    server.close()
