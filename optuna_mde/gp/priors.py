"""What is believed of the surrogate's hyper-parameters before any run.

In units of an output's spread over mixtures, and of the columns of `Features.lift`. docs/model.md
has the formulas, benchmarks/ablations.md what else was tried.
"""

from __future__ import annotations

import torch
from torch import Tensor

from optuna_mde.gp.features import Features
from optuna_mde.gp.kernel import Columns
from optuna_mde.gp.shared import SharedSlopes
from optuna_mde.gp.tails import HeavyTailed, Tails

# Coefficients of offset, MDE level, dilution, bend, gap, curve and steepness: mean and sd of what
# all outputs share (of offset and dilution nats per token, the others dimensionless); sd of an
# output's own around that, in standard units (`python -m benchmarks.prediction`).
SHARED_MEAN = (0.0, 0.0, 0.2, 0.2, -0.1, 0.25, 0.1)
SHARED = (0.1, 0.1, 0.15, 0.1, 0.1, 0.1, 0.1)
SHARED_TOLERANCE = 0.15  # sd, in standard units, of a run around what is shared
WITH_MDE = (0.06, 0.08, 0.28, 0.1, 0.1, 0.1, 0.1)
WITHOUT_MDE = (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
FAR = (1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0)  # an output that no expert kept

# Median of the residual's sd, with MDE that of a balanced mixture (`python -m benchmarks.search`),
# and how far it may be from that (`python -m benchmarks.worlds`).
RESIDUAL_WITH_MDE, RESIDUAL_WITHOUT = 0.1, 1.0
RESIDUAL = Tails(above=0.5, below=0.2, own=0.5)
DEPARTURE = Tails(above=0.4, below=0.2, own=0.4)  # of ω, by which WITH_MDE and FAR are taken
# Median of ψ, what an even blend of two domains gains or costs (`python -m benchmarks.worlds`).
BLEND_WITH_MDE, BLEND_WITHOUT = 0.02, 0.3
BLEND = Tails(above=0.7, below=0.2, own=0.5)

# Medians of length-scales and sd of their logarithms (`python -m benchmarks.prediction`).
LENGTHSCALE, SPREAD = 0.7, 0.5  # of all rates together, beside MDE losses; of other parameters
MDE_LENGTHSCALE = 1.5  # times the root of the number of sets
DOMAIN_LENGTHSCALE, DOMAIN_SPREAD = 8.0, 1.5  # of each domain, without experts
# Roughness without experts: sd and length-scale. Few runs let all length-scales grow, and the
# intervals shrink (`python -m benchmarks.prediction`).
ROUGH, ROUGH_LENGTHSCALE = 0.15, 0.3

# Seed noise: median variance, and how far its logarithm may be from that. Without experts only all
# outputs together tell it from a smooth function (`python -m benchmarks.search`).
NOISE_WITH_MDE, NOISE_TAILS_WITH_MDE = 2e-3, Tails(above=1.0, below=0.2, own=0.5)
NOISE_WITHOUT, NOISE_TAILS_WITHOUT = 8e-3, Tails(above=0.8, below=0.8, own=0.4)


def columns_of(features: Features, shared: SharedSlopes | None) -> Columns:
    """Columns and priors of the M processes.

    With experts the rates share one length-scale, since what is left to explain is small; without
    them each domain has its own. Every other parameter has its own.
    """
    rates, others, mde = features.n_rates, features.n_other, features.n_mde
    rate_blocks = [0] * rates if mde else list(range(rates))
    first = max(rate_blocks, default=-1) + 1
    blocks = [*rate_blocks, *range(first, first + others), *[first + others] * mde]
    n_blocks = first + others + (1 if mde else 0)
    median = torch.full((n_blocks,), LENGTHSCALE, dtype=torch.float64)
    spread = torch.full((n_blocks,), SPREAD, dtype=torch.float64)
    if mde:
        median[-1] = MDE_LENGTHSCALE * mde**0.5
    else:
        median[:first], spread[:first] = DOMAIN_LENGTHSCALE, DOMAIN_SPREAD
    M = len(features.outputs)
    strain = 1.0 if shared is None else max(1.0, shared.strain)
    residual, blend = (
        (RESIDUAL_WITH_MDE, BLEND_WITH_MDE) if mde else (RESIDUAL_WITHOUT, BLEND_WITHOUT)
    )
    ones = torch.ones(M, dtype=torch.float64)
    outputscale, blends = residual * strain * ones, blend * strain * ones
    return Columns(
        block=torch.tensor(blocks, dtype=torch.long),
        lengthscale=median.expand(M, -1).clone(),
        lengthscale_spread=spread.expand(M, -1).clone(),
        outputscale=outputscale,
        outputscale_prior=HeavyTailed(outputscale.log(), RESIDUAL),
        slope=_slopes(features),
        slope_prior=HeavyTailed(torch.zeros_like(outputscale), DEPARTURE),
        shared=_shared_roots(features, shared),
        rates=features.n_blended,
        expert_noise=noise_of(features).median.exp() if mde else 0.0 * ones,
        blend=blends,
        blend_prior=HeavyTailed(blends.log(), BLEND),
        rough=0.0 if mde else ROUGH,
        rough_lengthscale=ROUGH_LENGTHSCALE,
    )


def noise_of(features: Features) -> HeavyTailed:
    """Prior of the logarithms `[M]` of the noise variances in standard units."""
    if features.coreset is None:
        median, tails = NOISE_WITHOUT, NOISE_TAILS_WITHOUT
    else:
        median, tails = NOISE_WITH_MDE, NOISE_TAILS_WITH_MDE
    medians = torch.full((len(features.outputs),), median, dtype=torch.float64)
    return HeavyTailed(medians.log(), tails)


def _shared_roots(features: Features, shared: SharedSlopes | None) -> Tensor:
    """`M x L x L` root of the covariance of what is shared, in standard units of each output."""
    units = features.units
    if shared is None:
        return torch.zeros(*units.shape, units.shape[-1], dtype=torch.float64)
    per = (units / features.scale.unsqueeze(-1)).nan_to_num(nan=0.0)
    return per.unsqueeze(-1) * shared.root


def _slopes(features: Features) -> Tensor:
    if features.coreset is None:
        rows = [WITHOUT_MDE for _ in features.outputs]
    else:
        # An output that no expert kept leans on the average level of the others.
        rows = [WITH_MDE if known else FAR for known in features.has_mde.tolist()]
    return torch.tensor(rows, dtype=torch.float64)
