"""From observations to a fitted surrogate, once for each state of the study.

A model is a function of the observations alone, never of what a process has seen before: any
worker, restarted at any time, fits the same one. Cost is bounded by three means: hyper-parameters
come from at most `FIT_RUNS` runs, and fewer of more than 24 outputs (`FIT_ENTRIES`); beyond
`REFIT_FROM` runs they are fitted anew only when the number of runs has grown by a tenth; the
posterior stands on at most `MODEL_RUNS` runs.
What fewer runs cost is in benchmarks/ablations.md.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    from optuna_mde.gp.features import Features
    from optuna_mde.gp.surrogate import Hyperparameters, Runs, Surrogate
    from optuna_mde.mde.coreset import Coreset
    from optuna_mde.mde.experts import ExpertTable
    from optuna_mde.observations import Observations

FIT_RUNS = 128
FIT_ENTRIES = 24 * FIT_RUNS**2  # of the outputs' covariances together
REFIT_FROM = 60
MODEL_RUNS = 400
COARSE = 4e-3  # error of a coreset that is told, nats per token: twice what is aimed at

_logger = logging.getLogger("optuna_mde")


class Modeller:
    """Fits surrogates and keeps the last one. Copies and pickles start empty."""

    def __init__(self) -> None:
        self._key: bytes | None = None
        self._surrogate: Surrogate | None = None
        self._fitted: _Fitted | None = None

    def __getstate__(self) -> dict[str, Any]:
        return dict.fromkeys(self.__dict__)

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
        arrays = (
            observations.X,
            observations.Y,
            observations.numbers,
            observations.corner,
            observations.full,
        )
        key = _digest(arrays, (*_layout(observations, blocks), fit))
        if key != self._key or self._surrogate is None:
            self._surrogate, self._fitted = _build(observations, blocks, fit, self._fitted)
            self._key = key
        return self._surrogate


@dataclass(frozen=True)
class _Fitted:
    """Hyper-parameters, and what they were fitted on: the same runs need no second fit."""

    key: bytes
    state: Hyperparameters


def expert_table(observations: Observations) -> tuple[ExpertTable, Coreset] | None:
    """The experts' table of the observations and its coreset; None without two readable files."""
    if len(observations.experts) < 2:
        return None
    fullest = sorted(observations.fullest.items())
    files = tuple((domain, expert.url, _modified(expert.url)) for domain, expert in fullest)
    table, coreset = _load(observations.domains, files)
    if not table.sets:
        return None
    if observations.outputs and not set(table.sets) & set(observations.outputs):
        warnings.warn(
            f"the experts' log-probabilities are of {', '.join(table.sets)}, and no run reports a "
            f"loss of these: MDE serves no set. Name sets alike in save_logprobs and "
            f"report_losses; the losses are of {', '.join(observations.outputs)}",
            stacklevel=2,
        )
    return table, coreset


@functools.lru_cache(maxsize=8)  # as many expert budgets and domains as are in play at once
def _load(
    domains: tuple[str, ...], files: tuple[tuple[str, str, float], ...]
) -> tuple[ExpertTable, Coreset]:
    from optuna_mde.mde.coreset_files import load_coreset

    table, coreset, refused = load_coreset(domains, {domain: url for domain, url, _ in files})
    for reason in refused.values():
        _logger.warning("An expert is left out of the MDE losses. %s", reason)
    for name, error in zip(coreset.sets, coreset.rms_error.tolist(), strict=True):
        if error > COARSE:
            _logger.warning(
                "MDE losses of set %r are those of weighted tokens, which are %.4f nats (root "
                "mean square) from those of all tokens.",
                *(name, error),
            )
    return table, coreset


def _build(
    observations: Observations, blocks: Sequence[slice], fit: bool, fitted: _Fitted | None
) -> tuple[Surrogate, _Fitted | None]:
    """The surrogate, and the hyper-parameters that may serve the next one."""
    from botorch.utils.sampling import manual_seed

    from optuna_mde.gp.features import Features
    from optuna_mde.gp.fitting import fit as fit_surrogate

    loaded = expert_table(observations)
    with manual_seed(0):
        features = Features(
            len(observations.columns),
            blocks,
            observations.outputs,
            observations.block,
            loaded[1] if loaded else None,
        )
        runs = _runs(observations)
        kept = _thinned(runs, MODEL_RUNS)
        if not fit:
            return fit_surrogate(features, kept, steps=0), fitted
        head = _head(runs, features)
        arrays = (head.X.numpy(), head.Y.numpy(), head.corner.numpy())
        key = _digest(arrays, _layout(observations, blocks))
        if fitted is None or fitted.key != key:
            surrogate = fit_surrogate(features, head)
            fitted = _Fitted(key, surrogate.state())
            if len(head.X) == len(runs.X):
                return surrogate, fitted
        return fit_surrogate(features, kept, fitted.state, steps=0), fitted


def _runs(observations: Observations) -> Runs:
    import torch

    from optuna_mde.gp.surrogate import Runs

    full = observations.full
    order = np.flatnonzero(full)[np.argsort(observations.numbers[full], kind="stable")]
    corner = observations.corner.astype(bool) & _has_expert(observations)
    return Runs(
        torch.from_numpy(observations.X[order].astype(np.float64)),
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
    while at * 1.1 <= n:
        at *= 1.1
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
    """At most so many runs: the best third, and others evenly in time."""
    import torch

    if len(runs.X) <= most:
        return runs
    level = runs.Y.nan_to_num(posinf=1e30, neginf=1e30).mean(dim=1)
    best = torch.argsort(level, stable=True)[: most // 3]
    rest = torch.tensor(sorted(set(range(len(runs.X))) - set(best.tolist())))
    even = rest[torch.linspace(0, len(rest) - 1, most - len(best)).round().long()]
    return _take(runs, torch.cat([best, even]).sort().values)


def _take(runs: Runs, index: torch.Tensor) -> Runs:
    return replace(runs, X=runs.X[index], Y=runs.Y[index], corner=runs.corner[index])


def _modified(url: str) -> float:
    path = Path(url.removeprefix("file://"))
    return path.stat().st_mtime if "://" not in str(path) and path.exists() else 0.0


def _layout(observations: Observations, blocks: Sequence[slice]) -> tuple[object, ...]:
    """What a surrogate depends on beside its runs."""
    files = tuple((expert, _modified(expert.url)) for expert in observations.experts)
    return observations.outputs, files, observations.block, observations.domains, tuple(blocks)


def _digest(arrays: Sequence[np.ndarray], parts: tuple[object, ...]) -> bytes:
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=16)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()
