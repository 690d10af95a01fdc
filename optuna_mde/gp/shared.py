"""What all outputs have in common of the regressors' coefficients, and how surely.

What dilution costs, or how far MDE is off, is much the same for every validation set: with six
runs the outputs together say it, where each alone cannot.

Notation: output i has runs `n`, regressors ``Φ_i`` `[n, L]` and targets ``y_i`` `[n]` in standard
units; ``y_i = Φ_i (β + u_i) + e_i`` with β what is shared, ``β ~ N(m, τ² S²)``, ``u_i ~ N(0, ω²
D)`` what is an output's own, and ``e ~ N(0, σ²)``. How far β and u_i may be from what is usual (τ,
ω), and how much no regressor explains (σ), is not known before the runs: all three are summed
over a grid, weighted by their evidence [Rasmussen and Williams 2006, ch. 5].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from optuna_mde.gp.tails import log_t

# Steps of the grid, and how far the logarithm of each may be from 0 (τ, ω) or that of the usual
# tolerance (σ), as a Student t with few degrees of freedom: tails that reach "not at all"
# (`python -m benchmarks.worlds`).
_FACTORS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
_TOLERANCES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # few runs must not take it for nothing
_DEPARTURE, _FREEDOM = 0.7, 3.0

# Strain: the largest of how far the coefficients that bend the losses (all but offset and level,
# which another size or length of the runs may move) take the runs from what is usual, over its
# prior sd and in units of `_FAR`; of ω, and of σ over the usual tolerance, in units that are
# more than what the priors alone say of them (1.21, 1.62). At most 1 where MDE is right,
# and before any run (`python -m benchmarks.worlds`).
_BENDING = slice(2, None)
_FAR, _FAR_OWN, _FAR_LEFT = 3.0, 2.0, 1.75


@dataclass(frozen=True)
class SharedSlopes:
    """Coefficients that the outputs share.

    Args:
        mean: `[L]`, of offset and dilution in nats per token, of the others dimensionless.
        root: `[L, L]` whose product with its transpose is their covariance, same units.
        rest: σ, in standard units: what no regressor explains, noise among it.
        strain: how far the runs are from what is usual where MDE is right; above 1 they deny it.
    """

    mean: Tensor
    root: Tensor
    rest: float
    strain: float


def shared_slopes(
    phi: Tensor,
    targets: Tensor,
    weights: Tensor,
    prior_mean: Tensor,
    prior_sd: Tensor,
    own_sd: Tensor,
    tolerance: float,
) -> SharedSlopes:
    """Learn what is shared.

    Args:
        phi: `n x M x L` regressors, in standard units of each output per unit of a coefficient.
        targets: `n x M` in standard units.
        weights: `n x M` 1 where a target counts, else 0.
        prior_mean: `[L]` m and
        prior_sd: `[L]` S, in the units of the coefficients.
        own_sd: `M x L` D's root, in the units of the coefficients; 0 where an output has none.
        tolerance: the usual σ, standard units.
    """
    A = (phi * weights.unsqueeze(-1)).transpose(0, 1)  # [M, n, L]
    y = torch.where(weights > 0, targets, 0.0).mT - A @ prior_mean * weights.mT  # [M, n]
    n, L = weights.sum(dim=0), phi.shape[-1]
    gram, moment, power = A.mT @ A, (A.mT @ y.unsqueeze(-1)).squeeze(-1), y.square().sum(dim=-1)
    steps, factors = (torch.tensor(v, dtype=torch.float64) for v in (_TOLERANCES, _FACTORS))
    # σ and ω: what remains of every output once its own part is integrated out
    step, omega = (v.reshape(-1) for v in torch.meshgrid(steps, factors, indexing="ij"))  # [c]
    sigma2 = (tolerance * step).square().reshape(-1, 1, 1, 1)
    reach = own_sd * omega.reshape(-1, 1, 1)  # [c, M, L]
    scaled = gram * reach.unsqueeze(-1)  # D^½ G
    inner = scaled * reach.unsqueeze(-2) / sigma2 + torch.eye(L, dtype=torch.float64)
    solved = torch.linalg.solve(
        inner, torch.cat([scaled, (moment * reach).unsqueeze(-1)], dim=-1) / sigma2
    )
    known = torch.cat([gram, moment.unsqueeze(-1)], dim=-1) - scaled.mT @ solved  # [c, M, L, L+1]
    total = (known / sigma2).sum(dim=1)  # [c, L, L + 1]
    rest = power - ((moment * reach).unsqueeze(-2) @ solved[..., L:])[..., 0, 0]
    rest = (rest / sigma2[..., 0, 0]).sum(dim=1)
    volume = (n * sigma2[..., 0, 0].log() + torch.logdet(inner)).sum(dim=1)
    fixed = -0.5 * (rest + volume) + _log_prior(step) + _log_prior(omega)  # [c]
    spread = (factors.unsqueeze(-1) * prior_sd).square()  # [t, L]
    posterior = total[:, None, :, :L] + torch.diag_embed(spread.reciprocal())  # [c, t, L, L]
    covariance = torch.linalg.inv(posterior)
    pull = total[:, None, :, L]
    means = (covariance @ pull.unsqueeze(-1)).squeeze(-1)  # [c, t, L]
    gain = (pull * means).sum(dim=-1) - torch.logdet(posterior) - spread.log().sum(dim=-1)
    evidence = fixed.unsqueeze(-1) + 0.5 * gain + _log_prior(factors)
    share = torch.softmax(evidence.reshape(-1), dim=0).reshape(evidence.shape)
    mean = torch.einsum("ct,ctl->l", share, means)
    apart = means - mean
    covariance = torch.einsum("ct,ctij->ij", share, covariance)
    covariance = covariance + torch.einsum("ct,cti,ctj->ij", share, apart, apart)
    values, vectors = torch.linalg.eigh(covariance)
    of_cells = share.sum(dim=1)
    own, left = ((of_cells @ v.log()).exp() for v in (omega, step))
    bent = A[..., _BENDING]
    usual = (bent * prior_sd[_BENDING]).square().sum().clamp_min(1e-12)
    departure = ((bent @ mean[_BENDING]).square().sum() / usual).sqrt()
    strain = max(float(departure) / _FAR, float(own) / _FAR_OWN, float(left) / _FAR_LEFT)
    root = vectors * values.clamp_min(0.0).sqrt()
    return SharedSlopes(prior_mean + mean, root, tolerance * float(left), strain)


def _log_prior(factor: Tensor) -> Tensor:
    """Log-density of factors, but for a constant."""
    return log_t(factor.log() / _DEPARTURE, _FREEDOM)
