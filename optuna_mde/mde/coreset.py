"""A few hundred weighted tokens that stand for a whole validation set.

The MDE loss of a set is a mean over its tokens. Demand that a weighted sum over a pool of tokens
nearly equals the mean over *all* tokens at E chosen mixtures, with few non-negative weights: such
a sum reproduces the loss between those mixtures too. The work that follows then costs the same
whatever the number of validation tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from optuna_mde.mde.experts import ExpertTable
from optuna_mde.mde.sparse_weights import sparse_weights
from optuna_mde.mde.tokens import (
    SMALLEST_RATIO,
    Tokens,
    TokenTable,
    effective_rates,
    set_losses,
)
from optuna_mde.mde.weighted import WeightedSets

# Tokens to choose from and equations, which are tried in these multiples until the check holds.
SCALES = (1, 2, 4)
POOL = 2048
LEAST_EQUATIONS, EQUATIONS_PER_DOMAIN = 512, 12
CHECKED = 200  # mixtures of each check, see `reference_mixtures`
_TOLERANCE = 2.5e-4  # rms that equations may miss, nats (`python -m benchmarks.mde_throughput`)

# Root mean square error that is aimed at, nats per token, over mixtures that were not among the
# equations. Seeds move the loss of a run by ten times as much.
MAX_RMS_ERROR = 2e-3

# A set of at most so many tokens is kept whole where no try holds; of a larger one the best is
# taken, and its error stated. Losses and gradients of all tokens take a second at 20 x 100,000.
WHOLE = 8192

_PIECE_ENTRIES = 125_000  # float32 entries of `[mixtures, tokens]`: two of .5 MB stay in a cache

# One logarithm of the product of so many tokens, as far as float32 holds it: a logarithm takes as
# long as the eight products and additions of a loss (`python -m benchmarks.real_sizes`).
_MOST_FACTORS = 8

# All that a coreset depends on beside the experts' tokens; the number grows with the procedure.
RECIPE = (
    *(3, SCALES, POOL, LEAST_EQUATIONS, EQUATIONS_PER_DOMAIN),
    *(CHECKED, _TOLERANCE, MAX_RMS_ERROR, WHOLE),
)

# (λ + ε)^α - ε^α instead of λ^α: zero at zero all the same, but with a finite slope there.
TEMPER_FLOOR = 1e-3


class Coreset:
    """MDE losses on weighted tokens, differentiable in the rates.

    Args:
        table: the experts' table.
        seed: of the mixtures that are matched, and of the pool.

    Attributes:
        tokens: M sets of weighted tokens.
        rms_error: `[M]` root mean square error in nats per token over mixtures that were not
            matched; 0 for a set that is kept whole. ``MAX_RMS_ERROR`` is aimed at.
    """

    def __init__(self, table: ExpertTable, seed: int = 0) -> None:
        self.domains = table.domains
        self.sets = table.sets
        K = len(table.domains)
        built = [
            _condense(tokens, K, np.random.default_rng((seed, i)))
            for i, tokens in enumerate(table.tables)
        ]
        self.tokens = tuple(tokens for tokens, _ in built)
        self.rms_error = np.array([error for _, error in built])
        self._weighted: WeightedSets | None = None

    @classmethod
    def of(
        cls,
        domains: Sequence[str],
        sets: Sequence[str],
        tokens: Sequence[TokenTable],
        rms_error: np.ndarray,
    ) -> Coreset:
        """A coreset that was made before."""
        coreset = cls(ExpertTable(domains, {}))
        coreset.sets, coreset.tokens, coreset.rms_error = tuple(sets), tuple(tokens), rms_error
        return coreset

    @property
    def n_tokens(self) -> tuple[int, ...]:
        """Tokens that are kept of each set."""
        return tuple(tokens.n_tokens for tokens in self.tokens)

    def table(self) -> ExpertTable:
        """The weighted tokens as an experts' table."""
        return ExpertTable.of(self.domains, dict(zip(self.sets, self.tokens, strict=True)))

    def losses(self, rates: torch.Tensor) -> torch.Tensor:
        """MDE losses of mixtures.

        Args:
            rates: `batch_shape x K`, float64.

        Returns:
            `batch_shape x M`, nats per token.
        """
        if self._weighted is None:
            self._weighted = WeightedSets(self.tokens)
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


