"""From the losses of validation sets to the objective(s) of a study.

Notation: ``Y`` `[n, M]` losses in nats per token, ``W`` `[G, M]` weights, one row per goal, each
row summing to 1. Every validation set stays an output of its own; goals are formed after.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from optuna_mde.scalars import is_number, real, shares

ObjectiveLike = (
    None | str | Mapping[str, float] | Mapping[str, Mapping[str, float] | Sequence[str] | str]
)

MEAN = "mean"
_NORMALISED = 1e-12  # weights whose sum misses 1 by no more were normalised before
CONSTRAINT = "constraint:"  # public names of outputs that are a user's own constraints start so


class ObjectiveError(ValueError):
    """The objective, or a limit on a validation loss, cannot be used as it is given."""


@dataclass(frozen=True)
class Objective:
    """Weighted means of validation losses, one for each goal, and limits on single losses.

    Args:
        goals: ``((name, ((set, weight), ...)), ...)``. The weights of a goal sum to 1; a goal
            without weights is the plain mean over all sets that a run reports.
        limits: ``((set, limit), ...)``: a mixture is allowed when its noise-free loss on the set
            is at most ``limit`` nats per token.
    """

    goals: tuple[tuple[str, tuple[tuple[str, float], ...]], ...] = ((MEAN, ()),)
    limits: tuple[tuple[str, float], ...] = ()

    @classmethod
    def parse(
        cls, objective: ObjectiveLike = None, limits: Mapping[str, float] | None = None
    ) -> Objective:
        """Read an objective as users write it.

        Args:
            objective: ``None`` or ``"mean"`` (plain mean over all sets), the name of one set,
                weights ``{"books": 2, "code": 1}``, or named groups
                ``{"code": {"python": 1, "cpp": 1}, "prose": {"books": 1}}``, of which every one
                becomes an objective of its own. A group may also be a list of sets.
            limits: upper limits on validation losses, nats per token.

        Raises:
            ObjectiveError: if a weight or limit is not a number, is negative, or all are zero.
        """
        return cls(_parse_goals(objective), _parse_limits(limits))

    @property
    def names(self) -> tuple[str, ...]:
        """The goals' names, in the order of the values."""
        return tuple(name for name, _ in self.goals)

    @property
    def sets(self) -> tuple[str, ...]:
        """Every validation set that a goal or a limit names, each once."""
        named = [s for _, weights in self.goals for s, _ in weights]
        return tuple(dict.fromkeys([*named, *(s for s, _ in self.limits)]))

    def averaging(self, sets: Sequence[str]) -> Objective:
        """The same objective, goals without weights being the mean of these sets."""
        even = tuple((name, 1.0 / len(sets)) for name in sets)
        return replace(self, goals=tuple((name, w or even) for name, w in self.goals))

    def weighs_as(self, other: Objective) -> bool:
        """Whether the goals have the same weights, whatever they are called."""
        if len(self.goals) != len(other.goals):
            return False
        pairs = zip(self.goals, other.goals, strict=True)
        return all(_are_equal(dict(one), dict(two)) for (_, one), (_, two) in pairs)

    def limits_on(self, outputs: Sequence[str]) -> list[tuple[int, float]]:
        """(index of the output, limit in nats per token) of the limits that ``outputs`` have."""
        return [(outputs.index(name), v) for name, v in self.limits if name in outputs]

    def weights(self, outputs: Sequence[str]) -> np.ndarray:
        """Weights of the goals over ``outputs``.

        Args:
            outputs: names of the M losses (or plain values); no constraints.

        Returns:
            A `G x M` array; rows sum to 1.

        Raises:
            ObjectiveError: if a goal names a set that is not among the outputs.
        """
        W = np.zeros((len(self.goals), len(outputs)))
        column = {name: j for j, name in enumerate(outputs)}
        for g, (name, weights) in enumerate(self.goals):
            if not weights:
                W[g] = 1.0 / max(len(outputs), 1)
            for set_name, weight in weights:
                if set_name not in column:
                    raise ObjectiveError(
                        f"objective {name!r} weighs {set_name!r}, which no run reports; "
                        f"reported sets: {', '.join(outputs) or 'none'}"
                    )
                W[g, column[set_name]] = weight
        return W

    def values(self, losses: Mapping[str, float]) -> tuple[float, ...]:
        """The value of every goal for one run.

        Args:
            losses: validation set to loss in nats per token.

        Raises:
            ObjectiveError: if a goal needs a set that the run does not report.
        """
        names = list(losses)
        return tuple(
            float(sum(w * losses[s] for s, w in zip(names, row, strict=True) if w))
            for row in self.weights(names)
        )

    def to_json(self) -> str:
        """The objective as text; `from_json` reads it back."""
        goals = [[name, [list(pair) for pair in weights]] for name, weights in self.goals]
        return json.dumps({"goals": goals, "limits": [list(pair) for pair in self.limits]})

    @classmethod
    def from_json(cls, text: str) -> Objective:
        """Read what `to_json` wrote, or another tool.

        Raises:
            ObjectiveError: if the text is none, or holds what `parse` refuses.
        """
        try:
            data = json.loads(text)
            goals = [(str(name), dict(weights)) for name, weights in data["goals"]]
            limits = dict(data.get("limits", []))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ObjectiveError(f"no JSON text of an objective: {text!r}") from error
        if not goals:
            raise ObjectiveError(f"an objective without goals: {text!r}")
        return cls(
            tuple((name, _normalise(name, w) if w else ()) for name, w in goals),
            _parse_limits(limits),
        )


