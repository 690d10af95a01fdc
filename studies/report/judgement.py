"""What a confirmation says of the mixture that is recommended now."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from optuna_mde_studies.runner.confirm import paired_differences, verdict
from optuna_mde_studies.runner.experiment import same_mixture

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from optuna_mde_studies.report.overview import Overview
    from optuna_mde_studies.runner.confirm import Confirmation, Difference, FreshRun

    from optuna_mde.answers.answer import Recommendation
    from optuna_mde.answers.intervals import Interval

SAME_RATE = 1e-3
"""Recommendations that differ less are one mixture, fitted on two machines."""


@dataclass(frozen=True)
class Judgement:
    """A confirmation beside the recommendation."""

    confirmation: Confirmation
    differences: Mapping[str, Sequence[Difference]]
    """Goal -> confirmed mixture minus each of the others."""
    fresh_runs: Mapping[str, FreshRun]
    """Goal -> what a run of the confirmed mixture with another seed is to reach."""
    is_current: bool
    """False where the mixture that was confirmed is no longer the recommended one."""

    @property
    def mixture(self) -> Mapping[str, float]:
        """The mixture that was confirmed."""
        return next(iter(self.confirmation.mixtures.values()))

    @property
    def verdicts(self) -> dict[str, str]:
        """Goal -> what is better than what, in a sentence."""
        seeds = len(self.confirmation.seeds)
        return {goal: verdict(found, seeds) for goal, found in self.differences.items()}

    @property
    def verdict(self) -> str:
        """The sentence on the recommended mixture; empty if it was another, or for many goals."""
        said = list(self.verdicts.values())
        return said[0] if self.is_current and len(said) == 1 else ""

    @property
    def fresh_run(self) -> FreshRun | None:
        """What the recommended mixture is to reach with another seed; None as for `verdict`."""
        found = list(self.fresh_runs.values())
        return found[0] if self.is_current and len(found) == 1 else None

    def against(self, name: str) -> list[Difference]:
        """Differences to a mixture that was trained too, one a goal; empty where it was not."""
        found = [d for ds in self.differences.values() for d in ds if _is_named(d.other, name)]
        return found if len(found) == len(self.differences) else []

    def losses_against(self, name: str) -> dict[str, Interval]:
        """Validation set -> difference to a mixture that was trained too, a 95 % interval."""
        runs = self.confirmation.losses
        sets = [
            s
            for s in next(iter(runs.values()))[0]
            if all(s in r for v in runs.values() for r in v)
        ]
        found = {
            s: paired_differences(
                {mixture: [run[s] for run in seeds] for mixture, seeds in runs.items()}
            )
            for s in sets
        }
        return {s: d.interval for s, ds in found.items() for d in ds if _is_named(d.other, name)}

    @property
    def held(self) -> bool:
        """Whether the recommended mixture was not found to be worse than another."""
        (found, *others) = self.differences.values()
        return bool(others) or not self.is_current or not any(d.is_worse for d in found)

    @property
    def tells_apart(self) -> bool:
        """Whether the confirmed mixture differs from another one beyond noise, in some goal."""
        found = [d for ds in self.differences.values() for d in ds]
        return any(d.is_better or d.is_worse for d in found)


def _is_named(label: str, name: str) -> bool:
    """Whether a label, with its remarks in brackets, is that of a row."""
    return label == name or label.startswith(f"{name} (")


def judge(
    overview: Overview, recommendation: Recommendation | None, confirmation: Confirmation | None
) -> Judgement | None:
    """The confirmation as far as it concerns a recommendation; None if there is none."""
    if confirmation is None or overview.goals is None:
        return None
    if not confirmation.covers(overview.goals):
        return None
    differences = confirmation.differences(overview.goals)
    fresh_runs = confirmation.fresh_runs(overview.goals)
    found = Judgement(confirmation, differences, fresh_runs, is_current=True)
    if recommendation is None or same_mixture(
        found.mixture, recommendation.mixture, within=SAME_RATE
    ):
        return found
    return replace(found, is_current=False)