def _condense(tokens: Tokens, K: int, rng: np.random.Generator) -> tuple[TokenTable, float]:
    """Weighted tokens of one set, and their root mean square error.

    Mixtures that are not matched choose among the tries, and others state the error: that of the
    chosen one over the choosing ones is too low.
    """
    T, first = tokens.n_tokens, max(LEAST_EQUATIONS, EQUATIONS_PER_DOMAIN * K)
    check, others = (reference_mixtures(CHECKED, K, rng) for _ in range(2))
    apart, n = np.concatenate([check, others]), len(check)
    best, least, stated = None, np.inf, 0.0
    for scale in SCALES:
        if 2 * scale * first >= T:
            break
        mixtures = np.concatenate([apart, reference_mixtures(scale * first, K, rng)])
        pool = np.sort(rng.choice(T, min(T, scale * POOL), replace=False))
        losses, ratios, offset = _read(tokens, mixtures, pool)
        known = TokenTable(ratios, offset, tokens.experts)
        match = _match(known, mixtures[len(apart) :], losses[len(apart) :])
        error = set_losses(match, apart) - losses[: len(apart)]
        rms = float(np.sqrt(np.mean(error[:n] ** 2)))
        if rms < least:
            best, least, stated = match, rms, float(np.sqrt(np.mean(error[n:] ** 2)))
        if rms <= MAX_RMS_ERROR:
            return match, stated
    if best is None or T <= WHOLE:
        return _whole(tokens), 0.0
    return best, stated


def _read(
    tokens: Tokens, mixtures: np.ndarray, pool: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Losses `[n]` of mixtures `[n, K]`, ratios `[p, E]` of a pool of tokens, and the offset.

    One pass over the tokens, in single precision: an eighth of `set_losses`' time, and off by
    1e-7 nats.
    """
    shares = torch.from_numpy(effective_rates(mixtures, tokens.experts)).float()
    step = max(_PIECE_ENTRIES // len(shares), 1)
    logs = torch.zeros(len(shares), dtype=torch.float64)
    rows, start, offset = [], 0, 0.0
    for block in tokens.blocks():
        assert isinstance(block.weights, float)
        ratios = torch.from_numpy(block.ratios.T)
        factors = _factors(float(ratios.min()))
        pieces = ratios.split(step, dim=1)
        for first in range(0, len(pieces), factors):
            product = shares @ pieces[first]
            for piece in pieces[first + 1 : first + factors]:
                product[:, : piece.shape[1]] *= shares @ piece
            if factors == 1:
                product.clamp_(min=SMALLEST_RATIO)
            logs += product.log_().sum(dim=1) * block.weights
        offset += block.top
        inside = pool[(pool >= start) & (pool < start + len(block.ratios))]
        rows.append(block.ratios[inside - start])
        start += len(block.ratios)
    return -offset - logs.numpy(), np.concatenate(rows), offset


def _factors(smallest: float) -> int:
    """How many numbers of at least so much float32 can multiply."""
    if smallest**2 <= SMALLEST_RATIO:
        return 1
    return min(_MOST_FACTORS, int(math.log(SMALLEST_RATIO) / math.log(min(smallest, 0.5))))


def _match(pool: TokenTable, mixtures: np.ndarray, losses: np.ndarray) -> TokenTable:
    """Few tokens of the pool, weighted so that they have these losses `[n]`."""
    ratios = pool.ratios.astype(np.float64)
    mixed = ratios @ effective_rates(mixtures, pool.experts).T
    columns = -np.log(np.maximum(mixed, SMALLEST_RATIO))  # [p, n]
    # Centring conditions the equations: the spread between mixtures is what must be met.
    centre = columns.mean(axis=0)
    columns = np.concatenate([columns - centre, np.ones((len(ratios), 1))], axis=1)
    demanded = np.append(losses + pool.offset - centre, 1.0)
    kept, weights = sparse_weights(columns, demanded, _TOLERANCE)
    return replace(pool, ratios=pool.ratios[kept], weights=weights / weights.sum())


def _whole(tokens: Tokens) -> TokenTable:
    ratios = np.concatenate([block.ratios for block in tokens.blocks()])
    offset = sum(block.top for block in tokens.blocks())
    weights = np.full(len(ratios), 1.0 / len(ratios))
    return TokenTable(ratios.astype(np.float64), offset, tokens.experts, weights)