def _parse_goals(
    objective: ObjectiveLike,
) -> tuple[tuple[str, tuple[tuple[str, float], ...]], ...]:
    if objective is None or objective == MEAN:
        return ((MEAN, ()),)
    if isinstance(objective, str):
        return ((objective, ((objective, 1.0),)),)
    if not isinstance(objective, Mapping) or not objective:
        raise ObjectiveError(
            "objective must be 'mean', weights {set: weight} or groups {name: {set: weight}}, "
            f"got {objective!r}"
        )
    grouped = [not is_number(value) for value in objective.values()]
    if all(grouped):
        return tuple((str(name), _parse_group(str(name), g)) for name, g in objective.items())
    if any(grouped):
        raise ObjectiveError(
            "objective mixes weights and groups; give either numbers for all or groups for all, "
            f"got {dict(objective)!r}"
        )
    return (("objective", _normalise("objective", objective)),)


def _parse_group(name: str, group: Any) -> tuple[tuple[str, float], ...]:
    if isinstance(group, str):
        return () if group == MEAN else ((group, 1.0),)
    if isinstance(group, Mapping):
        return _normalise(name, group)
    if isinstance(group, Sequence) and group and all(isinstance(s, str) for s in group):
        return _normalise(name, dict.fromkeys(group, 1.0))
    raise ObjectiveError(
        f"objective {name!r} must be {{set: weight}} or a list of sets, got {group!r}"
    )


def _normalise(name: str, weights: Mapping[Any, Any]) -> tuple[tuple[str, float], ...]:
    positive: dict[str, float] = {}
    for set_name, given in weights.items():
        what = f"objective {name!r}: the weight of {set_name!r}"
        weight = real(what, given, ObjectiveError)
        if not math.isfinite(weight) or weight < 0:
            raise ObjectiveError(f"{what} must be a number of at least 0, got {given!r}")
        if weight > 0:
            positive[str(set_name)] = positive.get(str(set_name), 0.0) + weight
    if not positive:
        raise ObjectiveError(f"objective {name!r}: all weights are 0; give one set a weight")
    if abs(sum(positive.values()) - 1.0) <= _NORMALISED:
        return tuple(positive.items())
    return tuple(zip(positive, shares(list(positive.values())), strict=True))


def _are_equal(one: Mapping[str, float], two: Mapping[str, float]) -> bool:
    return one.keys() == two.keys() and all(
        math.isclose(weight, two[name], rel_tol=1e-9) for name, weight in one.items()
    )


def _parse_limits(limits: Mapping[str, float] | None) -> tuple[tuple[str, float], ...]:
    checked: dict[str, float] = {}
    for set_name, limit in (limits or {}).items():
        what = f"limit on {set_name!r}"
        checked[str(set_name)] = real(what, limit, ObjectiveError)
        if not math.isfinite(checked[str(set_name)]):
            raise ObjectiveError(f"{what} must be a loss in nats per token, got {limit!r}")
    return tuple(checked.items())
