"""What figures ask of a study: a mixture that it recommends, and words for its goals.

Whatever is drawn is what `recommend` and `predict` say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from optuna_mde.answers.fitted import Fitted, fit_study, place
from optuna_mde.prediction import predict_goals
from optuna_mde.recommendation import recommend_by
from optuna_mde.simplex.projection import Array
from optuna_mde.trials.facts import read_facts
from optuna_mde.trials.layout import study_space
from optuna_mde.visualization.palette import label

if TYPE_CHECKING:
    from collections.abc import Sequence

    import optuna

    from optuna_mde.answers.answer import Recommendation
    from optuna_mde.objective import ObjectiveLike
    from optuna_mde.trials.groups import Group


def require_plotly() -> None:
    """Fail in a sentence before anything is computed.

    Raises:
        ImportError: if Plotly is not installed.
    """
    try:
        import plotly  # noqa: F401
    except ImportError:
        raise ImportError(
            "figures need plotly, which is not installed; pip install 'optuna-mde[visualization]'"
        ) from None


@dataclass(frozen=True)
class Answered:
    """A study's recommendation, and the mixture of the study that a figure is about."""

    study: optuna.Study
    objective: ObjectiveLike
    fitted: Fitted
    recommendation: Recommendation
    groups: tuple[Group, ...]
    group: Group
    """The mixture that is shown, of those in ``groups``."""
    names: tuple[str, ...]
    """Names `[G]` of the goals, as figures may show them."""

    def rates(self, mixture: Mapping[str, float]) -> dict[str, float]:
        """{domain: rate} of the shown mixture, in a row of the recommendation."""
        primary = self.groups[0].prefix
        parts = zip(self.group.domains, self.group.names, strict=True)
        return {domain: mixture[name.removeprefix(primary)] for domain, name in parts}

    @property
    def recommended(self) -> Array:
        """Recommended rates `[K]` of the shown mixture."""
        return np.array(list(self.rates(self.recommendation.mixture).values()))

    @property
    def point(self) -> Array:
        """Inputs `[d]` of the recommendation."""
        row, primary = self.recommendation, self.groups[0].prefix
        parts = {n.removeprefix(primary): n for group in self.groups for n in group.names}
        # by their whole names: a parameter may be called as a domain is
        given = {parts[part]: rate for part, rate in row.mixture.items()} | row.params
        return place(self.fitted.space, self.fitted.best_told(), given)

    def goal(self, name: str) -> int:
        """Place of a goal.

        Raises:
            ValueError: if there is none of this name.
        """
        known = self.recommendation.goals or ("objective",)
        if name not in known:
            raise ValueError(f"{name!r} is no goal; the goals are {', '.join(known)}")
        return known.index(name)

    def predict(self, rates: Array) -> tuple[Array, Array]:
        """Mean and sd `[n, G]` of the noise-free goals at rates `[n, K]` of the shown mixture,
        all else as recommended."""
        primary, row = self.groups[0].prefix, self.recommendation
        rest = {n: row.mixture[n.removeprefix(primary)] for g in self.groups for n in g.names}
        asked = [
            {**rest, **row.params, **dict(zip(self.group.names, point.tolist(), strict=True))}
            for point in rates
        ]
        return predict_goals(self.fitted.looking_at(len(asked)), asked)

    def allowed(self, rates: Array) -> list[bool]:
        """Whether rates `[n, K]` of the shown mixture keep its bounds and constraints."""
        region = self.group.region()
        return [region.contains(point) for point in rates]


def ask(
    study: optuna.Study,
    objective: ObjectiveLike,
    prefix: str | None,
    recommendation: Recommendation | None = None,
) -> Answered:
    """Ask a study for its recommendation.

    Args:
        study: an Optuna study with at least one finished run.
        objective: another objective than that of the runs.
        prefix: of the mixture to show; None: the study's first.
        recommendation: what the study has answered, if that is known already.

    Raises:
        ValueError: if no run has finished, or the study has no such mixture.
    """
    fitted = fit_study(study, objective)
    recommendation = recommendation or recommend_by(fitted)
    facts = read_facts(study)
    groups = study_space(study, facts=facts).groups
    if not groups:
        raise ValueError(
            f"study {study.study_name!r} has no mixture to show; its objective has to call "
            f"optuna_mde.suggest_mixture"
        )
    found = {group.prefix: group for group in groups}
    if prefix is not None and prefix not in found:
        raise ValueError(
            f"study {study.study_name!r} has no mixture with the prefix {prefix!r}; there is "
            f"{', '.join(map(repr, found))}"
        )
    group = groups[0] if prefix is None else found[prefix]
    has_losses = any(trial.losses for trial in facts.trials)
    names = goal_names(study, objective, recommendation.goals, has_losses=has_losses)
    return Answered(study, objective, fitted, recommendation, groups, group, names)


def goal_names(
    study: optuna.Study, objective: ObjectiveLike, goals: Sequence[str], *, has_losses: bool
) -> tuple[str, ...]:
    """Names of the goals, or of the only one, as figures may show them."""
    names: Sequence[str] = goals or ("objective",)
    metrics = study.metric_names
    if objective is None and metrics and len(metrics) == len(names):
        names = metrics
    elif has_losses:
        names = ["loss" if name == "objective" else f"{name} loss" for name in names]
    return tuple(map(label, names))
