"""Optuna's parameters and the model's inputs.

A `Space` orders the columns: the rates of every mixture first, plain, then the other parameters,
scaled to [0, 1] (on the log scale where the distribution is logarithmic; categorical ones as
one-hot columns).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from optuna_mde.scalars import as_float
from optuna_mde.simplex.projection import Array, settle
from optuna_mde.simplex.region import Region
from optuna_mde.trials.groups import Group

LARGEST_GRID = 1000  # more values than this are searched as if continuous, and rounded after


@dataclass(frozen=True)
class Space:
    """Columns of the model's inputs, for mixtures and the parameters beside them."""

    groups: tuple[Group, ...]
    distributions: dict[str, BaseDistribution]
    """The parameters that are no part of a mixture, in column order."""

    @property
    def dim(self) -> int:
        """Number of columns d."""
        return sum(g.size for g in self.groups) + sum(
            _width(d) for d in self.distributions.values()
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the columns: parameters, and ``name=choice`` for one-hot columns."""
        names = [name for group in self.groups for name in group.names]
        for name, distribution in self.distributions.items():
            if isinstance(distribution, CategoricalDistribution):
                names += [f"{name}={choice}" for choice in distribution.choices]
            else:
                names.append(name)
        return tuple(names)

    def block(self, group: Group) -> slice:
        """Columns of a mixture."""
        start = 0
        for other in self.groups:
            if other.prefix == group.prefix:
                return slice(start, start + other.size)
            start += other.size
        raise KeyError(group.prefix)

    def columns(self, name: str) -> slice:
        """Columns of a parameter that is no part of a mixture."""
        start = sum(g.size for g in self.groups)
        for other, distribution in self.distributions.items():
            if other == name:
                return slice(start, start + _width(distribution))
            start += _width(distribution)
        raise KeyError(name)

    def encode(
        self, params: Mapping[str, Any], mixtures: Mapping[str, Mapping[str, float]]
    ) -> Array | None:
        """Inputs `[d]` of a trial; `mixtures` maps a prefix to {domain: rate}.

        None where a mixture or parameter of the space is missing or cannot be placed in it.
        """
        x = np.empty(self.dim)
        start = 0
        for group in self.groups:
            rates = group.rates(mixtures[group.prefix]) if group.prefix in mixtures else None
            if rates is None:
                return None
            x[start : start + group.size] = rates
            start += group.size
        for name, distribution in self.distributions.items():
            if name not in params:
                return None
            code = encode_value(params[name], distribution)
            if code is None:
                return None
            x[start : start + len(code)] = code
            start += len(code)
        return x

    def decode(self, x: Array) -> dict[str, Any]:
        """Optuna's parameters of the inputs `[d]`, as plain Python values.

        The parts of a mixture sum to 1 within 1e-12 and keep the group's bounds if x does.
        """
        params: dict[str, Any] = {}
        start = 0
        for group in self.groups:
            rates = np.clip(x[start : start + group.size], 0.0, 1.0)
            rates = settle(rates, np.array(group.lower), np.array(group.upper))
            params.update(zip(group.names, np.clip(rates, 0.0, 1.0).tolist(), strict=True))
            start += group.size
        for name, distribution in self.distributions.items():
            width = _width(distribution)
            params[name] = decode_value(x[start : start + width], distribution)
            start += width
        return params

    def region(self, fixed: Mapping[str, Any] | None = None) -> Region:
        """Where proposals may lie; `fixed` maps Optuna's names, parts included, to values."""
        fixed = fixed or {}
        lower, upper = np.zeros(self.dim), np.ones(self.dim)
        rows: list[Array] = []
        rhs: list[float] = []
        blocks = tuple(self.block(group) for group in self.groups)
        for group, block in zip(self.groups, blocks, strict=True):
            names = zip(group.domains, group.names, strict=True)
            given = {d: as_float(fixed[name]) for d, name in names if name in fixed}
            part = group.region({d: rate for d, rate in given.items() if rate is not None})
            lower[block], upper[block] = part.lower, part.upper
            for a, b in zip(part.A, part.b, strict=True):
                row = np.zeros(self.dim)
                row[block] = a
                rows.append(row)
                rhs.append(float(b))
        grids: dict[int, Array] = {}
        one_hots: list[slice] = []
        for name, distribution in self.distributions.items():
            s = self.columns(name)
            if isinstance(distribution, CategoricalDistribution):
                one_hots.append(s)
            else:
                grid = _grid(distribution)
                if grid is not None:
                    grids[s.start] = grid
            if name in fixed:
                code = encode_value(fixed[name], distribution)
                if code is not None:
                    lower[s] = upper[s] = code
        A = np.array(rows) if rows else np.zeros((0, self.dim))
        return Region(lower, upper, blocks, grids, tuple(one_hots), A, np.array(rhs))


def encode_value(value: Any, distribution: BaseDistribution) -> list[float] | None:
    """Columns of one parameter's value; numbers outside the range are moved to its ends."""
    if isinstance(distribution, CategoricalDistribution):
        try:
            hot = int(distribution.to_internal_repr(value))
        except ValueError:
            return None
        return [float(i == hot) for i in range(len(distribution.choices))]
    low, high = _ends(distribution)
    number = as_float(value)
    if number is None or not math.isfinite(number):
        return None
    if distribution.log:  # type: ignore[attr-defined]
        number = math.log(max(number, math.exp(low)))
    # halves, as the width of the widest ranges overflows
    share = (number / 2 - low / 2) / (high / 2 - low / 2) if high > low else 0.0
    return [min(1.0, max(0.0, share))]


def decode_value(code: Array, distribution: BaseDistribution) -> Any:
    """The parameter's value of its columns, inside its range, of Python's own types."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(np.argmax(code))]
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    low, high = _ends(distribution)
    share = float(code[0])
    number = low * (1.0 - share) + high * share
    if distribution.log:
        number = math.exp(number)
    if distribution.step is not None:
        steps = round((number - distribution.low) / distribution.step)
        number = distribution.low + steps * distribution.step
    number = min(max(number, distribution.low), distribution.high)
    return int(number) if isinstance(distribution, IntDistribution) else float(number)


def middle(distribution: BaseDistribution) -> Any:
    """The centre of a parameter's range; the first choice of a categorical one."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    return decode_value(np.array([0.5]), distribution)


def _width(distribution: BaseDistribution) -> int:
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    return 1


def _ends(distribution: BaseDistribution) -> tuple[float, float]:
    """Range of a numeric distribution, on the log scale where it is logarithmic."""
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    if distribution.log:
        return math.log(distribution.low), math.log(distribution.high)
    return float(distribution.low), float(distribution.high)


def _grid(distribution: BaseDistribution) -> Array | None:
    """Scaled values of a distribution with steps; None where it is (as good as) continuous."""
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    if distribution.step is None:
        return None
    steps = round((distribution.high - distribution.low) / distribution.step)
    if steps + 1 > LARGEST_GRID:
        return None
    values = distribution.low + np.arange(steps + 1) * distribution.step
    low, high = _ends(distribution)
    scaled = np.log(values) if distribution.log else values
    return np.asarray((scaled - low) / (high - low)) if high > low else np.zeros(1)
