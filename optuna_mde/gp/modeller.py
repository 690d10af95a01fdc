"""From observations to a fitted surrogate, once for each state of the study.

A model is a function of the observations alone, never of what a process has seen before: any
worker, restarted at any time, fits the same one. Cost is bounded by three means: hyper-parameters
come from at most `FIT_RUNS` runs, and fewer of more than 24 outputs (`FIT_ENTRIES`); beyond
`REFIT_FROM` runs they are fitted anew only when the number of runs has grown by a tenth; the
posterior stands on at most `MODEL_RUNS` runs.
What fewer runs cost is in benchmarks/ablations.md.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from optuna_mde.simplex.projection import is_corner

if TYPE_CHECKING:
    import torch

    from optuna_mde.gp.features import Features
    from optuna_mde.gp.surrogate import Hyperparameters, Runs, Surrogate
    from optuna_mde.mde.coreset import Coreset
    from optuna_mde.mde.loading import Experts, Reader
    from optuna_mde.observations import Observations

FIT_RUNS = 128
FIT_ENTRIES = 24 * FIT_RUNS**2  # of the outputs' covariances together
REFIT_FROM = 60
MODEL_RUNS = 400
_REFIT_GROWTH = 1.1  # of the number of runs, between two fits of hyper-parameters
_BEST = 3  # where runs are left out, one in so many of those that stay is among the best


class Modeller:
    """Fits surrogates and keeps the last one. Copies and pickles start empty."""

    def __init__(self, reader: Reader | None = None) -> None:
        self._reader = reader
        self._surrogate: tuple[bytes, Surrogate] | None = None
        self._fitted: _Hyperparameters | None = None

    def __getstate__(self) -> dict[str, Any]:
        return vars(Modeller())

    def surrogate(
        self, observations: Observations, blocks: Sequence[slice], *, fit: bool = True
    ) -> Surrogate:
        """The surrogate of some observations.

        Args:
            observations: what is known.
            blocks: columns of the study's mixtures.
            fit: whether hyper-parameters are fitted; else they stay at their prior medians.

        Raises:
            Exception: whatever BoTorch raises when a fit fails.
        """
        experts = self.experts(observations)
        read = (experts.files, experts.refused) if experts else None
        older = (observations.retired, observations.shares.tolist())
        columns = (observations.block, observations.domains, older, tuple(blocks))
        layout = (observations.outputs, *columns, read)
        arrays = (
            observations.X,
            observations.Y,
            observations.numbers,
            observations.corner,
            observations.full,
            observations.held,
        )
        key = _digest(arrays, (layout, fit))
        known = self._surrogate
        if known is not None and known[0] == key:
            return known[1]
        coreset = experts.coreset if experts else None
        # a run whose expert's file is refused is told by its losses, as all other runs are
        used = experts.table.used if experts else set()
        files_used = tuple(file for file in observations.experts if file.domain in used)
        held = observations.held * [domain in used for domain in observations.retired]
        told = replace(observations, experts=files_used, held=held)
        surrogate, self._fitted = _build(told, blocks, coreset, fit, layout, self._fitted)
        self._surrogate = key, surrogate
        return surrogate

    def experts(self, observations: Observations) -> Experts | None:
        """What the experts' files say, read once while they stay; None without two of them."""
        from optuna_mde.mde.loading import Reader, Source

        if len(observations.fullest) < 2:
            return None
        self._reader = self._reader or Reader()
        domains = (*observations.domains, *observations.retired)
        files: dict[str, list[Source]] = {}
        for file in observations.experts:
            if file.domain in domains:  # else the experts of its parts tell
                source = Source(file.url, file.losses, file.more)
                files.setdefault(file.domain, []).append(source)
        experts = self._reader.read(domains, files)
        if not experts.table.sets:
            return None
        if observations.outputs and not set(experts.table.sets) & set(observations.outputs):
            warnings.warn(
                f"the experts' log-probabilities are of {', '.join(experts.table.sets)}, and no "
                f"run reports a loss of these: MDE serves no set. Name sets alike in "
                f"save_logprobs and report_losses; the losses are of "
                f"{', '.join(observations.outputs)}",
                stacklevel=2,
            )
        return experts

    def refused(self, observations: Observations) -> dict[str, str]:
        """{domain: reason} of the experts' files, or sets of them, that were left out last."""
        last = self._reader.last if self._reader else None
        return {**(last.refused if last else {}), **observations.refused}


