"""The next point of a study: an acquisition maximised, with a ladder of fall-backs.

1. the fitted surrogate; 2. the same with hyper-parameters at their prior medians; 3. the MDE
losses alone; 4. a point of the design. Each step down is logged with its cause, and none raises.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from optuna_mde.gp.modeller import Modeller
from optuna_mde.simplex.projection import Array, apart
from optuna_mde.simplex.region import Region, design

if TYPE_CHECKING:
    from optuna_mde.mde.experts import ExpertTable
    from optuna_mde.observations import Observations

# Two mixtures closer than this (L1 distance of their columns) are the same run.
SAME = 1e-3
# Workers that ask at once are kept this far apart: the improvement left beside a pending run is
# often next to nothing everywhere, and its maximum then huddles.
APART = 0.1
_TRIES = 16  # points that are looked at for one that is no repeat
# Where the runs deny MDE, mixtures are spread over the simplex until there are so many more of
# them than domains that lie farther apart than this (`python -m benchmarks.worlds`).
_PLACES, _NEIGHBOURS = 3, 0.25
# Where so many runs, or that share of all, are neighbours of a point already, the next one goes
# elsewhere: a surrogate that is too sure of what surrounds them would not find out
# (`python -m benchmarks.worlds`).
_CROWD, _CROWD_SHARE = 3, 0.33

DESIGN = "design"

_logger = logging.getLogger("optuna_mde")


@dataclass(frozen=True)
class Proposal:
    """A point to try.

    Args:
        x: `[d]` columns of the space, inside the region.
        phase: ``model``, ``prior`` (hyper-parameters not fitted), ``mde`` or ``design``.
        predicted_mean: expected objective (nats per token for losses); None for several goals.
        predicted_sd: sd of the noise-free objective.
        cause: why the first step of the ladder was not taken, if it was not.
    """

    x: Array
    phase: str
    predicted_mean: float | None = None
    predicted_sd: float | None = None
    cause: str | None = None


class Proposer:
    """Proposes points; keeps the last fitted surrogate. Can be copied and pickled."""

    def __init__(self) -> None:
        self._modeller = Modeller()
        self._logged: set[str] = set()

    def propose(self, observations: Observations, region: Region, *, seed: int) -> Proposal:
        """The next point: a function of observations, region and seed. Never raises."""
        steps: list[tuple[str, Callable[[], Proposal]]] = [
            ("model", lambda: self._by_surrogate(observations, region, seed, fit=True)),
            ("prior", lambda: self._by_surrogate(observations, region, seed, fit=False)),
            ("mde", lambda: self._by_mde(observations, region, seed)),
        ]
        if len(observations.X) == 0:
            steps = steps[2:]  # nothing to model yet, which is no failure
        cause: str | None = None
        with _one_thread():
            for phase, step in steps:
                try:
                    proposal = step()
                except Exception as error:
                    reason = f"{phase}: {type(error).__name__}: {error}"
                    self._log(reason)
                    cause = cause or reason
                    continue
                return Proposal(
                    proposal.x,
                    DESIGN if proposal.phase == DESIGN else phase,
                    proposal.predicted_mean,
                    proposal.predicted_sd,
                    cause,
                )
        return Proposal(design(region, seed, len(observations.X)), DESIGN, cause=cause)

    def _by_surrogate(
        self, observations: Observations, region: Region, seed: int, *, fit: bool
    ) -> Proposal:
        import torch

        from optuna_mde.acquisition.factory import build
        from optuna_mde.acquisition.polish import maximise, tensor

        rng = np.random.default_rng(seed)
        surrogate = self._modeller.surrogate(observations, region.blocks, fit=fit)
        W = tensor(observations.weights)
        seen = observations.seen
        inside = region.snap(np.concatenate([observations.X, observations.pending]))
        believing = surrogate.believe(tensor(observations.pending))
        only_experts = not observations.mixed.any()
        # Old runs say nothing of parts of a domain against each other, and the model goes by what
        # they say of the whole (`python -m benchmarks.domains`).
        untried = observations.untried and not surrogate.denies_mde
        if (only_experts or untried) and len(W) == 1 and surrogate.features.has_mde.any():
            # Nothing but experts: the MDE optimum is the best guess, and it is convex.
            greedy = self._by_mde(observations, region, seed)
            if not is_seen(greedy.x, seen):
                mean, sd = surrogate.goals(tensor(greedy.x[None]), W)
                return Proposal(greedy.x, "model", float(mean), float(sd))
        if surrogate.denies_mde and _places(observations) < len(observations.domains) + _PLACES:
            # A study whose runs deny its experts needs the design of one that has none.
            return Proposal(_fresh(region, seen, seed, len(seen)), DESIGN)
        with torch.no_grad():
            means = believing.means(tensor(inside)) @ W.mT
        anchors = inside[np.argsort(means.mean(dim=1).numpy(), kind="stable")]
        limits = observations.objective.limits_on(observations.outputs)
        acquisition = build(believing, W, limits, tensor(inside), seed)
        points, _ = maximise(acquisition, region, anchors, rng)
        x = _first_new(_uncrowded(points, observations), seen, observations.pending)
        if x is None:
            x = _fresh(region, seen, seed, len(observations.X))
        with torch.no_grad():
            mean, sd = surrogate.goals(tensor(x[None]), W)
        if len(W) > 1:
            return Proposal(x, "model")
        return Proposal(x, "model", float(mean), float(sd))

    def _by_mde(self, observations: Observations, region: Region, seed: int) -> Proposal:
        from optuna_mde.mde.optimum import MIXTURES

        experts = self._modeller.experts(observations)
        if experts is None or observations.block is None:
            raise ValueError("no expert log-probabilities")
        table = experts.table.every_token(MIXTURES) or experts.coreset.table()
        table = table.of_first(len(observations.domains))
        return _at_mde_optimum(observations, table, observations.block, region, seed)

    def _log(self, reason: str) -> None:
        if reason not in self._logged:
            self._logged.add(reason)
            _logger.warning("The proposal falls back a step. %s", reason)


def _at_mde_optimum(
    observations: Observations, table: ExpertTable, block: slice, region: Region, seed: int
) -> Proposal:
    """The optimum of the MDE losses; a mixture next to it if that is known already."""
    from optuna_mde.mde.optimum import minimise

    weights = _mde_weights(observations, table.sets)
    x = (
        design(region, seed, len(observations.X))
        if region.dim > len(observations.domains)
        else region.center
    )
    x = x.copy()
    x[block] = minimise(table, weights, region, block)
    rng, beside = np.random.default_rng(seed), 50.0 * x[block] + 0.1
    for _ in range(_TRIES):
        if not is_seen(x, observations.seen):
            return Proposal(x, "mde")
        jittered = x.copy()
        jittered[block] = rng.dirichlet(beside)  # beside a corner, often the corner itself
        x = region.snap(jittered)[0]
    return Proposal(_fresh(region, observations.seen, seed, len(observations.X)), "mde")


def _mde_weights(observations: Observations, sets: tuple[str, ...]) -> Array:
    """Weights over the sets that have an MDE loss, all goals taken together."""
    W = observations.weights.mean(axis=0)
    known = dict(zip(observations.outputs, W, strict=True))
    weights = np.array([known.get(name, 0.0) for name in sets])
    return weights if weights.sum() > 0 else np.full(len(sets), 1.0 / len(sets))


def _places(observations: Observations) -> int:
    """How many mixtures inside the simplex were run, or will be, that are no neighbours."""
    X = np.concatenate([observations.X[observations.mixed], observations.pending])
    return len(apart(X[:, observations.block], _NEIGHBOURS))


def _uncrowded(points: Array, observations: Observations) -> Array:
    """The points that few runs are neighbours of; all of them if none is."""
    runs = observations.X[observations.mixed]
    near = (np.abs(points[:, None] - runs).sum(axis=-1) < _NEIGHBOURS).sum(axis=1)
    few = near < max(_CROWD, _CROWD_SHARE * len(runs))
    return points[few] if few.any() else points


def is_seen(x: Array, seen: Array, distance: float = SAME) -> bool:
    """Whether a point `[d]` is one of others `[m, d]`."""
    return len(seen) > 0 and bool(np.abs(seen - x).sum(axis=1).min() < distance)


def _first_new(points: Array, seen: Array, pending: Array) -> Array | None:
    """The best of the points that is no repeat, apart from pending ones if that can be."""
    new = [p for p in points if not is_seen(p, seen)]
    return next((p for p in new if not is_seen(p, pending, APART)), new[0] if new else None)


def _fresh(region: Region, seen: Array, seed: int, index: int) -> Array:
    """A design point that is no repeat, if the region has one to give."""
    points = [design(region, seed, index + i) for i in range(_TRIES)]
    return next((p for p in points if not is_seen(p, seen)), points[0])


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Small matrices: more threads than one make every step slower. Restored afterwards."""
    import torch

    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
