"""What is believed of the surrogate's hyper-parameters before any run.

In units of an output's spread over mixtures, and of the columns of `Features.lift`. Measured on
recorded runs of 5 domains and 7 sets (35 mixtures, 6 splits, 1 to 16 runs beside the experts):

* the experts' own losses as data for everything made intervals too narrow (those of the objective
  held .57 at 3 runs, .90 without); hyper-parameters are fitted without them, see below;
* the dilution lowered the error of the objective at 6 / 10 runs from .051 / .030 to .045 / .026;
  with another recipe of training (60 mixtures) the gap took it from .056 / .047 to .042 / .039,
  and the error over the simplex of a search that had stayed near its optimum from .054 to .042;
* 90 % intervals of sets and objectives held 1.0 / .94 / .88 of the runs at 3 / 12 / 25 runs with a
  residual sd of .5 (median) and seed noise that was free to vanish, 1.0 / .97 / .92 with .2 and
  noise held near .06 of the spread (in the older recipe .99 / .89 / .91 and .95 / .92 / .95), at
  the same errors;
* coefficients that the outputs share took that error from .042 to .037, in the older recipe from
  .050 to .047, and in the demo study, on 24 fresh mixtures after 6 runs, from .054 to .039; with 6
  runs spread at random they changed little (.042 to .046 and .047 to .050). A term for each domain
  that the outputs share as well helped one recipe (.033) and hurt the other (.057): left out;
* the two learning curves: with all runs known, the mean over sets of the leave-one-out error of a
  linear model fell from .053 to .039, in the older recipe from .077 to .049; in the demo study
  after 6 runs from .039 to .020, of a search near its optimum from .037 to .036 and .047 to .041,
  with 3 / 6 / 12 runs at random from .063 / .047 / .032 to .048 / .039 / .027 (in the older recipe
  .078 / .050 / .040 became .081 / .055 / .033). Without a further run the means of the shared
  coefficients, rather than 0, took it from .20 to .05 (.29 to .13). Curves in place of dilution,
  bend and gap were worse over all sets;
* on a recording of 7 domains and 11 sets (5 splits), coefficients of an output with .7 of the sd
  that they had and a residual of .18 instead of .25 left the errors as they were (.044 and .024 at
  12 and 32 runs, experts counted) and took intervals of 1.5 / 1.2 / .9 / .9 times the width that
  12 / 18 / 32 / 64 runs needed to 1.3 / 1.1 / .9 / .9;
* on recordings of 7 domains, 11 sets and of 8 domains, 12 sets (4 splits, each at 12 / 18 / 32
  runs), experts as data for the coefficients and the posterior, not for hyper-parameters, took the
  error of the objective from .044 / .031 / .026 to .040 / .027 / .022 and from .095 / .050 / .036
  to .050 / .048 / .036; single sets' intervals went on to hold what they held (.97 / .95 / .91 and
  .99 / .93 / .91). For hyper-parameters too: the same errors, .90 / .89 / .89 and .91 / .85 /
  .88. A residual of .14 for .18 and a noise of 2.6e-3 for 3.6e-3 narrowed intervals of 1.4 / 1.2 /
  1.05 and 1.6 / 1.2 / 1.0 times the width that 12 / 18 / 32 runs needed to 1.3 / 1.1 / 1.0 and
  1.5 / 1.1 / 1.0. An offset that vanishes towards the corners, in place of a constant one, was
  worse beside experts' losses (.049, not .040, near the corners at 18 runs);
* there, what outputs share as all runs of both recordings have it (bend and gap were 0, dilution
  .1 before) and sd of a third to a half took that error at 9 / 12 / 18 / 32 runs from .048 / .036
  / .026 / .022 to .038 / .034 / .026 / .022 and from .050 / .047 / .046 / .035 to .047 / .045 /
  .044 / .034 (6 splits); with experts at half a budget from .067 / .037 / .026 / .025 to .047 /
  .033 / .026 / .025 and from .072 / .065 / .031 / .025 to .050 / .043 / .029 / .024 (5 splits);
* two processes for each output, one over rates and one over MDE losses too, averaged or weighted
  by evidence, were no better than the one over both.
"""

from __future__ import annotations

import torch
from torch import Tensor

from optuna_mde.gp.features import Features
from optuna_mde.gp.kernel import Columns
from optuna_mde.gp.shared import SharedSlopes
from optuna_mde.gp.tails import HeavyTailed, Tails

