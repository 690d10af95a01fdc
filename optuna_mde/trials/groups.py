"""One mixture of a study: its domains, bounds and linear constraints."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from optuna_mde.scalars import as_float, real, shares
from optuna_mde.simplex.projection import (
    TOLERANCE,
    Array,
    MixtureError,
    binding,
    check_bounds,
    fix_parts,
)
from optuna_mde.simplex.region import Region
from optuna_mde.trials.revisions import Origins, placed

DEFAULT_PREFIX = "mix/"
ENCODING_FOLDERS = ("exponential/", "stick/")  # parameters of foreign encodings, not rates
ROUNDED = 1e-6  # imported rates are often rounded; what we write sums to 1 within 1e-9


@dataclass(frozen=True)
class LinearConstraint:
    """sum_j coefficient_j * rate_j >= rhs, over the domains named in `coefficients`."""

    coefficients: tuple[tuple[str, float], ...]
    rhs: float

    @classmethod
    def parse(cls, text: str, domains: Sequence[str]) -> LinearConstraint:
        """Read e.g. ``"code >= 2*math"`` or ``"web + books <= 0.5"``.

        Domains are recognised by their full names, the longest first, so names may hold any
        character.

        Raises:
            MixtureError: when the text is no such inequality of these domains.
        """
        term = _term_pattern(domains)
        sides = re.split(r"(>=|<=|≥|≤)", text)
        if len(sides) != 3:
            raise MixtureError(f"constraint {text!r} needs one >= or <=, as in 'code >= 2*math'")
        coefficients: dict[str, float] = {}
        constant = 0.0
        for side, outer in ((sides[0].strip(), 1.0), (sides[2].strip(), -1.0)):
            position = 0
            while position < len(side) or position == 0:
                match = term.match(side, position)
                if match is None or (position > 0 and not match["sign"]):
                    raise MixtureError(
                        f"constraint {text!r} is not understood at {side[position:]!r}; write "
                        f"numbers times domains, as in 'code >= 2*math'; the domains are "
                        f"{', '.join(domains)}"
                    )
                value = outer * (-1.0 if match["sign"] == "-" else 1.0)
                value *= float(match["factor"] or match["before"] or 1.0)
                name = match["first"] or match["second"]
                if name:
                    coefficients[name] = coefficients.get(name, 0.0) + value
                else:
                    constant += value
                position = match.end()
        sign = 1.0 if sides[1] in (">=", "≥") else -1.0
        kept = tuple((d, sign * c) for d, c in coefficients.items() if c != 0.0)
        if not all(math.isfinite(number) for number in (*coefficients.values(), constant)):
            raise MixtureError(f"constraint {text!r} holds a number too large to compute with")
        if not coefficients:
            raise MixtureError(f"constraint {text!r} names no domain")
        if not kept and -sign * constant > 0.0:
            raise MixtureError(f"no mixture meets {text}; relax it")
        return cls(kept, 0.0 - sign * constant)

    def __str__(self) -> str:
        """As one would write it: no term below zero."""
        more = _sum((d, c) for d, c in self.coefficients if c > 0.0)
        less = _sum((d, -c) for d, c in self.coefficients if c < 0.0)
        if not more:
            return f"{less or 0} <= {0.0 - self.rhs:g}"
        if not less or self.rhs == 0.0:
            return f"{more} >= {less or f'{self.rhs:g}'}"
        return f"{more} >= {less} {'+' if self.rhs > 0.0 else '-'} {abs(self.rhs):g}"


@dataclass(frozen=True)
class Group:
    """One mixture of a study: its domains and what is asked of it in the current trial."""

    prefix: str
    """Prefix of the parameters' names, e.g. ``"mix/"``."""
    domains: tuple[str, ...]
    lower: tuple[float, ...]
    """Smallest rates that a proposal may have."""
    upper: tuple[float, ...]
    """Largest rates (caps)."""
    natural: tuple[float, ...] | None = None
    """The natural mixture, if known."""
    constraints: tuple[LinearConstraint, ...] = ()
    """Linear constraints between domains."""
    strict: bool = False
    """Whether the bounds are Optuna's own ranges, so that no expert may lie outside them."""
    origins: Origins = ()
    """What domains of older runs count as; kept on the study, and not with a trial."""

    @property
    def names(self) -> tuple[str, ...]:
        """Optuna's parameter names of the parts."""
        return tuple(self.prefix + domain for domain in self.domains)

    @property
    def size(self) -> int:
        """Number of domains K."""
        return len(self.domains)

    def rates(self, mixture: Mapping[str, float]) -> Array | None:
        """Rates `[K]` of a recorded mixture; domains that it lacks count as 0, and those that
        were revised as their shares of others.

        None where it has mass on a domain that the group does not hold.
        """
        if self.origins:
            mixture = placed(mixture, {old: dict(shares) for old, shares in self.origins})
        unknown = sum(rate for domain, rate in mixture.items() if domain not in self.domains)
        if unknown > TOLERANCE:
            return None
        return np.array([mixture.get(domain, 0.0) for domain in self.domains])

    def region(self, fixed: Mapping[str, float] | None = None) -> Region:
        """Where this mixture may lie, parts `fixed` (domain -> rate) keeping their values."""
        index = {self.domains.index(d): rate for d, rate in (fixed or {}).items()}
        lower, upper = fix_parts(np.array(self.lower), np.array(self.upper), index)
        A = np.zeros((len(self.constraints), self.size))
        for row, constraint in zip(A, self.constraints, strict=True):
            for domain, coefficient in constraint.coefficients:
                row[self.domains.index(domain)] = coefficient
        b = np.array([constraint.rhs for constraint in self.constraints])
        A, b = binding(A, b, lower, upper)
        region = Region(lower, upper, (slice(0, self.size),), A=A, b=b)
        if index and len(b):
            try:
                region.center  # noqa: B018  the centre exists unless the fixed parts break them
            except MixtureError:
                return Region(lower, upper, (slice(0, self.size),))
        return region

    def to_json(self) -> dict[str, Any]:
        """A JSON-able form, read back by `from_json`, without origins."""
        return {key: value for key, value in asdict(self).items() if key != "origins"}

    def revised(self, origins: Origins) -> Group:
        """The mixture as runs are read by now: domains that were revised give way to what they
        became, without bounds or constraints until a trial names them."""
        named = {old: dict(shares) for old, shares in origins}
        if not named.keys() & {*self.domains}:
            return replace(self, origins=origins)
        domains = tuple(placed(dict.fromkeys(self.domains, 0.0), named))
        limits = dict(zip(self.domains, zip(self.lower, self.upper, strict=True), strict=True))
        lower, upper = zip(*(limits.get(d, (0.0, 1.0)) for d in domains), strict=True)
        natural = None
        if self.natural is not None:
            rates = placed(dict(zip(self.domains, self.natural, strict=True)), named)
            natural = tuple(rates[d] for d in domains)
        kept = tuple(c for c in self.constraints if {d for d, _ in c.coefficients} <= {*domains})
        return replace(
            self,
            domains=domains,
            lower=lower,
            upper=upper,
            natural=natural,
            constraints=kept,
            origins=origins,
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Group:
        """The group that `to_json` wrote.

        Raises:
            KeyError, TypeError or ValueError: if it is another tool's, or another version's.
        """
        group = cls(
            prefix=str(data["prefix"]),
            domains=tuple(map(str, data["domains"])),
            lower=tuple(map(float, data["lower"])),
            upper=tuple(map(float, data["upper"])),
            natural=None if data["natural"] is None else tuple(map(float, data["natural"])),
            constraints=tuple(
                LinearConstraint(
                    tuple((str(d), float(c)) for d, c in item["coefficients"]), float(item["rhs"])
                )
                for item in data["constraints"]
            ),
            strict=bool(data.get("strict", False)),
        )
        columns = (group.lower, group.upper, group.natural or group.lower)
        named = {domain for item in group.constraints for domain, _ in item.coefficients}
        if any(len(column) != group.size for column in columns) or named - {*group.domains}:
            raise ValueError(f"the parts of the mixture {group.prefix!r} do not fit together")
        if not np.isfinite(columns).all():
            raise ValueError(f"the mixture {group.prefix!r} has bounds that are no numbers")
        return group


def _sum(terms: Iterable[tuple[str, float]]) -> str:
    return " + ".join(d if c == 1.0 else f"{c:g}*{d}" for d, c in terms)


def _term_pattern(domains: Sequence[str]) -> re.Pattern[str]:
    """One signed term: ``2*math``, ``math*2``, ``2 math``, ``math`` or ``0.5``."""
    name = "|".join(re.escape(d) for d in sorted(domains, key=len, reverse=True))
    number = r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
    return re.compile(
        rf"\s*(?P<sign>[+-]?)\s*(?:(?P<first>{name})(?:\s*\*\s*(?P<factor>{number}))?"
        rf"|(?P<before>{number})(?:\s*\*?\s*(?P<second>{name}))?)\s*"
    )


def make_group(
    domains: Sequence[str],
    bounds: Mapping[str, tuple[float, float]] | None = None,
    natural: Mapping[str, float] | None = None,
    prefix: str = DEFAULT_PREFIX,
    constraints: Sequence[str] = (),
) -> Group:
    """The checked description of a mixture; arguments as in `suggest_mixture`.

    Raises:
        MixtureError: if the arguments describe no mixture.
    """
    named = [domains] if isinstance(domains, str) else list(domains)
    if isinstance(domains, str) or not all(isinstance(d, str) and d for d in named):
        raise MixtureError(f"domains must be a list of names, got {domains!r}")
    domains = tuple(map(str, named))
    if len(domains) < 2:
        raise MixtureError(f"a mixture needs at least two domains, got {list(domains)}")
    twice = sorted({d for d in domains if domains.count(d) > 1})
    if twice:
        raise MixtureError(f"domains must differ, got {', '.join(twice)} more than once")
    if not isinstance(prefix, str) or not prefix:
        raise MixtureError(f"prefix must be a non-empty text such as 'mix/', got {prefix!r}")
    pairs = _bounds(domains, {} if bounds is None else bounds)
    lower, upper = zip(*pairs, strict=True)
    check_bounds(domains, lower, upper)
    if isinstance(constraints, str) or not all(isinstance(text, str) for text in constraints):
        raise MixtureError(f"constraints must be a list of inequalities, got {constraints!r}")
    parsed = tuple(LinearConstraint.parse(text, domains) for text in constraints)
    group = Group(prefix, domains, lower, upper, _natural(domains, natural), parsed)
    if parsed:
        _check_room(group, constraints)
    return group


def as_rates(values: Mapping[str, float], *, scale: bool) -> dict[str, float] | None:
    """{domain: rate} of rates, or of token counts, which are whole; None of anything else.

    Rates whose sum misses 1 by more than rounding are divided by it if `scale`, else refused.
    """
    parts = list(values.values())
    if not all(math.isfinite(part) and part >= -TOLERANCE for part in parts):
        return None
    if abs(sum(parts) - 1.0) <= ROUNDED:
        return dict(values)
    parts = [max(0.0, part) for part in parts]
    if any(parts) and (scale or all(part.is_integer() for part in parts)):
        return dict(zip(values, shares(parts), strict=True))
    return None


def check_enqueued(group: Group, fixed: Mapping[str, Any]) -> None:
    """Refuse enqueued values from which another mixture than the one meant would be made.

    Raises:
        MixtureError: if one is no finite number, or if a parameter under the prefix is no domain
            (a misspelt one, most likely) and the others do not sum to 1 without it.
    """
    total = 0.0
    for name in group.names:
        if name in fixed:
            total += _enqueued_rate(name, fixed[name])
    folders = tuple(group.prefix + folder for folder in ENCODING_FOLDERS)
    strange = [
        name
        for name, value in fixed.items()
        if name.startswith(group.prefix)
        and name not in group.names
        and not name.startswith(folders)
        and value != 0
    ]
    if strange and abs(total - 1.0) > ROUNDED:
        raise MixtureError(
            f"enqueued {', '.join(map(repr, strange))}, but the mixture has no such domain; its "
            f"parameters are {', '.join(map(repr, group.names))}. Name a domain as the mixture "
            f"does, or give parameters that are none another prefix than {group.prefix!r}"
        )


def _enqueued_rate(name: str, value: Any) -> float:
    rate = as_float(value)
    if rate is None or not math.isfinite(rate):
        raise MixtureError(
            f"parameter {name!r} is enqueued as {value!r}; give a rate, or a number of tokens"
        )
    return rate


def _check_room(group: Group, constraints: Sequence[str]) -> None:
    try:
        group.region().center  # noqa: B018  it exists where any mixture does
    except MixtureError:
        pairs = zip(group.domains, group.lower, group.upper, strict=True)
        bounds = [f"{d} in [{a:g}, {b:g}]" for d, a, b in pairs if (a, b) != (0.0, 1.0)]
        raise MixtureError(
            f"no mixture meets {'; '.join([*constraints, *bounds])}; relax one of them"
        ) from None


def _bounds(
    domains: Sequence[str], bounds: Mapping[str, tuple[float, float]]
) -> list[tuple[float, float]]:
    _check_known("bounds", bounds, domains)
    pairs = []
    for domain in domains:
        pair = bounds.get(domain, (0.0, 1.0))
        try:
            low, high = (real(f"a bound of {domain!r}", value) for value in pair)
        except (TypeError, ValueError):
            raise MixtureError(
                f"bounds of {domain!r} must be a pair (low, high), got {pair!r}"
            ) from None
        pairs.append((low, high))
    return pairs


def _natural(
    domains: Sequence[str], given: Mapping[str, float] | None
) -> tuple[float, ...] | None:
    if given is None:
        return None
    _check_known("natural", given, domains)
    values = [
        real(f"the natural share of {domain!r}", given.get(domain, 0.0), MixtureError)
        for domain in domains
    ]
    if not all(math.isfinite(v) and v >= 0 for v in values) or not any(values):
        raise MixtureError(
            f"natural must hold shares of at least 0, not all of them 0, got {dict(given)}"
        )
    return tuple(shares(values))


def _check_known(what: str, named: Mapping[str, Any], domains: Sequence[str]) -> None:
    if not isinstance(named, Mapping):
        raise MixtureError(f"{what} must be a mapping by domain, got {named!r}")
    unknown = [name for name in named if name not in domains]
    if unknown:
        raise MixtureError(
            f"{what} names {', '.join(map(repr, unknown))}; the domains are {', '.join(domains)}"
        )
