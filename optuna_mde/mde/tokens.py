"""The tokens of one validation set as the experts see them, and its MDE loss.

Notation: see `experts`. Rows of ``p`` are kept divided by their largest entry, whose logarithm is
a constant of λ: then zeros in λ are harmless and products of several tokens cannot underflow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

# Below this share of the best expert's probability a token says nothing more about the mixture;
# eight factors of it still fit into a float64, see `_TOKENS_PER_LOG`.
SMALLEST_RATIO = 1e-37

# One logarithm of the product of eight tokens costs an eighth of eight logarithms, and the
# logarithms are most of the work.
_TOKENS_PER_LOG = 8

# float64 entries of one piece of `[tokens, mixtures]`: 2 MB stay in a core's cache. Of 32 MB a
# loss of one token and mixture took 3.1 ns, of 2 MB 1.6 ns.
_PIECE_ENTRIES = 250_000


class Block(NamedTuple):
    """Some neighbouring tokens of a set."""

    ratios: np.ndarray
    """`[t, E]` probabilities divided by the row's largest."""
    weights: np.ndarray | float
    """`[t]`, or what each of them weighs; 1 over all blocks."""
    top: float
    """Weighted sum over the tokens of the logarithm of those largest probabilities."""


class Tokens(Protocol):
    """The tokens of one validation set, wherever they lie."""

    @property
    def n_tokens(self) -> int:
        """Their number T."""

    @property
    def experts(self) -> np.ndarray:
        """`[E]` indices of the experts among the K domains."""

    def blocks(self) -> Iterator[Block]:
        """All tokens, in order."""


@dataclass(frozen=True)
class TokenTable:
    """The tokens of one validation set as seen by the experts that have it.

    Args:
        ratios: `[T, E]` float32, probabilities divided by the row's largest.
        offset: mean over tokens of the logarithm of those largest probabilities.
        experts: `[E]` indices of the experts among the K domains.
        weights: `[T]` of tokens that stand for others, sum 1; None where all count alike.
    """

    ratios: np.ndarray
    offset: float
    experts: np.ndarray
    weights: np.ndarray | None = None

    @property
    def n_tokens(self) -> int:
        return len(self.ratios)

    def blocks(self) -> Iterator[Block]:
        weights = 1.0 / len(self.ratios) if self.weights is None else self.weights
        yield Block(self.ratios, weights, self.offset)


def divided(logs: np.ndarray) -> np.ndarray:
    """Divide probabilities by their token's largest.

    Args:
        logs: `[E, t]` log-probabilities; becomes the ratios, in place.

    Returns:
        `[t]` logarithms of the largest probabilities.
    """
    top: np.ndarray = np.maximum(logs.max(axis=0), np.float32(np.log(SMALLEST_RATIO)))
    logs -= top
    np.exp(logs, out=logs)
    return top


def effective_rates(rates: np.ndarray, experts: np.ndarray) -> np.ndarray:
    """Rates `[n, E]` of the experts that exist, renormalised; uniform where they hold nothing."""
    if len(experts) == rates.shape[-1]:
        return rates
    chosen = rates[:, experts]
    total = chosen.sum(axis=1, keepdims=True)
    return np.where(total > 0, chosen / np.where(total > 0, total, 1.0), 1.0 / len(experts))


def set_losses(tokens: Tokens, rates: np.ndarray) -> np.ndarray:
    """MDE losses `[n]` of mixtures `[n, K]` on one set, over every token."""
    shares = effective_rates(rates, tokens.experts).T  # [E, n]
    total = np.zeros(shares.shape[1])
    for block in tokens.blocks():
        total += block.top
        for ratios, weights in _pieces(block, len(total)):
            mixed = ratios @ shares
            np.maximum(mixed, SMALLEST_RATIO, out=mixed)
            total += _log_sum(mixed, weights)
    return -total


def set_gradients(tokens: Tokens, rates: np.ndarray) -> np.ndarray:
    """Gradients `[n, K]` of `set_losses` with respect to the rates `[n, K]`."""
    shares = effective_rates(rates, tokens.experts)  # [n, E]
    inner = np.zeros_like(shares)
    for block in tokens.blocks():
        for ratios, weights in _pieces(block, len(shares)):
            mixed = shares @ ratios.T
            np.maximum(mixed, SMALLEST_RATIO, out=mixed)
            inner -= (weights / mixed) @ ratios
    if len(tokens.experts) == rates.shape[-1]:
        return inner
    total = rates[:, tokens.experts].sum(axis=1, keepdims=True)
    inner = (inner - (inner * shares).sum(axis=1, keepdims=True)) / np.where(total > 0, total, 1.0)
    full = np.zeros_like(rates)
    full[:, tokens.experts] = np.where(total > 0, inner, 0.0)
    return full


def _pieces(block: Block, n: int) -> Iterator[tuple[np.ndarray, np.ndarray | float]]:
    """Ratios `[t, E]` in float64 and weights, in pieces that n mixtures make small products of."""
    step = max(_TOKENS_PER_LOG, _PIECE_ENTRIES // max(n, 1))
    step -= step % _TOKENS_PER_LOG
    for start in range(0, len(block.ratios), step):
        piece = slice(start, start + step)
        weights = block.weights
        yield (
            block.ratios[piece].astype(np.float64),
            weights if isinstance(weights, float) else weights[piece],
        )


def _log_sum(mixed: np.ndarray, weights: np.ndarray | float) -> np.ndarray:
    """Weighted sums `[n]` of the logarithms of `[t, n]`."""
    if not isinstance(weights, float):
        weighted: np.ndarray = weights @ np.log(mixed)
        return weighted
    groups = len(mixed) // _TOKENS_PER_LOG
    whole = groups * _TOKENS_PER_LOG
    grouped = mixed[:whole].reshape(_TOKENS_PER_LOG, groups, mixed.shape[1]).prod(axis=0)
    total: np.ndarray = np.log(grouped).sum(axis=0) + np.log(mixed[whole:]).sum(axis=0)
    return weights * total
