from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import FixedTrial, TrialState

from optuna_mde import MDESampler, exclude_trials, report_losses, suggest_mixture
from optuna_mde.objective import Objective
from optuna_mde.trials.notes import read_notes

DOMAINS = ["web", "code"]
LOSSES = {"web": 2.0, "code": 4.0}


def study_of(**options: Any) -> optuna.Study:
    return optuna.create_study(sampler=MDESampler(seed=0), **options)


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (None, 3.0),
        ("mean", 3.0),
        ("code", 4.0),
        ({"web": 3, "code": 1}, 2.5),
        ({"a": {"web": 1}, "b": {"web": 1, "code": 1}}, (2.0, 3.0)),
    ],
)
def test_values_of_the_objective(objective: Any, expected: Any) -> None:
    n = len(expected) if isinstance(expected, tuple) else 1
    study = study_of(directions=["minimize"] * n)
    trial = study.ask()
    assert report_losses(trial, LOSSES, objective=objective) == expected
    study.tell(trial, expected)
    attrs = study.trials[0].user_attrs
    assert attrs["losses"] == LOSSES
    assert Objective.from_json(attrs["objective"]) == Objective.parse(objective)
    assert attrs["format"] == 1


def test_what_is_known_of_a_run_is_kept() -> None:
    study = study_of()
    trial = study.ask()
    report_losses(
        trial,
        {"web": np.float32(2.0), "code": np.array(4.0)},
        logprobs="runs/1/logprobs.safetensors",
        tokens=10**6,
        parameters=2 * 10**5,
    )
    attrs = study.trials[0].user_attrs
    assert attrs["losses"] == LOSSES
    assert attrs["logprobs"] == "runs/1/logprobs.safetensors"
    assert (attrs["tokens"], attrs["parameters"]) == (10**6, 2 * 10**5)
    assert "budget" not in attrs


def test_a_shortened_run_ends_pruned_with_its_losses() -> None:
    study = study_of()

    def objective(trial: optuna.Trial) -> Any:
        return report_losses(trial, LOSSES, budget=0.5)

    with pytest.warns(UserWarning, match=r"log-probabilities alone.*logprobs=url"):
        study.optimize(objective, n_trials=1)
    trial = study.trials[0]
    assert trial.state == TrialState.PRUNED
    assert trial.user_attrs["losses"] == LOSSES
    assert trial.user_attrs["budget"] == 0.5


def test_a_set_that_is_nan_is_absent_and_the_study_goes_on() -> None:
    study = study_of()
    trial = study.ask()
    with pytest.warns(UserWarning, match="no loss on code"):
        value = report_losses(
            trial, {"web": 2.0, "code": math.nan}, objective={"web": 1, "code": 1}
        )
    assert value == 2.0
    assert study.trials[0].user_attrs["losses"] == {"web": 2.0}


def test_a_set_that_other_runs_report_may_be_missing() -> None:
    study = study_of()
    report_losses(study.ask(), LOSSES, objective={"web": 1, "code": 1})
    with pytest.warns(UserWarning, match="no loss on code"):
        value = report_losses(study.ask(), {"web": 2.0}, objective={"web": 1, "code": 1})
    assert value == 2.0


def test_without_any_number_there_is_no_value() -> None:
    with pytest.warns(UserWarning, match=r"no loss on web, code.*: mean has no value \(NaN\)"):
        assert math.isnan(report_losses(study_of().ask(), dict.fromkeys(DOMAINS, math.nan)))  # type: ignore[arg-type]


