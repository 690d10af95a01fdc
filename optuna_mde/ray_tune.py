"""Ray Tune: validation losses and experts' files through the results that a trainable reports.

`OptunaSearch` tells Optuna a run's value and nothing else. This room needs Ray, and is imported by
those who use it alone: ``from optuna_mde.ray_tune import MDESearch``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import optuna
from ray.tune.search.optuna import OptunaSearch

from optuna_mde.losses import Limit, report_losses
from optuna_mde.objective import ObjectiveLike

LOSSES = "losses"
KEPT = ("logprobs", "budget", "tokens", "parameters")


class MDESearch(OptunaSearch):
    """Ray Tune's `OptunaSearch`, which hands what a trainable reports to `report_losses`.

    The trainable gets the mixture as ``config["mix"]`` and ends with::

        tune.report({"loss": value, "losses": {"web": 2.31, "code": 1.87}, "logprobs": url})

    with ``loss`` for Ray's tables and schedulers, the loss of every validation set in nats per
    token, and, of an expert, the absolute path that `save_logprobs` returned; ``budget``,
    ``tokens`` and ``parameters`` where they apply. What counts is the last report of a run. One
    that a scheduler stops early has to report the ``budget`` that it trained so far. Optuna is
    told the objective of the losses, whatever ``loss`` is.

    The space is a function that calls `suggest_mixture` and returns what else the trainable is to
    know, or a dict ``{"mix": {"web": tune.uniform(0, 1), ...}}`` together with
    ``MDESampler(mixtures={"mix/": ["web", ...]})``; Ray nests keys at ``/``, so that no domain
    may have one in its name. Bounds, a natural mixture and experts on a share of a run need the
    function.

    Args:
        *arguments: those of `OptunaSearch`.
        objective: as `report_losses` takes it; several objectives go to as many metrics.
        limits: as `report_losses` takes them.
        **options: those of `OptunaSearch`.

    Raises:
        ValueError: when a run ends without ``losses``, or with such that `report_losses` refuses.

    Example:
        >>> from optuna_mde import MDESampler, suggest_mixture
        >>> from optuna_mde.ray_tune import MDESearch  # doctest: +SKIP
        >>> def space(trial):
        ...     mixture = suggest_mixture(trial, ["web", "code", "books"])
        ...     return {"is_expert": mixture.is_expert, "budget": mixture.budget}
        >>> sampler = MDESampler(seed=0, expert_budget=0.5)
        >>> search = MDESearch(space, "loss", "min", sampler=sampler)  # doctest: +SKIP
    """

    def __init__(
        self,
        *arguments: Any,
        objective: ObjectiveLike = None,
        limits: Mapping[str, Limit] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self._objective = objective
        self._limits = limits

    @property
    def study(self) -> optuna.Study:
        """The study, for `recommend` and figures."""
        return cast(optuna.Study, self._ot_study)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: values on the way to a run's end are not the objective's."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Records the losses on the trial, and tells it."""
        if result and not error and trial_id not in self._completed_trials:
            result = {**result, **self._values(self._ot_trials[trial_id], result)}
        super().on_trial_complete(trial_id, result, error)

    def _values(self, trial: optuna.Trial, result: Mapping[str, Any]) -> dict[str, float | None]:
        """Metric -> value of the objective, None for a shortened expert."""
        metric: Any = self._metric
        metrics: list[str] = metric if isinstance(metric, list) else [metric]
        folder = f"{LOSSES}/"  # Ray hands results over flattened
        losses = {
            name.removeprefix(folder): loss
            for name, loss in result.items()
            if name.startswith(folder)
        }
        if not losses:
            raise ValueError(
                "the run has reported no losses; end it with tune.report({..., 'losses': "
                "{validation set: nats per token}})"
            )
        kept = {name: result[name] for name in KEPT if result.get(name) is not None}
        try:
            told = report_losses(
                trial, losses, objective=self._objective, limits=self._limits, **kept
            )
        except optuna.TrialPruned:
            return dict.fromkeys(metrics)
        values = told if isinstance(told, tuple) else (told,)
        return dict(zip(metrics, values, strict=True))
