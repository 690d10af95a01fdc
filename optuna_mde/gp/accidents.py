"""Diverged runs: so far above all others that no mixture explains it.

A run of 11 nats among runs of 3 would cost every prediction a factor of twenty. It is judged by
the other runs, never by MDE: where the experts are wrong, all runs are far from what MDE says.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Above the highest of the others by this many times their whole range. A mixture that leaves a
# set without its domain is far above the others too, but on that set alone, or among such ones
# (`python -m benchmarks.worlds`).
_BEYOND = 2.5
_MOST = 0.25  # share of the runs that may be accidents
_FEWEST = 5  # others, below which nothing is known of what runs do
_LEAST_NOISE = 1.0  # variance, in standard units, of a diverged run's loss at the least


def accidents(Y: Tensor) -> Tensor:
    """Which of the runs `[n]` diverged, from losses `n x M` in nats per token (NaN where absent).

    The largest group of the worst runs, each of which lies beyond all others on half of its sets.
    """
    n = len(Y)
    diverged = torch.zeros(n, dtype=torch.bool)
    if n <= _FEWEST:
        return diverged
    finite = torch.where(Y.isfinite(), Y, torch.nan)
    level = (Y - finite.nanmedian(dim=0).values).nanmedian(dim=1).values
    order = torch.argsort(level.nan_to_num(nan=-torch.inf), descending=True, stable=True)
    for k in range(1, min(int(_MOST * n), n - _FEWEST) + 1):
        worst, others = order[:k], finite[order[k:]]
        high = others.nan_to_num(nan=-torch.inf).max(dim=0).values
        low = others.nan_to_num(nan=torch.inf).min(dim=0).values
        beyond = (Y[worst] - high) / (high - low).clamp_min(1e-12)  # [k, M], NaN where absent
        if bool((beyond.nanmedian(dim=1).values > _BEYOND).all()):
            diverged[worst] = True
    return diverged


def pulled_in(Y: Tensor) -> tuple[Tensor, Tensor]:
    """Losses `n x M` in which no diverged run is above all others, and which `[n]` diverged."""
    diverged = accidents(Y)
    if not diverged.any():
        return Y, diverged
    others = torch.where(Y.isfinite() & ~diverged.unsqueeze(-1), Y, -torch.inf)
    highest = others.max(dim=0).values
    return torch.where(diverged.unsqueeze(-1), torch.minimum(Y, highest), Y), diverged


def weakly(targets: Tensor, diverged: Tensor) -> Tensor:
    """Noise variances `n x M` under which a diverged run tells little, and of nothing far.

    Args:
        targets: `n x M` in standard units.
        diverged: `[n]`.
    """
    if not diverged.any():
        return torch.zeros_like(targets)
    middle = targets.nanmedian(dim=0).values
    return torch.where(diverged.unsqueeze(-1), (targets - middle).square() + _LEAST_NOISE, 0.0)