# Coefficients of offset, MDE level, dilution, bend, gap, curve and steepness: mean and sd of what
# all outputs share, in nats per token; sd of an output's own around that, in standard units.
SHARED_MEAN = (0.0, 0.0, 0.2, 0.2, -0.1, 0.25, 0.1)
SHARED = (0.1, 0.1, 0.15, 0.1, 0.1, 0.1, 0.1)
SHARED_TOLERANCE = 0.15  # sd, in standard units, of a run around what is shared
WITH_MDE = (0.06, 0.08, 0.28, 0.1, 0.1, 0.1, 0.1)
WITHOUT_MDE = (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
FAR = (1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0)  # an output that no expert kept

RESIDUAL_WITH_MDE, RESIDUAL_WITHOUT = 0.1, 1.0  # with MDE: that of a balanced mixture
RESIDUAL = Tails(above=0.5, below=0.2, own=0.5)
DEPARTURE = Tails(above=0.4, below=0.2, own=0.4)  # of ω, by which WITH_MDE and FAR are taken

LENGTHSCALE, SPREAD = 0.7, 0.5  # of all rates together, beside MDE losses; of other parameters
MDE_LENGTHSCALE = 1.5  # times the root of the number of sets
# Of each domain, without experts. On RegMix's recorded runs (17 domains, 13 sets, 4 splits), rank
# correlation of the mean at 16 / 32 / 64 runs: .60 / .85 / .95 at .7 and spread .5, .81 / .92 /
# .96 at 2 and 1, .86 / .94 / .97 at 8 and 1.5 with the noise below; a linear trend in the rates
# beside it made it worse (.75 / .90 / .96), a sum of one process for each domain no better.
DOMAIN_LENGTHSCALE, DOMAIN_SPREAD = 8.0, 1.5
# Roughness without experts: sd and length-scale. Few runs let all length-scales grow, and the
# intervals shrink. Single sets' runs in their 90 % interval, and rank correlation of the mean,
# with .1, .15 and .2 (5 splits): on two recordings at 12 / 18 / 32 / 64 runs .87 / .87 / .88 / .90
# and .947 / .970 / .985 / .993, .89 / .90 / .91 / .93 and .945 / .969 / .984 / .993, .91 / .93 /
# .94 / .95 and .945 / .967 / .983 / .993; .91 / .90 / .91 / .92 and .967 / .970 / .987 / .993, .94
# / .93 / .94 / .96 and .967 / .971 / .987 / .992, .95 / .95 / .96 / .97 and .965 / .972 / .986 /
# .992; on RegMix's at 16 / 32 / 64 .93 / .91 / .92 and .937 / .963 / .981, .96 / .95 / .96 and
# .935 / .965 / .982, .97 / .97 / .98 and .933 / .964 / .981. As a share of the fitted variance it
# took noise for structure.
ROUGH, ROUGH_LENGTHSCALE = 0.15, 0.3

# Seed noise: median variance, and sd of its logarithm: an output's own, and what all have in
# common. With experts a wider prior let it shrink to half of what repeats showed. Without them it
# may be told from a smooth function, by all outputs together: each alone, in (4e-3, 1), it stayed
# at half of the repeats' from 8 to 24 runs of a search. Searches without experts (6 on each of 8
# emulated objectives), mean regret at 12 / 16 / 24 / 32 runs and recommendations inside their
# interval, common .8: .0350 / .0221 / .0162 / .0134 and 1.0 / .86 / .73 / .88; common 1.5: .0359 /
# .0245 / .0183 / .0124 and .98 / .75 / .71 / .88; 1.5e-2 and 1.5: .0358 / .0242 / .0187 / .0138
# and 1.0 / .73 / .63 / .88; 1e-2 and .5: .0337 / .0215 / .0163 / .0143 and 1.0 / .90 / .71 / .77.
# A flat study of one output is known for one after 7 runs, not 11 to 18. Higher medians take a
# steep, quiet one for noise up to 12 runs. Predictions of mixtures at random hardly change.
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
    strain = 0.0 if shared is None else shared.strain
    residual = (RESIDUAL_WITH_MDE if mde else RESIDUAL_WITHOUT) * max(1.0, strain)
    outputscale = torch.full((M,), residual, dtype=torch.float64)
    return Columns(
        block=torch.tensor(blocks, dtype=torch.long),
        lengthscale=median.expand(M, -1).clone(),
        lengthscale_spread=spread.expand(M, -1).clone(),
        outputscale=outputscale,
        outputscale_prior=HeavyTailed(outputscale.log(), RESIDUAL),
        slope=_slopes(features),
        slope_prior=HeavyTailed(torch.zeros_like(outputscale), DEPARTURE),
        shared=_shared_roots(features, shared),
        experts=features.n_experts,
        expert_noise=noise_of(features).median.exp(),
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
