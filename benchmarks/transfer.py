"""A law of the rates alone: tokens of every domain count as some tokens of the validation set's.

``L(λ) = c + k (Σ_j w_j λ_j)^-β``: a power law in the data, of which domain j transfers a share w_j
to the set [Hernandez et al. 2021, Scaling Laws for Transfer]. Trend of an emulator, see
`emulator`: a Gaussian process alone does not know what a set loses with the last domain that
serves it.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import least_squares

from benchmarks.peers import Array

_EXPONENTS = (0.1, 0.5)  # to start from
_DOUBT = 0.01  # nats: how little a parameter's distance from its start counts
_ROBUST = 0.1  # nats: errors beyond it count less


def fit_law(rates: Array, losses: Array) -> Array:
    """Parameters `[3 + K]`: c, log k, log β, log w.

    Args:
        rates: `[n, K]`.
        losses: `[n]` nats per token.
    """
    K = rates.shape[1]
    fits = []
    for exponent in _EXPONENTS:
        start = np.concatenate([[losses.min() - 1.0, 0.0, np.log(exponent)], np.full(K, -1.0)])

        def errors(parameters: Array, start: Array = start) -> Array:
            missed = law_losses(parameters, rates) - losses
            return np.concatenate([missed, _DOUBT * (parameters - start)])

        fits.append(least_squares(errors, start, loss="soft_l1", f_scale=_ROBUST, max_nfev=200))
    return np.asarray(min(fits, key=lambda fit: float(fit.cost)).x)


def law_losses(parameters: Array, rates: Array) -> Array:
    """Losses `[n]` of mixtures `[n, K]`, nats per token."""
    level, log_factor, log_exponent, *log_transfer = parameters
    served = rates @ np.exp(log_transfer)
    return np.asarray(level + np.exp(log_factor) * served ** -np.exp(log_exponent))
