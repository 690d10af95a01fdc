"""What the tests of the sampler share: a toy objective, and what they read off its studies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial

from optuna_mde import MDESampler, report_losses, save_logprobs, suggest_mixture

DOMAINS = ["web", "code", "books"]
SETS = ["web", "code", "books"]
SHARES = np.array([[0.6, 0.1, 0.2], [0.1, 0.7, 0.1], [0.2, 0.1, 0.5]])  # set x domain

quietly = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.filterwarnings("ignore:the mixture is run as it is"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::linear_operator.utils.warnings.NumericalWarning"),
]
"""Marks of a module whose studies are so small and odd that libraries warn."""


class Toy:
    """A cheap stand-in for training: losses that follow the mixture, and experts' files."""

    def __init__(self, folder: Path, objective: Any = None, **options: Any) -> None:
        self.folder = folder
        self.objective = objective
        self.options = options

    def __call__(self, trial: optuna.Trial) -> Any:
        mixture = suggest_mixture(trial, DOMAINS, **self.options)
        rates = np.array(list(mixture.values()))
        losses = dict(zip(SETS, (-np.log(SHARES @ rates)).tolist(), strict=True))
        url = None
        if mixture.is_expert:
            probabilities = SHARES[:, rates.argmax()]
            logprobs = {s: np.full(4, np.log(p)) for s, p in zip(SETS, probabilities, strict=True)}
            url = save_logprobs(self.folder / f"{trial.number}.safetensors", logprobs)
        return report_losses(
            trial, losses, objective=self.objective, logprobs=url, budget=mixture.budget
        )


def rates_of(trial: FrozenTrial, prefix: str = "mix/") -> tuple[float, ...]:
    return tuple(v for name, v in trial.params.items() if name.startswith(prefix))


def phases(study: optuna.Study) -> list[str]:
    return [t.user_attrs.get("phase", "") for t in study.trials]


def study_of(seed: int | None = 0, **options: Any) -> optuna.Study:
    return optuna.create_study(sampler=MDESampler(seed=seed, **options))