def test_a_diverged_run_keeps_its_infinity() -> None:
    study = study_of()
    trial = study.ask()
    assert report_losses(trial, {"web": math.inf, "code": 4.0}) == math.inf
    study.tell(trial, math.inf)
    assert study.trials[0].user_attrs["losses"]["web"] == math.inf


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"losses": {}}, "losses must be"),
        ({"losses": {"web": "low"}}, "'web' must be a number.*'low'"),
        ({"losses": LOSSES, "budget": 0.0}, r"\(0, 1\], got 0.0"),
        ({"losses": LOSSES, "budget": 1.5}, r"\(0, 1\], got 1.5"),
        ({"losses": LOSSES, "objective": {"wiki": 1.0}}, "wiki, which no run reports"),
        ({"losses": LOSSES, "objective": {"web": -1.0}}, "at least 0"),
        ({"losses": LOSSES, "limits": {"web": "low"}}, "limit on 'web'"),
        ({"losses": LOSSES, "objective": {"a": "web", "b": "code"}}, "directions="),
    ],
)
def test_user_errors_name_what_is_wrong(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        report_losses(study_of().ask(), **arguments)


def test_a_maximising_study_is_refused_with_the_mend() -> None:
    with pytest.raises(ValueError, match="direction='minimize'"):
        report_losses(study_of(direction="maximize").ask(), LOSSES)


def test_the_samplers_objective_is_used_where_none_is_given() -> None:
    study = optuna.create_study(sampler=MDESampler(objective={"code": 1.0}))
    assert report_losses(study.ask(), LOSSES) == 4.0
    assert report_losses(study.ask(), LOSSES, objective="mean") == 3.0


def test_limits_say_whether_a_run_is_feasible() -> None:
    study = study_of()
    for limit, feasible in ((2.5, True), (1.5, False)):
        report_losses(study.ask(), LOSSES, limits={"web": limit})
        assert study.trials[-1].user_attrs["feasible"] is feasible
        assert study.trials[-1].user_attrs["limits"] == {"web": limit}


def test_a_limit_may_be_the_natural_mixtures_loss() -> None:
    study = study_of()
    study.enqueue_trial({"mix/web": 0.75, "mix/code": 0.25})
    for loss, feasible in ((2.0, None), (1.9, True), (2.1, False)):
        trial = study.ask()
        suggest_mixture(trial, DOMAINS, natural={"web": 3, "code": 1})
        losses = {"web": loss, "code": 4.0}
        study.tell(trial, report_losses(trial, losses, limits={"web": "natural"}))
        assert study.trials[-1].user_attrs.get("feasible") is feasible


NUMBERS = {
    "numpy": (np.int64, np.float32),
    "numpy arrays": (np.array, np.array),
    "torch": (torch.tensor, lambda x: torch.tensor(x, requires_grad=True)),
    "bfloat16": (torch.tensor, lambda x: torch.tensor(x, dtype=torch.bfloat16)),
}


@pytest.mark.parametrize("limits", [{"wbe": 3.0}, {"wbe": "natural"}, {"web": 3.0, "wbe": 3.0}])
def test_a_limit_on_a_set_that_no_run_reports_is_an_error(limits: dict[str, Any]) -> None:
    study = optuna.create_study()
    trial = study.ask()
    suggest_mixture(trial, DOMAINS, natural={"web": 3, "code": 1})
    with pytest.raises(ValueError, match="limits names wbe, which no run reports"):
        report_losses(trial, LOSSES, limits=limits)
    assert "losses" not in trial.user_attrs
    with pytest.raises(ValueError, match="limits names wbe"):
        report_losses(FixedTrial({}), LOSSES, limits=limits)


def test_a_limit_on_a_set_that_other_runs_report_is_none() -> None:
    study = optuna.create_study()
    study.tell(trial := study.ask(), report_losses(trial, {**LOSSES, "later": 2.0}))
    assert report_losses(study.ask(), LOSSES, limits={"later": 1.0}) > 0


def test_the_natural_mixtures_limit_needs_a_natural_mixture() -> None:
    study = optuna.create_study()
    trial = study.ask()
    with pytest.raises(ValueError, match="the limit of web is that of the natural mixture, and"):
        report_losses(trial, LOSSES, limits={"web": "natural"})
    suggest_mixture(trial, DOMAINS)
    with pytest.raises(ValueError, match="the study has none"):
        report_losses(trial, LOSSES, limits={"web": "natural"})
    known = study.ask()
    suggest_mixture(known, DOMAINS, natural={"web": 3, "code": 1})
    assert report_losses(known, LOSSES, limits={"web": "natural"}) > 0


@pytest.mark.parametrize("kind", NUMBERS)
def test_every_number_may_be_of_numpy_or_torch(kind: str, tmp_path: Path) -> None:
    whole, real = NUMBERS[kind]
    sampler = MDESampler(
        seed=whole(3),
        n_startup_trials=whole(4),
        expert_budget={"web": real(0.5)},
        objective={"web": real(3.0), "code": whole(1)},
    )
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/study.db", sampler=sampler)
    trial = study.ask()
    value = report_losses(
        trial,
        {"web": real(2.0), "code": real(4.0)},
        limits={"web": real(2.5)},
        budget=real(1.0),
        tokens=whole(5),
        parameters=whole(7),
    )
    assert value == 2.5
    study.tell(trial, value)
    attrs = study.trials[0].user_attrs
    assert (attrs["losses"], attrs["limits"]) == (LOSSES, {"web": 2.5})
    assert (attrs["tokens"], attrs["parameters"], attrs["feasible"]) == (5, 7, True)
    exclude_trials(study, [whole(0)], "wrong data")
    exclude_trials(study, whole(0), "still wrong")  # type: ignore[arg-type]
    assert study.user_attrs["excluded"] == {"0": "still wrong"}
    suggest_mixture(study.ask(), DOMAINS)
    assert read_notes(study).expert_budget("web") == 0.5


@pytest.mark.parametrize(
    "arguments",
    [
        {"losses": {"web": 1.0, "code": [1.0, 2.0]}},
        {"losses": {1: 2.0, "1": 3.0}},
        {"losses": {"constraint:x": 3.0}},
        {"losses": {"value 0": 3.0}},
        {"budget": "0.5"},
        {"tokens": 1.5},
        {"tokens": -1},
        {"parameters": "many"},
        {"limits": {"web": [1.0]}},
        {"limits": {"web": np.ones(2)}},
        {"limits": [3.0]},
        {"logprobs": 5},
        {"objective": {"web": object()}},
    ],
)
def test_a_call_that_fails_leaves_nothing_on_the_trial(arguments: dict[str, Any]) -> None:
    study = study_of()
    trial = study.ask()
    (field,) = arguments
    with pytest.raises(ValueError, match=field.removesuffix("es").removesuffix("s")):
        report_losses(trial, **{"losses": LOSSES, **arguments})
    assert study.trials[0].user_attrs == {}


def test_names_of_sets_may_be_numbers() -> None:
    study = study_of()
    trial = study.ask()
    with pytest.warns(UserWarning, match="no loss on 3"):
        value = report_losses(
            trial, {1: 2.0, 2: 4.0, 3: math.nan}, objective={1: 3, 2: 1, 3: 1}, limits={2: 5}
        )
    assert value == 2.5
    assert study.trials[0].user_attrs["losses"] == {"1": 2.0, "2": 4.0}
    with pytest.raises(ValueError, match="wiki, which no run reports; losses holds 1, 2"):
        report_losses(trial, {1: 2.0, 2: 4.0}, objective={"wiki": 1.0})


def test_replays_report_without_a_study() -> None:
    assert report_losses(FixedTrial({}), LOSSES, budget=0.5) == 3.0


def test_excluded_trials_are_kept_with_the_reason() -> None:
    study = study_of()
    for _ in range(3):
        study.tell(study.ask(), 1.0)
    exclude_trials(study, [1], "wrong data")
    exclude_trials(study, [2], "crashed late")
    assert study.user_attrs["excluded"] == {"1": "wrong data", "2": "crashed late"}
    with pytest.raises(ValueError, match="no trial 7; numbers run from 0 to 2"):
        exclude_trials(study, [7], "typo")
