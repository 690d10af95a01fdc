"""A recommendation and its confirmation as JSON, for other programs."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from optuna_mde_studies.exchange.trainers import DECIMALS
from optuna_mde_studies.report.judgement import judge
from optuna_mde_studies.wording import copyable

if TYPE_CHECKING:
    from optuna_mde_studies.report.judgement import Judgement
    from optuna_mde_studies.report.overview import Overview
    from optuna_mde_studies.runner.confirm import Confirmation

    from optuna_mde.answers.answer import Recommendation
    from optuna_mde.answers.intervals import Interval
    from optuna_mde.answers.rows import Row


def as_json(
    overview: Overview, recommendation: Recommendation, confirmation: Confirmation | None
) -> str:
    """Everything that the tables say, as `docs/formats.md` describes it.

    Figures that are no numbers (a loss that diverged) are null: JSON has no word for them.
    """
    found = recommendation
    data = {
        "format": 1,
        "study": overview.study,
        "unit": "nats per token" if overview.goals else None,
        "mixture": copyable(found.mixture, DECIMALS),
        "params": found.params,
        "weights": found.weights,
        "objective": _interval(found.objective),
        "losses": {name: _interval(loss) for name, loss in found.losses.items()},
        "rows": [_row(row, found.goals) for row in found.rows],
        "against": _against(found),
        "bounds": [asdict(bound) for bound in found.bounds],
        "pareto": [_row(row, found.goals) for row in found.pareto],
        "trust": asdict(found.trust),
        "fresh_seed": asdict(found.fresh_seed) if found.fresh_seed else None,
        "expected_gain": found.expected_gain,
        "noise_sd": found.noise_sd,
        "signal": found.signal,
        "warnings": found.warnings,
        "notes": found.notes,
        "no_expert": overview.lost_experts,
        "confirmation": _confirmation(judge(overview, found, confirmation)),
    }
    return json.dumps(_finite(data), indent=2, ensure_ascii=False, default=str) + "\n"


def _against(found: Recommendation) -> dict[str, Any] | None:
    if found.against is None:
        return None
    versus = found.against
    return {
        "name": versus.name,
        "objective": _interval(versus.objective),
        "goals": dict(zip(found.goals, map(_interval, versus.goals), strict=True)),
        "losses": {name: _interval(loss) for name, loss in versus.losses.items()},
    }


def _interval(found: Interval) -> dict[str, float]:
    return {"predicted": found.mean, "low": found.low, "high": found.high}


def _row(row: Row, goals: tuple[str, ...]) -> dict[str, Any]:
    several = {
        name: {**_interval(predicted), "observed": observed}
        for name, predicted, observed in zip(goals, row.goals, row.observed_goals, strict=True)
    }
    return {
        "name": row.name,
        "mixture": row.mixture,
        "params": row.params,
        "objective": {**_interval(row.objective), "observed": row.observed},
        "goals": several,
        "losses": {name: _interval(loss) for name, loss in row.losses.items()},
        "trial": row.trial,
        "breaks": row.breaks,
        "forbidden": row.forbidden,
        "moved": row.moved,
    }


def _confirmation(found: Judgement | None) -> dict[str, Any] | None:
    if found is None:
        return None
    kept = found.confirmation
    return {
        "current": found.is_current,
        "seeds": kept.seeds,
        "mixtures": kept.mixtures,
        "losses": kept.losses,
        "differences": {
            goal: [{"other": d.other, "mean": d.mean, "low": d.low, "high": d.high} for d in shown]
            for goal, shown in found.differences.items()
        },
        "fresh_runs": {goal: asdict(run) for goal, run in found.fresh_runs.items()},
        "verdicts": found.verdicts,
    }


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
