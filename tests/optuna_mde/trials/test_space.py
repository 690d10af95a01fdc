from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from optuna_mde.simplex.projection import MixtureError
from optuna_mde.simplex.region import sample
from optuna_mde.trials.groups import Group, LinearConstraint
from optuna_mde.trials.space import Space, decode_value, encode_value, middle

DISTRIBUTIONS: dict[str, tuple[BaseDistribution, list[Any]]] = {
    "float": (FloatDistribution(-2.0, 3.0), [-2.0, 0.5, 3.0]),
    "log": (FloatDistribution(1e-4, 1e-1, log=True), [1e-4, 1e-3, 1e-1]),
    "step": (FloatDistribution(-1.0, 1.0, step=0.1), [-1.0, 0.3, 1.0]),
    "int": (IntDistribution(3, 11, step=2), [3, 7, 11]),
    "int_log": (IntDistribution(1, 1000, log=True), [1, 30, 1000]),
    "many": (IntDistribution(0, 10**7), [0, 12345, 10**7]),
    "choice": (CategoricalDistribution(["a", None, 3]), ["a", None, 3]),
}


def group(**changes: Any) -> Group:
    given = {
        "prefix": "mix/",
        "domains": ("web", "code", "math"),
        "lower": (0.0, 0.0, 0.0),
        "upper": (1.0, 1.0, 0.5),
    }
    return Group(**{**given, **changes})


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_values_survive_the_columns(name: str) -> None:
    distribution, values = DISTRIBUTIONS[name]
    for value in values:
        code = encode_value(value, distribution)
        assert code is not None
        assert 0 <= min(code) <= max(code) <= 1
        decoded = decode_value(np.array(code), distribution)
        assert type(decoded) is type(value)
        assert decoded == (pytest.approx(value) if isinstance(value, float) else value)


def test_decoded_samples_are_allowed_values_of_pythons_own_types() -> None:
    space = Space((group(),), {name: d for name, (d, _) in DISTRIBUTIONS.items()})
    region = space.region()
    for x in sample(region, 200, np.random.default_rng(0)):
        assert region.contains(x)
        params = space.decode(x)
        parts = [params[name] for name in group().names]
        assert abs(sum(parts) - 1.0) < 1e-12
        assert params["mix/math"] <= 0.5
        for name, value in params.items():
            distribution = space.distributions.get(name, FloatDistribution(0.0, 1.0))
            assert distribution._contains(distribution.to_internal_repr(value))
            assert type(value) in (float, int, str, type(None))
        encoded = space.encode(params, {"mix/": dict(zip(group().domains, parts, strict=True))})
        assert encoded is not None
        continuous = [j for j in range(space.dim) if j not in region.grids]
        assert encoded[continuous] == pytest.approx(x[continuous], abs=1e-6)


def test_what_cannot_be_placed_is_no_input() -> None:
    space = Space((group(),), {"choice": CategoricalDistribution(["a", "b"])})
    mixture = {"mix/": {"web": 0.5, "code": 0.5}}
    assert space.encode({"choice": "a"}, mixture) is not None  # a domain not there counts as 0
    assert space.encode({"choice": "c"}, mixture) is None
    assert space.encode({}, mixture) is None
    assert space.encode({"choice": "a"}, {}) is None
    assert space.encode({"choice": "a"}, {"mix/": {"web": 0.5, "wiki": 0.5}}) is None
    assert space.encode({"choice": "a"}, {"mix/": {"web": 1.0, "wiki": 0.0}}) is not None


def test_region_holds_fixed_values_of_parts_and_parameters() -> None:
    space = Space((group(),), {n: DISTRIBUTIONS[n][0] for n in ("choice", "int", "log")})
    region = space.region({"mix/web": 0.7, "choice": None, "int": 7, "log": 1e-3})
    for x in sample(region, 20, np.random.default_rng(0)):
        params = space.decode(x)
        assert params["mix/web"] == pytest.approx(0.7)
        assert (params["choice"], params["int"]) == (None, 7)
        assert params["log"] == pytest.approx(1e-3)
        assert sum(params[n] for n in group().names) == pytest.approx(1.0)


