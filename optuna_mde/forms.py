"""The forms of the surrogate, with what is believed of each before any run.

All priors are in units of the spread of an output over mixtures, and of the columns of
`Features.lift`; see `kernel.Columns` for their meaning.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from optuna_mde.features import Features
from optuna_mde.kernel import Columns


@dataclass(frozen=True)
class Form:
    """One way to model an output.

    Args:
        name: for logs and tables.
        uses_corners: whether the experts' own losses are data.
        sees_mde: whether distances are also taken over MDE losses.
        outputscale: prior median of the residual's sd.
        slope: prior sd of offset, slope and exponent of the MDE loss.
    """

    name: str
    uses_corners: bool
    sees_mde: bool
    outputscale: float
    slope: tuple[float, float, float]


MEAN = Form("mean", uses_corners=False, sees_mde=False, outputscale=0.3, slope=(0.4, 0.3, 0.3))
KERNEL = Form("kernel", uses_corners=True, sees_mde=True, outputscale=0.3, slope=(0.4, 0.3, 0.3))
RATES = Form("rates", uses_corners=True, sees_mde=False, outputscale=1.0, slope=(1.0, 0.0, 0.0))

RATES_LENGTHSCALE = 0.7  # of all rates together, beside MDE losses
# Of each domain, without experts. On RegMix's recorded runs (17 domains, 13 sets, 4 splits), rank
# correlation of the mean at 16 / 32 / 64 runs: .60 / .85 / .95 at .7 and spread .5, .81 / .92 /
# .96 at 2 and 1; a linear trend in the rates beside it made it worse (.75 / .90 / .96).
DOMAIN_LENGTHSCALE, DOMAIN_SPREAD = 2.0, 1.0
MDE_LENGTHSCALE = 1.5  # times the root of the number of sets
OTHER_LENGTHSCALE = 0.7
LENGTHSCALE_SPREAD = 0.5
OUTPUTSCALE_SPREAD = 0.7


def forms_for(features: Features) -> tuple[Form, ...]:
    """The forms that these features allow."""
    return (MEAN, KERNEL) if features.coreset is not None else (RATES,)


def layout(features: Features, forms: tuple[Form, ...]) -> Columns:
    """Columns and priors of the batch of ``len(forms) x M`` processes.

    With experts the rates share one length-scale, since what is left to explain is small and a
    length-scale for each domain bought nothing up to 60 runs; without them each domain has one.
    """
    rates, others, mde = features.n_rates, features.n_other, features.n_mde
    tied = features.coreset is not None
    rate_blocks = [0] * rates if tied else list(range(rates))
    first = max(rate_blocks, default=-1) + 1
    other_blocks = list(range(first, first + others))
    mde_blocks = [first + others] * mde
    block = torch.tensor(rate_blocks + other_blocks + mde_blocks, dtype=torch.long)
    n_blocks = first + others + (1 if mde else 0)
    medians = torch.full((n_blocks,), RATES_LENGTHSCALE, dtype=torch.float64)
    spread = torch.full((n_blocks,), LENGTHSCALE_SPREAD, dtype=torch.float64)
    if not tied:
        medians[:first], spread[:first] = DOMAIN_LENGTHSCALE, DOMAIN_SPREAD
    medians[first : first + others] = OTHER_LENGTHSCALE
    if mde:
        medians[-1] = MDE_LENGTHSCALE * mde**0.5
    M = len(features.outputs)
    seen = torch.stack(
        [torch.tensor([1.0] * (rates + others) + [float(form.sees_mde)] * mde) for form in forms]
    ).double()
    return Columns(
        block=block,
        seen=seen.repeat_interleave(M, dim=0),
        lengthscale=medians.expand(len(forms) * M, -1).clone(),
        lengthscale_spread=spread.expand(len(forms) * M, -1).clone(),
        outputscale=_each([form.outputscale for form in forms], M),
        outputscale_spread=OUTPUTSCALE_SPREAD,
        slope=_each([form.slope for form in forms], M),
    )


def _each(values: list[float] | list[tuple[float, float, float]], M: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).repeat_interleave(M, dim=0)
