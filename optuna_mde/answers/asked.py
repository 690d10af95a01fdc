"""A question that differs from the study's own: other goals, other limits, other bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from optuna_mde.objective import Objective, ObjectiveError, ObjectiveLike
from optuna_mde.observations import Kind, Observations
from optuna_mde.scalars import real
from optuna_mde.simplex.projection import MixtureError, check_bounds
from optuna_mde.trials.groups import Group
from optuna_mde.trials.space import Space

Bounds = Mapping[str, tuple[float | None, float | None]]


@dataclass(frozen=True)
class Question:
    """What is asked of a study; where it says nothing, the study's own holds."""

    objective: ObjectiveLike = None
    limits: Mapping[str, float] | None = None
    """{validation set: nats per token}, beside the study's."""
    bounds: Bounds | None = None
    """{domain: (lowest, highest rate)} in place of the domain's own; None: as it is."""

    def goals(self, observations: Observations) -> Observations:
        """The observations with the goals and limits that are asked for.

        Raises:
            ObjectiveError: if a limit is no number, or on a set that no run has a loss of.
        """
        wanted = observations.objective
        if self.objective is not None:
            told = [t.name for t in observations.targets if _is_told(t)]
            asked = Objective.parse(self.objective).averaging(told)
            wanted = replace(asked, limits=wanted.limits)
        if self.limits:
            limits = dict(Objective.parse(None, self.limits).limits)
            known = [t.name for t in observations.targets if t.kind is not Kind.CONSTRAINT]
            unknown = [name for name in limits if name not in known]
            if unknown:
                raise ObjectiveError(
                    f"limits names {', '.join(unknown)}, which no run has a loss of; there are "
                    f"{', '.join(known)}"
                )
            wanted = replace(wanted, limits=tuple({**dict(wanted.limits), **limits}.items()))
        return replace(observations, objective=wanted)

    def space(self, space: Space) -> Space:
        """The space with the bounds that are asked for.

        Raises:
            MixtureError: if they name no domain of the study, or no mixture keeps them.
        """
        if not self.bounds:
            return space
        given = {_part(space, domain): pair for domain, pair in self.bounds.items()}
        groups = tuple(_bounded(group, given) for group in space.groups)
        changed = replace(space, groups=groups)
        changed.region().center  # noqa: B018  it exists where any mixture keeps the bounds
        return changed


def _is_told(target: Any) -> bool:
    return not target.added and target.kind is not Kind.CONSTRAINT


def _part(space: Space, domain: str) -> str:
    """Optuna's name of a domain's part; a domain of a second mixture is named with its prefix."""
    first = space.groups[0].prefix if space.groups else ""
    names = [name for group in space.groups for name in group.names]
    for name in (domain, first + domain):
        if name in names:
            return name
    known = ", ".join(d for group in space.groups for d in group.domains)
    raise MixtureError(
        f"bounds names {domain!r}, which is no domain of the study's mixture; its domains are "
        f"{known or 'none'}"
    )


def _bounded(group: Group, given: Bounds) -> Group:
    lower, upper = list(group.lower), list(group.upper)
    for i, name in enumerate(group.names):
        low, high = given.get(name, (None, None))
        lower[i] = lower[i] if low is None else real(f"the lowest rate of {name!r}", low)
        upper[i] = upper[i] if high is None else real(f"the highest rate of {name!r}", high)
    check_bounds(group.domains, lower, upper)
    return replace(group, lower=tuple(lower), upper=tuple(upper))
