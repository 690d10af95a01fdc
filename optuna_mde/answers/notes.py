"""What a reader should know beside the figures of a recommendation, in sentences."""

from __future__ import annotations

import numpy as np

from optuna_mde.answers.fitted import Fitted, place
from optuna_mde.answers.intervals import Z90
from optuna_mde.answers.references import with_rates
from optuna_mde.answers.rows import Row
from optuna_mde.gp import calibration
from optuna_mde.simplex.projection import Array


def notes(fitted: Fitted, best: Array, rows: list[Row], signal: bool) -> tuple[str, ...]:
    said = []
    if not signal:
        said.append(
            "The runs do not tell mixtures apart from the noise of a single run: there is no "
            "winner to name (yet)."
        )
    reference = next((r for r in rows if r.name in ("natural", "uniform")), None)
    if signal and reference is not None:
        gain, sd = _difference(fitted, best, with_rates(fitted, best, reference.name))
        half = Z90 * calibration.of_rows(fitted.surrogate.features) * sd
        if gain <= half:
            said.append(
                f"The gain over the {reference.name} mixture, {gain:.4f} ± {half:.4f}, "
                "is within its 90 % interval of nothing."
            )
    outside = [row.name for row in rows if _is_outside(fitted, best, row)]
    if outside:
        said.append(f"Outside the bounds or constraints in force: {', '.join(outside)}.")
    if any(row.name == "best expert" and row.trial is None for row in rows):
        said.append(
            "The best expert was trained on a share of a run: its row is an estimate for a full "
            "one, and the interval is too narrow."
        )
    missing = [d for d in fitted.observations.domains if d not in fitted.expert_domains]
    if missing and len(missing) < len(fitted.observations.domains):
        said.append(
            f"No expert log-probabilities for {', '.join(missing)}: "
            "its share is predicted from the rates alone."
        )
    return tuple(said)


def _is_outside(fitted: Fitted, best: Array, row: Row) -> bool:
    groups = fitted.space.groups
    names = {name for group in groups for name in group.names}
    parts = {n if n in names else groups[0].prefix + n: rate for n, rate in row.mixture.items()}
    return not fitted.region.contains(place(fitted.space, best, {**row.params, **parts}))


def _difference(fitted: Fitted, best: Array, other: Array) -> tuple[float, float]:
    """Mean and sd of the first goal at ``other`` minus that at ``best``."""
    import torch

    pair = torch.from_numpy(np.stack([best, other]))[None]
    with torch.no_grad():
        mean, covariance = fitted.surrogate.joint_goals(pair, torch.from_numpy(fitted.weights[:1]))
    C = covariance[0, 0]
    variance = float(C[0, 0] + C[1, 1] - 2.0 * C[0, 1])
    return float(mean[0, 1, 0] - mean[0, 0, 0]), max(variance, 0.0) ** 0.5
