"""The tokens of one validation set as the experts see them, and its MDE loss.

Notation: see `experts`. Rows of ``p`` are kept divided by their largest entry, whose logarithm is
a constant of λ: then zeros in λ are harmless and products of several tokens cannot underflow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Below this share of the best expert's probability a token says nothing more about the mixture;
# eight factors of it still fit into a float64, see `_TOKENS_PER_LOG`.
SMALLEST_RATIO = 1e-37

# One logarithm of the product of eight tokens costs an eighth of eight logarithms, and the
# logarithms are most of the work.
_TOKENS_PER_LOG = 8

_CHUNK_ENTRIES = 4_000_000  # float64 entries of one block of `[tokens, mixtures]`: 32 MB


@dataclass(frozen=True)
class TokenTable:
    """The tokens of one validation set as seen by the experts that have it.

    Args:
        ratios: `[T, E]` float32, probabilities divided by the row's largest.
        offset: mean over tokens of the logarithm of those largest probabilities.
        experts: `[E]` indices of the experts among the K domains.
    """

    ratios: np.ndarray
    offset: float
    experts: np.ndarray


def effective_rates(rates: np.ndarray, experts: np.ndarray) -> np.ndarray:
    """Rates `[n, E]` of the experts that exist, renormalised; uniform where they hold nothing."""
    if len(experts) == rates.shape[-1]:
        return rates
    chosen = rates[:, experts]
    total = chosen.sum(axis=1, keepdims=True)
    return np.where(total > 0, chosen / np.where(total > 0, total, 1.0), 1.0 / len(experts))


def set_losses(table: TokenTable, rates: np.ndarray) -> np.ndarray:
    """MDE losses `[n]` of mixtures `[n, K]` on one set, over every token."""
    weights = effective_rates(rates, table.experts).T  # [E, n]
    n = weights.shape[1]
    total = np.zeros(n)
    step = max(_TOKENS_PER_LOG, _CHUNK_ENTRIES // max(n, 1))
    step -= step % _TOKENS_PER_LOG
    for start in range(0, len(table.ratios), step):
        mixed = table.ratios[start : start + step].astype(np.float64) @ weights
        np.maximum(mixed, SMALLEST_RATIO, out=mixed)
        groups = len(mixed) // _TOKENS_PER_LOG
        whole = groups * _TOKENS_PER_LOG
        grouped = mixed[:whole].reshape(_TOKENS_PER_LOG, groups, n).prod(axis=0)
        total += np.log(grouped).sum(axis=0) + np.log(mixed[whole:]).sum(axis=0)
    return -table.offset - total / len(table.ratios)


def set_gradients(table: TokenTable, rates: np.ndarray) -> np.ndarray:
    weights = effective_rates(rates, table.experts)  # [n, E]
    inner = np.zeros_like(weights)
    step = max(1, _CHUNK_ENTRIES // max(len(weights), 1))
    for start in range(0, len(table.ratios), step):
        ratios = table.ratios[start : start + step].astype(np.float64)
        inner -= (1.0 / np.maximum(ratios @ weights.T, SMALLEST_RATIO)).T @ ratios
    inner /= len(table.ratios)
    if len(table.experts) == rates.shape[-1]:
        return inner
    total = rates[:, table.experts].sum(axis=1, keepdims=True)
    inner = (inner - (inner * weights).sum(axis=1, keepdims=True)) / np.where(
        total > 0, total, 1.0
    )
    full = np.zeros_like(rates)
    full[:, table.experts] = np.where(total > 0, inner, 0.0)
    return full
