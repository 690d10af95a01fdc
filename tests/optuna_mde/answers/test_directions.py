"""Studies of several values, some of them maximised."""

from __future__ import annotations

import optuna
import pytest

from optuna_mde import predict, recommend
from optuna_mde.objective import ObjectiveError
from tests.optuna_mde.recorded import add_run


def score(a: float) -> float:
    return 50.0 - 100.0 * (a - 0.8) ** 2  # percent, best at .8


def loss(a: float) -> float:
    return 3.0 + (a - 0.2) ** 2  # best at .2


def study_of(directions: tuple[str, ...]) -> optuna.Study:
    value = {"maximize": score, "minimize": loss}
    study = optuna.create_study(directions=directions)
    for i in range(11):
        a = i / 10
        add_run(study, {"a": a, "b": 1.0 - a}, tuple(value[d](a) for d in directions))
    return study


@pytest.mark.parametrize("directions", [("maximize", "minimize"), ("minimize", "maximize")])
def test_each_value_keeps_its_own_sign(directions: tuple[str, ...]) -> None:
    study = study_of(directions)
    answer = recommend(study)
    truth = {"maximize": score, "minimize": loss}
    for row in (*answer.rows, *answer.pareto):
        a = row.mixture["a"]
        for goal, direction in zip(row.goals, directions, strict=True):
            tolerance = 2.0 if direction == "maximize" else 0.02
            assert goal.mean == pytest.approx(truth[direction](a), abs=tolerance)
            assert goal.low <= goal.mean <= goal.high
        assert list(row.losses) == ["value 0", "value 1"]
        for interval, goal in zip(row.losses.values(), row.goals, strict=True):
            assert interval.mean == pytest.approx(goal.mean)
    assert 0.2 - 0.05 <= answer.mixture["a"] <= 0.8 + 0.05
    seen = answer.best_seen
    assert seen.observed_goals == tuple(study.trials[seen.trial].values)


def test_values_of_unlike_units_are_never_averaged() -> None:
    study = study_of(("maximize", "minimize"))
    answer = recommend(study)
    a = answer.mixture["a"]
    assert answer.objective == answer.rows[0].goals[0]  # of the first value
    assert answer.best_seen.observed == study.trials[answer.best_seen.trial].values[0]
    # In raw units the score would decide alone, and a be .8.
    assert 0.3 < a < 0.7
    text = str(answer)
    assert "value 0" in text
    assert "value 1" in text
    assert str(answer.rows[0].goals[1]) in text
    study.set_metric_names(["accuracy", "loss"])
    named = recommend(study)
    assert named.goals == ("accuracy", "loss")
    assert [goal.name for goal in named.trust.goals] == ["accuracy", "loss"]


def test_predictions_of_each_value_and_of_one_alone() -> None:
    study = study_of(("maximize", "minimize"))
    found = predict(study, [{"a": 0.3, "b": 0.7}, {"a": 0.8, "b": 0.2}])
    assert found.sets == ("value 0", "value 1")
    truth = [[score(0.3), loss(0.3)], [score(0.8), loss(0.8)]]
    for mean in (found.mean, found.objective_mean):
        assert mean[:, 0] == pytest.approx([row[0] for row in truth], abs=2.0)
        assert mean[:, 1] == pytest.approx([row[1] for row in truth], abs=0.02)
    for name, best in (("value 0", 0.8), ("value 1", 0.2)):
        assert recommend(study, name).mixture["a"] == pytest.approx(best, abs=0.05)
    one = predict(study, {"a": 0.3, "b": 0.7}, "value 1")
    assert one.objective_mean[0] == pytest.approx(loss(0.3), abs=0.02)
    assert predict(study, {"a": 0.3, "b": 0.7}, "value 0").objective_mean[0] > 0


def test_values_of_both_directions_are_not_weighed_together() -> None:
    study = study_of(("maximize", "minimize"))
    for objective in ("mean", {"value 0": 1, "value 1": 1}):
        with pytest.raises(ObjectiveError, match="maximised with others that are minimised"):
            recommend(study, objective)
