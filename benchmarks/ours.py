"""Recorded runs as an Optuna study: what a user of `optuna_mde` would have after them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from benchmarks.peers import Array, Predicted
from optuna_mde import predict

_PART = FloatDistribution(0.0, 1.0)


def told_study(
    domains: Sequence[str],
    sets: Sequence[str],
    X: Array,
    Y: Array,
    budget: Array,
    files: Mapping[int, Path],
) -> optuna.Study:
    """A study in memory that has been told n runs.

    Args:
        domains: the K domains.
        sets: the M validation sets.
        X: `[n, K]` rates.
        Y: `[n, M]` losses.
        budget: `[n]` share of a full run; below 1 a run ends pruned, as `report_losses` has it.
        files: row -> log-probabilities of an expert.
    """
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))

    def trial(row: int) -> FrozenTrial:
        attrs: dict[str, object] = {"losses": dict(zip(sets, Y[row].tolist(), strict=True))}
        if row in files:
            attrs["logprobs"] = str(files[row].resolve())
        whole = budget[row] >= 1.0
        if not whole:
            attrs["budget"] = float(budget[row])
        names = [f"mix/{domain}" for domain in domains]
        return create_trial(
            state=TrialState.COMPLETE if whole else TrialState.PRUNED,
            value=float(Y[row].mean()) if whole else None,
            params=dict(zip(names, X[row].tolist(), strict=True)),
            distributions=dict.fromkeys(names, _PART),
            user_attrs=attrs,
        )

    study.add_trials([trial(row) for row in range(len(X))])
    return study


def predicted_targets(
    study: optuna.Study,
    domains: Sequence[str],
    sets: Sequence[str],
    Z: Array,
    W: Array,
    *,
    noisy: bool = True,
) -> Predicted:
    """Targets of mixtures through `optuna_mde.predict`.

    Args:
        study: what was told.
        domains: the K domains.
        sets: the M validation sets.
        Z: `[m, K]` mixtures.
        W: `[T, M]` weights of the targets, each row a group of the objective.
        noisy: whether sd hold the noise of a single run.
    """
    groups = {
        f"target {i}": {s: w for s, w in zip(sets, row.tolist(), strict=True) if w > 0}
        for i, row in enumerate(W)
    }
    mixtures = [dict(zip(domains, row.tolist(), strict=True)) for row in Z]
    result = predict(study, mixtures, objective=groups)
    noise = np.square(result.objective_noise_sd) if noisy else 0.0
    sd = np.sqrt(np.square(result.objective_sd) + noise)
    return Predicted(np.asarray(result.objective_mean), sd)
