"""Objectives as users write them."""

from __future__ import annotations

import numpy as np
import pytest

from optuna_mde.objective import Objective, ObjectiveError

LOSSES = {"books": 3.0, "code": 1.0, "web": 2.0}


@pytest.mark.parametrize(
    ("given", "values"),
    [
        (None, (2.0,)),
        ("mean", (2.0,)),
        ("code", (1.0,)),
        ({"books": 2, "code": 2}, (2.0,)),
        ({"books": 3, "code": 1, "web": 0}, (2.5,)),
        ({"a": {"books": 1}, "b": {"code": 1, "web": 1}}, (3.0, 1.5)),
        ({"a": ["books", "web"], "b": "code", "all": "mean"}, (2.5, 1.0, 2.0)),
    ],
)
def test_values(given, values) -> None:
    objective = Objective.parse(given)
    assert objective.values(LOSSES) == pytest.approx(values)
    assert Objective.from_json(objective.to_json()) == objective
    weights = objective.weights(list(LOSSES))
    np.testing.assert_allclose(weights @ list(LOSSES.values()), values)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)


def test_the_largest_weights_are_weights() -> None:
    objective = Objective.parse({"books": 1e308, "code": 1e308, "web": 5e307})
    assert objective.values(LOSSES) == pytest.approx((2.0,))


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "3",
        "[]",
        "{}",
        '{"goals": []}',
        '{"goals": 3}',
        '{"goals": [["a", [["books", NaN]]]]}',
        '{"goals": [["a", [["books", "1"]]]]}',
        '{"goals": [["a", [["books", -1]]]]}',
        '{"goals": [["a", [["books", 0]]]]}',
        '{"goals": [["mean", []]], "limits": [["books", Infinity]]}',
    ],
)
def test_texts_of_other_hands_are_refused(text: str) -> None:
    with pytest.raises(ObjectiveError):
        Objective.from_json(text)


def test_weights_of_other_hands_are_normalised() -> None:
    objective = Objective.from_json('{"goals": [["a", [["books", 3], ["code", 1]]]]}')
    assert objective == Objective((("a", (("books", 0.75), ("code", 0.25))),))


def test_limits_survive_the_round_trip_and_name_their_sets() -> None:
    objective = Objective.parse({"code": 1}, {"books": 3.2})
    assert Objective.from_json(objective.to_json()) == objective
    assert objective.sets == ("code", "books")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"books": -1}, "weight of 'books' must be a number of at least 0"),
        ({"books": float("nan")}, "weight of 'books'"),
        ({"books": 0}, "all weights are 0"),
        ({"books": 1, "b": {"code": 1}}, "mixes weights and groups"),
        ({}, "objective must be"),
        ({"a": 3j}, "must be"),
        ({"books": 10**400}, "weight of 'books' is too large"),
    ],
)
def test_what_is_no_objective_is_refused(given, message: str) -> None:
    with pytest.raises(ObjectiveError, match=message):
        Objective.parse(given)


def test_a_set_that_no_run_reports_is_named() -> None:
    with pytest.raises(ObjectiveError, match=r"'math', which no run reports; .*books, code"):
        Objective.parse({"math": 1}).values({"books": 1.0, "code": 1.0})
    with pytest.raises(ObjectiveError, match="limit on 'books'"):
        Objective.parse(None, {"books": float("inf")})