@dataclass(frozen=True)
class _Hyperparameters:
    """Hyper-parameters, and what they were fitted on: the same runs need no second fit."""

    key: bytes
    state: Hyperparameters


def _build(
    observations: Observations,
    blocks: Sequence[slice],
    coreset: Coreset | None,
    fit: bool,
    layout: object,
    fitted: _Hyperparameters | None,
) -> tuple[Surrogate, _Hyperparameters | None]:
    """The surrogate, and the hyper-parameters that may serve the next one."""
    import torch
    from botorch.utils.sampling import manual_seed

    from optuna_mde.gp.features import Features
    from optuna_mde.gp.fitting import fit as fit_surrogate

    with manual_seed(0):
        features = Features(
            len(observations.columns),
            blocks,
            observations.outputs,
            observations.block,
            coreset,
            torch.from_numpy(observations.shares),
        )
        runs = _runs(observations)
        kept = _thinned(runs, MODEL_RUNS)
        if not fit:
            return fit_surrogate(features, kept, steps=0), fitted
        head = _head(runs, features)
        arrays = (head.X.numpy(), head.Y.numpy(), head.corner.numpy())
        key = _digest(arrays, (layout,))
        if fitted is None or fitted.key != key:
            surrogate = fit_surrogate(features, head)
            fitted = _Hyperparameters(key, surrogate.state())
            if len(head.X) == len(runs.X):
                return surrogate, fitted
        return fit_surrogate(features, kept, fitted.state, steps=0), fitted


def _runs(observations: Observations) -> Runs:
    import torch

    from optuna_mde.gp.surrogate import Runs

    full = observations.full
    order = np.flatnonzero(full)[np.argsort(observations.numbers[full], kind="stable")]
    corner = observations.corner.astype(bool) & _has_expert(observations)
    X = observations.X
    if observations.retired:
        corner |= is_corner(observations.held)
        X = np.hstack([X, observations.held])
    return Runs(
        torch.from_numpy(X[order].astype(np.float64)),
        torch.from_numpy(observations.Y[order].astype(np.float64)),
        torch.from_numpy(corner[order]),
    )


def _has_expert(observations: Observations) -> np.ndarray:
    """`[n]` whether the domain that a run trained most has a log-probability file."""
    if observations.block is None or len(observations.X) == 0:
        return np.zeros(len(observations.X), dtype=bool)
    kept = {expert.domain for expert in observations.experts}
    known = np.array([domain in kept for domain in observations.domains])
    most: np.ndarray = known[observations.X[:, observations.block].argmax(axis=1)]
    return most


def _milestone(n: int) -> int:
    """How many of n runs the hyper-parameters were last fitted on."""
    if n <= REFIT_FROM:
        return n
    at = float(REFIT_FROM)
    while at * _REFIT_GROWTH <= n:
        at *= _REFIT_GROWTH
    return int(at)


def _head(runs: Runs, features: Features) -> Runs:
    """The runs that hyper-parameters are fitted on."""
    import torch

    first = _milestone(len(runs.X))
    most = min(FIT_RUNS, int((FIT_ENTRIES / len(features.outputs)) ** 0.5))
    useful = torch.ones(first, dtype=torch.bool)
    if first > most and features.has_mde.any():
        useful = ~runs.corner[:first]  # an expert's loss is its MDE loss, and teaches nothing
    return _thinned(_take(runs, torch.where(useful)[0]), most)


def _thinned(runs: Runs, most: int) -> Runs:
    """At most so many runs: the best third by the mean over their outputs of the loss less the
    median run's, and others evenly in time."""
    import torch

    if len(runs.X) <= most:
        return runs
    Y = runs.Y.nan_to_num(nan=torch.nan, posinf=1e30, neginf=1e30)
    level = (Y - Y.nanmedian(dim=0).values).nanmean(dim=1)  # of the outputs that a run has
    best = torch.argsort(level, stable=True)[: most // _BEST]
    rest = torch.tensor(sorted(set(range(len(runs.X))) - set(best.tolist())))
    even = rest[torch.linspace(0, len(rest) - 1, most - len(best)).round().long()]
    return _take(runs, torch.cat([best, even]).sort().values)


def _take(runs: Runs, index: torch.Tensor) -> Runs:
    return replace(runs, X=runs.X[index], Y=runs.Y[index], corner=runs.corner[index])


def _digest(arrays: Sequence[np.ndarray], parts: tuple[object, ...]) -> bytes:
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=16)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()
