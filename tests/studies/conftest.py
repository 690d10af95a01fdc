"""Studies with invented losses, for what only reads studies."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from optuna_mde_studies import cli as commands
from optuna_mde_studies.runner.confirm import Confirmation

from optuna_mde import recommend, report_losses, suggest_mixture
from optuna_mde.answers.answer import Recommendation

DOMAINS = ("python", "docs", "prose", "boilerplate")
NATURAL = (0.3, 0.25, 0.05, 0.4)
# What a set gains from each domain: its own, and docs and prose something from each other.
KINSHIP = np.array(
    [[1, 0.2, 0.1, 0.1], [0.3, 1, 0.4, 0], [0.1, 0.4, 1, 0], [0.2, 0, 0, 1], [0.2, 0.8, 0.3, 0]]
)
FLOORS = np.array([2.2, 2.6, 3.0, 1.2, 2.7])


class Invented:
    """Makes studies of four domains and five sets, with losses by a power law and noise."""

    def __init__(self, domains: Sequence[str] = DOMAINS, unseen: str = "mathdocs") -> None:
        self.domains = tuple(domains)
        self.sets = (*self.domains, unseen)
        self.objective: dict[str, Any] = {self.sets[1]: 1, self.sets[2]: 1, unseen: 1}

    def losses(self, rates: Sequence[float], rng: np.random.Generator) -> dict[str, float]:
        noise = 0.01 * rng.standard_normal(len(FLOORS))
        values = FLOORS + 0.6 * (KINSHIP @ np.array(rates) + 0.03) ** -0.4 + noise
        return dict(zip(self.sets, values.tolist(), strict=True))

    def study(self, n_trials: int = 12, **arguments: Any) -> optuna.Study:
        """The experts, natural, uniform, and proposals with predictions."""
        rng = np.random.default_rng(0)
        directions = ["minimize"] * len(self.objective) if self._groups() else ["minimize"]
        study = optuna.create_study(
            directions=directions, sampler=optuna.samplers.RandomSampler(seed=0), **arguments
        )
        for number in range(n_trials):
            phase, rates = self._choice(number, rng)
            study.enqueue_trial(
                {f"mix/{d}": float(r) for d, r in zip(self.domains, rates, strict=True)}
            )
            trial = study.ask()
            natural = dict(zip(self.domains, NATURAL, strict=True))
            suggest_mixture(trial, self.domains, natural=natural)
            trial.set_user_attr("phase", phase)
            losses = self.losses(rates, rng)
            if phase == "model" and not self._groups():
                value = np.mean([losses[name] for name in self.objective])
                trial.set_user_attr("predicted_mean", float(value + 0.02 * rng.standard_normal()))
                trial.set_user_attr("predicted_sd", 0.02)
            value = report_losses(
                trial, losses, objective=self.objective, tokens=184_320, parameters=270_000
            )
            study.tell(trial, value)
        return study

    def confirmation(self, recommendation: Recommendation) -> Confirmation:
        """Three fresh seeds of the recommended mixture and the first two others."""
        rng = np.random.default_rng(1)
        mixtures = {row.name: row.mixture for row in recommendation.rows[:3]}
        losses = {
            name: [self.losses(list(mixture.values()), rng) for _ in range(3)]
            for name, mixture in mixtures.items()
        }
        return Confirmation(told=12, seeds=[7, 8, 9], mixtures=mixtures, losses=losses)

    def _choice(self, number: int, rng: np.random.Generator) -> tuple[str, Any]:
        experts = np.eye(len(self.domains))
        if number < len(experts):
            return "expert", experts[number]
        if number == len(experts):
            return "natural", NATURAL
        if number == len(experts) + 1:
            return "uniform", np.full(len(experts), 1 / len(experts))
        return "model", rng.dirichlet([1, 8, 6, 0.5])

    def _groups(self) -> bool:
        return any(isinstance(value, dict) for value in self.objective.values())


@pytest.fixture(scope="session")
def invented() -> Invented:
    return Invented()


@pytest.fixture(scope="session")
def finished(invented: Invented) -> tuple[optuna.Study, Recommendation]:
    """A finished study and what it recommends; not to be changed."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = invented.study(study_name="demo")
    return study, recommend(study)


@pytest.fixture(scope="session")
def invent() -> Callable[..., Invented]:
    return Invented


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command in this process: exit code, output, errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["optuna-mde", *arguments])
        with pytest.raises(SystemExit) as ended:
            commands.main()
        captured = capsys.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else 0), captured.out, captured.err

    return run
