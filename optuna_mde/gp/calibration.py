"""How wide intervals are, beside the posterior's own.

A fitted process leaves out the doubt of its hyper-parameters, and searches do best with priors
wider than what they leave unexplained. Factors of the posterior's sd, as runs have shown them:
`of_the_posterior`, which searches see as well; beside it `of_predictions`, for mixtures anywhere,
and `of_rows`, for those that a recommendation names.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from optuna_mde.gp.features import Features

# Few runs say little of the hyper-parameters, whose doubt the posterior leaves out. With MDE
# losses little hangs on them; without, sd are the posterior's times sqrt(1 + (18 / n)²), n being
# at least 8. Single sets' runs inside their 90 % interval with it (10 splits): on two recordings
# at 12 / 18 / 25 / 32 / 64 runs .91 / .92 / .92 / .91 / .91 and .92 / .92 / .94 / .94 / .94,
# RegMix's at 16 / 32 / 64 / 128 .95 / .95 / .97 / .99. Of losses as they are (`warp`) it was,
# without and with it, .78 / .84 / .87 / .89 / .93 and .90 / .91 / .91 / .91 / .93, .73 / .82 / .87
# / .89 / .94 and .87 / .89 / .91 / .92 / .94; power laws at 12 / 18 / 32 .60 / .73 / .84 and .85 /
# .87 / .88; and searches, which explore more by it, had a regret at 12 / 16 / 24 / 32 runs (48 of
# them) of .0415 / .0275 / .0177 / .0131 without, .0336 / .0255 / .0191 / .0143 nats with it.
_DOUBT, _FEWEST = 18.0, 8

# With experts, priors decide how wide intervals are while runs are few: they leave room for full
# experts, and too little for cheap ones, whose MDE losses say less. Later the posterior is too
# sure of itself. Sd of predictions are 1.25 - .28 log2(8 b) / (1 + r / 6) times the posterior's, r
# being the full runs beside the experts and b the experts' share of a full run. Sets inside their
# 90 % interval at 12 / 18 / 32 runs, experts counted, by the posterior and with it (5 splits of
# each of two recordings), single runs: full experts .95 / .93 / .90 and .97 / .92 / .91, .91 / .92
# / .92 and .94 / .91 / .92; half ones .92 / .91 / .91 and .93 / .91 / .91, .92 / .93 / .93 and .93
# / .92 / .93; at an eighth .87 / .88 / .89 and .82 / .85 / .88, .91 / .93 / .93 and .88 / .91 /
# .92; noise-free values of emulated runs: full .93 / .88 / .84 and .96 / .89 / .87, .86 / .86 /
# .87 and .88 / .87 / .90; half .89 / .87 / .85 and .90 / .88 / .88, .90 / .90 / .90 and .90 / .91
# / .92; at an eighth .83 / .85 / .89 and .83 / .85 / .88, .90 / .92 / .94 and .89 / .92 / .94.
_WIDE, _ROOM, _ROOM_RUNS = 1.25, 0.28, 6.0

# Rows lie where runs crowd. There, what MDE losses leave over is rougher than the fitted process:
# after searches, and with a wider residual than today's, noise-free values of mixtures at random
# were inside 90 % intervals in .95-.99 of the cases, those near the optimum in .75-.93 (two
# recordings, 8 emulated objectives). The sd of rows is this much wider: recommendations inside
# their interval, of 240 studies with full experts .88 -> .93, of 220 with half ones .83 -> .90. A
# rough part in the kernel did as much for them, but searches with half experts were worse by .002
# to .004 nats. Without experts .93 are inside.
_CROWDED = 1.2


def of_the_posterior(features: Features, runs: Tensor) -> Tensor:
    """Factors `[M]` for outputs that `[M]` finished runs speak for, see ``_DOUBT``."""
    doubt = _DOUBT / runs.clamp_min(_FEWEST)
    return (1.0 + doubt.square()).sqrt().masked_fill(features.has_mde, 1.0)


def of_predictions(budgets: Sequence[float], beside: int) -> float:
    """Factor for mixtures anywhere, see ``_ROOM``.

    Args:
        budgets: the experts' shares of a full run; empty without any.
        beside: full runs that are no experts.
    """
    if not budgets:
        return 1.0
    doublings = sum(math.log2(8.0 * budget) for budget in budgets) / len(budgets)
    return _WIDE - _ROOM * doublings / (1.0 + beside / _ROOM_RUNS)


def of_rows(features: Features) -> float:
    """Factor for the rows of a recommendation, see ``_CROWDED``."""
    return 1.0 if features.coreset is None else _CROWDED
