"""A few hundred weighted tokens that stand for a whole validation set.

The MDE loss of a set is a mean over its tokens. Demand that a weighted sum over a pool of tokens
nearly equals the mean over *all* tokens at E chosen mixtures, with few non-negative weights: such
a sum reproduces the loss between those mixtures too. The work that follows then costs the same
whatever the number of validation tokens.

On two recordings of 7 and 8 experts (11 and 12 sets of 8,192 tokens; CPU seconds in all, tokens of
a set, rms error over 300 new mixtures) equations met to 1e-3 took 2.7 / 2.8 s, 120-180 / 8,192 (a
set is kept whole when its check fails) and .0013 / .0011 nats; to 5e-4 1.7 / 3.6 s, 160-230 /
210-300, .0011 / .0010; to 2.5e-4 1.7 / 4.2 s, 180-320 / 260-430, .0009 / .0007; to 1e-4 2.6 / 5.9
s, 250-450 / 300-610, .0007 / .0007. Exact solutions (Lawson and Hanson's NNLS) took 24 / 50 s.
"""

from __future__ import annotations

import numpy as np
import torch

from optuna_mde.mde.experts import ExpertTable
from optuna_mde.mde.sparse_weights import sparse_weights
from optuna_mde.mde.tokens import SMALLEST_RATIO, TokenTable, effective_rates, set_losses
from optuna_mde.mde.weighted import WeightedSets, WeightedTokens

POOL = 2048
LEAST_EQUATIONS, EQUATIONS_PER_DOMAIN = 512, 12
_TOLERANCE = 2.5e-4  # rms of what the equations may miss, nats per token

# Root mean square error, nats per token, over mixtures that were not among the equations. Seeds
# move the loss of a run by ten times as much.
MAX_RMS_ERROR = 2e-3

# (λ + ε)^α - ε^α instead of λ^α: zero at zero all the same, but with a finite slope there.
TEMPER_FLOOR = 1e-3


class Coreset:
    """MDE losses on weighted tokens, differentiable in the rates.

    Args:
        table: the experts' table.
        seed: of the mixtures that are matched, and of the pool.

    Attributes:
        rms_error: `[M]` root mean square error in nats per token over mixtures that were not
            matched; at most ``MAX_RMS_ERROR``, or 0 for a set that is kept whole.
    """

    def __init__(self, table: ExpertTable, seed: int = 0) -> None:
        self.domains = table.domains
        self.sets = table.sets
        rng = np.random.default_rng(seed)
        K = len(table.domains)
        built = [_compress(tokens, K, rng) for tokens in table.tables]
        self._tokens = [tokens for tokens, _ in built]
        self.rms_error = np.array([error for _, error in built])
        self._weighted: WeightedSets | None = None

    @property
    def n_tokens(self) -> tuple[int, ...]:
        """Tokens that are kept of each set."""
        return tuple(len(tokens.weights) for tokens in self._tokens)

    def losses(self, rates: torch.Tensor) -> torch.Tensor:
        """MDE losses of mixtures.

        Args:
            rates: `batch_shape x K`, float64.

        Returns:
            `batch_shape x M`, nats per token.
        """
        if self._weighted is None:
            self._weighted = WeightedSets(self._tokens)
        return self._weighted.losses(rates)


def temper(rates: torch.Tensor, exponent: float) -> torch.Tensor:
    """Rates raised to a power and normalised: weights ∝ λ^α, with a finite slope at zero.

    Args:
        rates: `batch_shape x K`.
        exponent: α; below 1 it moves a mixture towards uniform on its face. Corners stay.
    """
    if exponent == 1.0:
        return rates
    powered = (rates.clamp_min(0.0) + TEMPER_FLOOR) ** exponent - TEMPER_FLOOR**exponent
    return powered / powered.sum(dim=-1, keepdim=True).clamp_min(1e-300)


def reference_mixtures(n: int, K: int, rng: np.random.Generator) -> np.ndarray:
    """Mixtures of every kind, `[n + K + 1, K]`: interior, skewed, faces, corners, centre."""
    interior = rng.dirichlet(np.ones(K), n - n // 2 - n // 4)
    skewed = rng.dirichlet(np.full(K, 0.3), n // 2)
    faces = rng.dirichlet(np.ones(K), n // 4)
    faces = np.where(faces < 1.0 / K, 0.0, faces)
    faces /= faces.sum(axis=1, keepdims=True)
    return np.concatenate([interior, skewed, faces, np.eye(K), np.full((1, K), 1.0 / K)])


def _compress(table: TokenTable, K: int, rng: np.random.Generator) -> tuple[WeightedTokens, float]:
    T = len(table.ratios)
    check = reference_mixtures(200, K, rng)
    exact = set_losses(table, check)
    first = max(LEAST_EQUATIONS, EQUATIONS_PER_DOMAIN * K)
    for equations in (first, 2 * first):
        if 2 * equations >= T:
            break
        tokens = _match(table, reference_mixtures(equations, K, rng), rng)
        error = float(np.sqrt(np.mean((_weighted_losses(tokens, check) - exact) ** 2)))
        if error <= MAX_RMS_ERROR:
            return tokens, error
    weights = np.full(T, 1.0 / T)
    return WeightedTokens(
        table.ratios.astype(np.float64), weights, table.offset, table.experts
    ), 0.0


def _match(table: TokenTable, mixtures: np.ndarray, rng: np.random.Generator) -> WeightedTokens:
    T = len(table.ratios)
    pool = np.sort(rng.choice(T, min(T, POOL), replace=False))
    ratios = table.ratios[pool].astype(np.float64)
    losses = _token_losses(ratios, mixtures, table.experts)  # [pool, E]
    # Centring conditions the equations: the spread between mixtures is what must be met.
    target = set_losses(table, mixtures) + table.offset
    centre = losses.mean(axis=0)
    columns = np.concatenate([losses - centre, np.ones((len(pool), 1))], axis=1)
    demanded = np.append(target - centre, 1.0)
    kept, weights = sparse_weights(columns, demanded, _TOLERANCE)
    condensed = ratios[kept].astype(np.float32)
    return WeightedTokens(condensed, weights / weights.sum(), table.offset, table.experts)


def _token_losses(ratios: np.ndarray, mixtures: np.ndarray, experts: np.ndarray) -> np.ndarray:
    mixed = ratios @ effective_rates(mixtures, experts).T
    return -np.log(np.maximum(mixed, SMALLEST_RATIO))


def _weighted_losses(tokens: WeightedTokens, mixtures: np.ndarray) -> np.ndarray:
    return (
        _token_losses(tokens.ratios, mixtures, tokens.experts).T @ tokens.weights - tokens.offset
    )