def test_fixed_parts_that_break_a_constraint_win_over_it() -> None:
    constrained = group(constraints=(LinearConstraint.parse("code >= 2*math", group().domains),))
    space = Space((constrained,), {})
    region = space.region({"mix/code": 0.1, "mix/math": 0.4})
    assert space.decode(region.center)["mix/web"] == pytest.approx(0.5)


def test_groups_survive_json() -> None:
    one = group(
        natural=(0.5, 0.3, 0.2),
        constraints=(LinearConstraint.parse("code + web <= 0.9", group().domains),),
    )
    assert Group.from_json(one.to_json()) == one


def test_two_mixtures_have_their_own_columns() -> None:
    space = Space(
        (group(prefix="a/"), group(prefix="b/", domains=("x", "y"), lower=(0, 0), upper=(1, 1))),
        {"lr": FloatDistribution(0, 1)},
    )
    assert space.dim == 6
    assert [space.block(g) for g in space.groups] == [slice(0, 3), slice(3, 5)]
    assert space.columns("lr") == slice(5, 6)


def test_middle_of_a_range() -> None:
    assert middle(FloatDistribution(1e-4, 1e-2, log=True)) == pytest.approx(1e-3)
    assert middle(IntDistribution(0, 10)) == 5
    assert middle(CategoricalDistribution(["a", "b"])) == "a"


@pytest.mark.parametrize(
    ("text", "coefficients", "rhs"),
    [
        ("code >= 2*math", {"code": 1, "math": -2}, 0),
        ("web + code <= 0.5", {"web": -1, "code": -1}, -0.5),
        ("0.1 <= math", {"math": 1}, 0.1),
        ("2 math - code >= -1e-1 + web", {"math": 2, "code": -1, "web": -1}, -0.1),
        ("3d*2 ≥ web/en", {"3d": 2, "web/en": -1}, 0),
    ],
)
def test_constraints_are_read(text: str, coefficients: dict[str, float], rhs: float) -> None:
    parsed = LinearConstraint.parse(text, ["web", "code", "math", "web/en", "3d"])
    assert dict(parsed.coefficients) == pytest.approx(coefficients)
    assert parsed.rhs == pytest.approx(rhs)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("code >= 2*math", "code >= 2*math"),
        ("0.5 >= web + code", "web + code <= 0.5"),
        ("0.1 <= math", "math >= 0.1"),
        ("2 math - code >= -1e-1 + web", "2*math >= code + web - 0.1"),
        ("code >= math + 0.2", "code >= math + 0.2"),
    ],
)
def test_constraints_are_written_as_they_are_read(text: str, shown: str) -> None:
    domains = ["web", "code", "math"]
    parsed = LinearConstraint.parse(text, domains)
    assert str(parsed) == shown
    assert sorted(LinearConstraint.parse(shown, domains).coefficients) == sorted(
        parsed.coefficients
    )


@pytest.mark.parametrize(
    "text",
    [
        "code",
        "code >= ",
        "wiki >= 1",
        "code math >= 1",
        "1 >= 0",
        "code >= math >= web",
        "code > math",
        "code == math",
    ],
)
def test_other_texts_are_no_constraints(text: str) -> None:
    with pytest.raises(MixtureError, match="constraint"):
        LinearConstraint.parse(text, ["web", "code", "math"])


def test_the_widest_range_does_not_overflow() -> None:
    wide = FloatDistribution(-1.7e308, 1.7e308)
    for value in (-1.7e308, -1e300, 0.0, 1e307, 1.7e308):
        code = encode_value(value, wide)
        assert code is not None
        assert decode_value(np.array(code), wide) == pytest.approx(value, abs=1e293)
