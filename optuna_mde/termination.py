"""When to stop: the expected gain of one more run, for Optuna's own `optuna.terminator`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import optuna
from optuna.study import StudyDirection
from optuna.terminator import BaseErrorEvaluator, BaseImprovementEvaluator
from optuna.trial import FrozenTrial

if TYPE_CHECKING:
    from optuna_mde.answers.answer import Recommendation


class _Outlook:
    """The study's recommendation, made once for each state of it."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._numbers: list[int] | None = None
        self._recommendation: Recommendation | None = None

    def at(self, trials: list[FrozenTrial]) -> Recommendation:
        from optuna_mde.recommendation import recommend

        numbers = [trial.number for trial in trials]
        if self._recommendation is None or numbers != self._numbers:
            self._numbers, self._recommendation = numbers, recommend(self._study)
        return self._recommendation


class ExpectedGainEvaluator(BaseImprovementEvaluator):
    """What one more run is expected to gain over the recommended mixture.

    Args:
        study: the study that is to be stopped. Optuna hands evaluators the trials alone, without
            the experts, bounds and limits that belong to them.

    Example:
        Stop when the gain falls below the noise of a single run::

            gain = ExpectedGainEvaluator(study)
            terminator = Terminator(gain, NoiseEvaluator(gain), min_n_trials=12)
            study.optimize(objective, callbacks=[TerminatorCallback(terminator)])
    """

    def __init__(self, study: optuna.Study) -> None:
        self.outlook = _Outlook(study)

    def evaluate(self, trials: list[FrozenTrial], study_direction: StudyDirection) -> float:
        """Expected gain in the objective's unit (nats per token for losses)."""
        return self.outlook.at(trials).expected_gain


class NoiseEvaluator(BaseErrorEvaluator):
    """The sd of a single run's objective, as the surrogate has learned it.

    Args:
        gain: the evaluator of the same study, so that both read one recommendation.
    """

    def __init__(self, gain: ExpectedGainEvaluator) -> None:
        self._outlook = gain.outlook

    def evaluate(self, trials: list[FrozenTrial], study_direction: StudyDirection) -> float:
        """Noise sd in the objective's unit."""
        return self._outlook.at(trials).noise_sd
