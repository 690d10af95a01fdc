"""How wide intervals are, beside the posterior's own.

A fitted process leaves out the doubt of its hyper-parameters. Factors of the posterior's sd, as
runs have shown them: `of_the_posterior`, which searches see as well, and `of_answers` beside it,
for what is told to people. What leave-one-out shows of a study comes on top (`answers.held_out`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from optuna_mde.gp.features import Features

# Few runs say little of the hyper-parameters. Without MDE losses sd are the posterior's times
# sqrt(1 + (_DOUBT / n)²), n being at least _FEWEST (`python -m benchmarks.prediction`).
_DOUBT, _FEWEST = 18.0, 8

# Times the posterior's sd, as noise-free values of emulated runs need it beside MDE losses
# (`python -m benchmarks.calibration`).
_TOLD = 1.2


def of_the_posterior(features: Features, runs: Tensor) -> Tensor:
    """Factors `[M]` for outputs that `[M]` finished runs speak for, see ``_DOUBT``."""
    doubt = _DOUBT / runs.clamp_min(_FEWEST)
    return (1.0 + doubt.square()).sqrt().masked_fill(features.has_mde, 1.0)


def of_answers(features: Features) -> float:
    """Factor for predictions and the rows of a recommendation, see ``_TOLD``."""
    return 1.0 if features.coreset is None else _TOLD
