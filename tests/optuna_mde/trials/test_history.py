from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from optuna_mde import MDESampler, exclude_trials, report_losses, save_logprobs, suggest_mixture
from optuna_mde.objective import Objective
from optuna_mde.observations import Kind, Observations
from optuna_mde.trials.facts import lost_trials, stalled_trials
from optuna_mde.trials.groups import Group
from optuna_mde.trials.history import read
from optuna_mde.trials.layout import study_space
from optuna_mde.trials.records import read_trial
from optuna_mde.trials.space import Space
from optuna_mde.trials.targets import natural_loss

DOMAINS = ["web", "code", "books"]
UNIT = FloatDistribution(0.0, 1.0)


def run(
    rates: Any = (0.5, 0.3, 0.2),
    losses: dict[str, float] | None = None,
    domains: Any = DOMAINS,
    **fields: Any,
) -> FrozenTrial:
    params = {f"mix/{d}": float(r) for d, r in zip(domains, rates, strict=True)}
    attrs = {"losses": losses} if losses is not None else {}
    attrs |= fields.pop("user_attrs", {})
    if fields.get("state") is None and "values" not in fields:
        fields["value"] = 1.0
    distributions = dict.fromkeys(params, UNIT)
    return optuna.create_trial(
        params=params, distributions=distributions, user_attrs=attrs, **fields
    )


def study_of(*trials: FrozenTrial, **options: Any) -> optuna.Study:
    sampler = MDESampler(seed=0, mixtures={"mix/": DOMAINS})
    study = optuna.create_study(sampler=sampler, **options)
    study.add_trials(trials)
    return study


def history_of(study: optuna.Study, domains: list[str] = DOMAINS) -> Observations:
    return read(study, study_space(study, mixtures={"mix/": domains}))


def test_losses_are_outputs_with_gaps() -> None:
    history = history_of(
        study_of(
            run(losses={"a": 1.0}),
            run(losses={"b": 2.0, "a": float("nan")}),
            run(losses={"b": 3.0, "a": float("inf")}),
        )
    )
    assert history.outputs == ("a", "b")
    expected = [[1.0, np.nan], [np.nan, 2.0], [np.inf, 3.0]]
    assert np.array_equal(history.Y, expected, equal_nan=True)
    assert history.objective == Objective((("mean", (("a", 0.5), ("b", 0.5))),))
    assert history.numbers.tolist() == [0, 1, 2]


def test_plain_values_are_minimised_outputs() -> None:
    trials = [run(values=[1.0, 5.0]), run(values=[float("inf"), 1e30])]
    history = history_of(study_of(*trials, directions=["minimize", "maximize"]))
    assert history.outputs == ("value 0", "value 1")
    assert history.Y.tolist() == [[1.0, -5.0], [np.inf, -1e30]]
    assert history.objective.names == ("value 0", "value 1")


def test_what_is_no_observation_stays_out() -> None:
    study = study_of(
        run(state=TrialState.FAIL),
        run(state=TrialState.PRUNED, value=1.0),
        run((0.9, 0.9, 0.9)),
        run((0.2, 0.2, 0.6)),
        run((0.2, 0.4, 0.4)),
        optuna.create_trial(value=0.0),
    )
    exclude_trials(study, [4], "wrong data")
    assert history_of(study).numbers.tolist() == [3]


@pytest.mark.parametrize("mixture", [{}, {"web": float("nan")}])
def test_a_run_of_an_unknown_mixture_is_left_out_and_named(mixture: Any) -> None:
    strange = run(losses={"a": 2.0}, user_attrs={"mixture": mixture})
    study = study_of(run(losses={"a": 1.0}), strange)
    with pytest.warns(UserWarning, match="trial 1 is left out: its user attribute 'mixture'"):
        history = history_of(study)
    assert history.numbers.tolist() == [0]


def test_runs_that_are_told_in_token_counts_are_mixtures() -> None:
    counts = {f"mix/{d}": n for d, n in zip(DOMAINS, (5e9, 3e9, 2e9), strict=True)}
    ranges = dict.fromkeys(counts, FloatDistribution(0.0, 1e12))
    study = study_of(optuna.create_trial(params=counts, distributions=ranges, value=1.0))
    assert history_of(study).X.tolist() == [[0.5, 0.3, 0.2]]


def test_an_objective_of_other_hands_is_left_out_and_named() -> None:
    strange = {"objective": '{"goals": [["a", [["a", NaN]]]]}'}
    usable = {"objective": Objective.parse({"a": 3, "b": 1}).to_json()}
    losses = {"a": 1.0, "b": 2.0}
    study = study_of(run(losses=losses, user_attrs=usable), run(losses=losses, user_attrs=strange))
    with pytest.warns(UserWarning, match="objective of trial 1 is left out: .*weight of 'a'"):
        history = history_of(study)
    assert history.objective.weights(history.outputs).tolist() == [[0.75, 0.25]]


def test_every_finished_trial_that_teaches_nothing_is_named(tmp_path: Path) -> None:
    def short(rates: tuple[float, ...], **attrs: Any) -> FrozenTrial:
        attrs = {"budget": 0.5, **attrs}
        return run(rates, {"a": 2.0}, state=TrialState.PRUNED, user_attrs=attrs)

    url = save_logprobs(tmp_path / "web", {"a": np.log([0.5, 0.5])})
    trials = [
        run(state=TrialState.FAIL),
        run(state=TrialState.PRUNED, value=1.0),
        run(state=TrialState.PRUNED, user_attrs={"budget": 0.5}),
        run((0.9, 0.9, 0.9)),
        run((0.5, 0.5), domains=["web", "wiki"]),
        run((0.2, 0.4, 0.4)),
        run((0.2, 0.3, 0.5)),
        short((0.2, 0.4, 0.4)),
        short((0.0, 1.0, 0.0)),
        short((1.0, 0.0, 0.0), logprobs=url),
        run(losses={"a": 1.0}),
    ]
    study = study_of(*trials)
    exclude_trials(study, [5], "wrong data")
    history = history_of(study)
    assert history.left_out == {
        0: "failed",
        1: "pruned",
        2: "pruned without losses",
        3: "has no mixture mix/",
        4: "trains wiki, which the mixture does not have",
        5: "excluded: wrong data",
        6: "reports no losses, as others do",
        7: "a run on 0.5 of a full run",
        8: "an expert without log-probabilities on 0.5 of a full run",
    }
    # shorter runs are in the table, and no model takes them for full ones
    assert history.numbers.tolist() == [7, 8, 9, 10]
    assert history.corner.tolist() == [False, True, True, False]
    assert history.full.tolist() == [False, False, False, True]


def test_a_run_that_lacks_a_parameter_of_the_space_is_named() -> None:
    lr = {"lr": FloatDistribution(0.0, 1.0)}
    choice = {"kind": CategoricalDistribution(["x", "y"])}
    study = optuna.create_study()
    study.add_trial(optuna.create_trial(params={"lr": 0.5}, distributions=lr, value=1.0))
    gone = {"kind": CategoricalDistribution(["z"])}
    study.add_trial(optuna.create_trial(params={"kind": "z"}, distributions=gone, value=1.0))
    assert read(study, Space((), lr)).left_out == {1: "has no parameter lr"}
    left_out = read(study, Space((), choice)).left_out
    assert left_out[1] == "has a value outside the present choices: kind = 'z'"


def test_rows_say_how_long_and_how_large_their_runs_were() -> None:
    sized = run(losses={"a": 1.0}, user_attrs={"tokens": 10**9, "parameters": 3e6})
    history = history_of(study_of(sized, run(losses={"a": 1.0}, user_attrs={"tokens": "many"})))
    assert history.columns == ("mix/web", "mix/code", "mix/books")
    assert np.array_equal(history.tokens, [1e9, np.nan], equal_nan=True)
    assert np.array_equal(history.parameters, [3e6, np.nan], equal_nan=True)
    assert history.schedule.tolist() == [1.0, 1.0]


def test_goals_know_which_values_are_maximised() -> None:
    trials = [run(values=[1.0, 5.0])]
    history = history_of(study_of(*trials, directions=["minimize", "maximize"]))
    assert history.signs.tolist() == [1.0, -1.0]
    assert history.goal_signs.tolist() == [1.0, -1.0]
    both = replace(history, objective=Objective.parse({"value 0": 1, "value 1": 1}))
    assert both.goal_signs.tolist() == [1.0]  # of unlike directions: as it is minimised
    assert history_of(study_of(run(losses={"a": 1.0}))).goal_signs.tolist() == [1.0]


def test_constraints_do_not_count_in_the_mean() -> None:
    trials = [run(losses={"a": 1.0, "b": 2.0}, constraints={"latency": -0.5})]
    history = history_of(study_of(*trials))
    assert history.outputs == ("a", "b", "constraint:latency")
    assert [target.kind for target in history.targets] == [Kind.LOSS, Kind.LOSS, Kind.CONSTRAINT]
    assert replace(history, objective=Objective()).weights.tolist() == [[0.5, 0.5, 0.0]]
    assert history.losses == (0, 1)


def test_cheap_experts_bring_their_losses() -> None:
    cheap = run((1, 0, 0), {"a": 2.0}, state=TrialState.PRUNED, user_attrs={"budget": 0.5})
    history = history_of(study_of(cheap, run(losses={"a": 1.0})))
    assert history.budget.tolist() == [0.5, 1.0]
    assert history.corner.tolist() == [True, False]


def test_an_added_domain_counts_as_zero_in_old_trials() -> None:
    study = study_of(run(), run((0.5, 0.5), domains=["web", "wiki"]))
    history = history_of(study, [*DOMAINS, "wiki"])
    assert history.X.tolist() == [[0.5, 0.3, 0.2, 0.0], [0.5, 0.0, 0.0, 0.5]]
    # and a run with mass on a domain that is gone cannot be placed
    assert history_of(study).numbers.tolist() == [0]


def test_order_of_domains_does_not_matter() -> None:
    history = history_of(study_of(run((0.2, 0.3, 0.5), domains=["books", "code", "web"])))
    assert history.X.tolist() == [[0.5, 0.3, 0.2]]


def test_running_and_enqueued_trials_are_pending() -> None:
    study = study_of(run())
    study.enqueue_trial({"mix/web": 0.1, "mix/code": 0.2, "mix/books": 0.7})
    study.enqueue_trial({"mix/web": 0.1})
    study.add_trial(run((0.0, 0.0, 1.0), state=TrialState.RUNNING))
    assert history_of(study).pending.tolist() == [[0.1, 0.2, 0.7], [0.0, 0.0, 1.0]]


def test_lost_trials_are_not_pending() -> None:
    def trial(hours_ago: float, **fields: Any) -> FrozenTrial:
        frozen = run(**fields)
        frozen.datetime_start = datetime.now() - timedelta(hours=hours_ago)
        return frozen

    done = trial(3.0)
    assert done.datetime_start is not None
    done.datetime_complete = done.datetime_start + timedelta(minutes=10)
    study = study_of(
        done,
        trial(2.0, rates=(1, 0, 0), state=TrialState.RUNNING),
        trial(1.0, rates=(0, 1, 0), state=TrialState.RUNNING),
    )
    assert history_of(study).pending.tolist() == [[0.0, 1.0, 0.0]]


def test_what_others_have_overtaken_is_pending_no_more() -> None:
    start = datetime.now() - timedelta(minutes=40)

    def trial(first: int, last: int | None, rates: Any = (0.5, 0.3, 0.2)) -> FrozenTrial:
        state = TrialState.RUNNING if last is None else TrialState.COMPLETE
        frozen = run(rates, state=state, value=None if last is None else 1.0)
        frozen.datetime_start = start + timedelta(minutes=first)
        frozen.datetime_complete = None if last is None else start + timedelta(minutes=last)
        return frozen

    def numbers(*trials: FrozenTrial) -> set[int]:
        read = [read_trial(t) for t in trials]
        for number, record in enumerate(read):
            object.__setattr__(record, "number", number)
        return stalled_trials(read)

    running = trial(0, None)
    one_by_one = [trial(i, i + 10) for i in (1, 11, 21)]
    assert numbers(running) == set()
    assert numbers(running, *one_by_one[:1]) == set()  # a slow run
    assert numbers(running, *one_by_one[:2]) == {0}  # no worker is that slow beside one other
    assert numbers(running, *one_by_one, trial(31, None)) == {0}
    four = [trial(i, i + 10) for i in (1, 2, 3, 4)]
    assert numbers(running, *four) == set()  # one of five workers
    assert numbers(running, *four, *one_by_one[1:]) == {0}
    told = trial(-20, -10, (0.2, 0.2, 0.6))
    history = history_of(study_of(told, running, *one_by_one))
    assert history.pending.shape == (0, 3)
    assert history.stalled.tolist() == [[0.5, 0.3, 0.2]]
    assert history.seen.tolist()[-1] == [0.5, 0.3, 0.2]


def test_a_trial_that_lacks_a_parameter_is_pending_all_the_same() -> None:
    """A worker may be killed, or be read, between two of its suggestions."""
    ranges = {**dict.fromkeys((f"mix/{d}" for d in DOMAINS), UNIT), "lr": FloatDistribution(0, 1)}
    told = run()
    told.distributions, told.params = ranges, {**told.params, "lr": 0.5}
    half = run((1.0, 0.0, 0.0), state=TrialState.RUNNING, value=None)
    history = history_of(study_of(told, half))
    assert history.columns == ("mix/web", "mix/code", "mix/books", "lr")
    assert history.pending.tolist() == [[1.0, 0.0, 0.0, 0.5]]


def test_constraints_of_the_user_are_outputs_with_limits() -> None:
    study = study_of(run(losses={"a": 1.0}, constraints={"latency": -0.5}), run(losses={"a": 2.0}))
    history = history_of(study)
    assert history.outputs == ("a", "constraint:latency")
    assert np.array_equal(history.Y, [[1.0, -0.5], [2.0, np.nan]], equal_nan=True)
    assert history.objective.limits == (("constraint:latency", 0.0),)
    assert history.objective.goals == (("mean", (("a", 1.0),)),)


def test_limits_follow_the_latest_run() -> None:
    study = study_of(
        run((0.6, 0.4, 0.0), {"a": 1.5}),
        run(losses={"a": 1.0}, user_attrs={"limits": {"a": "natural", "gone": 3.0}}),
    )
    assert history_of(study).objective.limits == ()
    study.set_user_attr("natural", {"web": 0.6, "code": 0.4})
    assert history_of(study).objective.limits == (("a", 1.5),)


def test_the_latest_objective_counts_and_unreported_sets_leave_it() -> None:
    objective = Objective.parse({"a": 1, "gone": 1, "b": 3})
    study = study_of(
        run(losses={"a": 1.0, "b": 1.0}, user_attrs={"objective": "no objective"}),
        run(losses={"a": 1.0, "b": 1.0}, user_attrs={"objective": objective.to_json()}),
        run(losses={"a": 1.0, "b": 1.0}),
    )
    with pytest.warns(UserWarning, match="weighs gone, which no run reports"):
        goals = history_of(study).objective.goals
    assert dict(goals[0][1]) == pytest.approx({"a": 0.25, "b": 0.75})


def test_expert_files_the_fullest_first_without_unreadable_ones(tmp_path: Path) -> None:
    study = study_of()
    study.set_user_attr("mde_folder", str(tmp_path))
    for name in ("web", "code", "half"):
        save_logprobs(tmp_path / f"{name}.st", {"a": np.log([0.5, 0.1])})
    half = {"budget": 0.5, "logprobs": "half.st"}
    study.add_trials(
        [
            run((1, 0, 0), {"a": 1.0}, state=TrialState.PRUNED, user_attrs=half),
            run((1, 0, 0), {"a": 1.0}, user_attrs={"logprobs": "web.st"}),
            run((0, 1, 0), {"a": 1.0}, user_attrs={"logprobs": "code.st"}),
            run((0, 0, 1), {"a": 1.0}, user_attrs={"logprobs": "gone.st"}),
            run((0.5, 0.5, 0), {"a": 1.0}, user_attrs={"logprobs": "web.st"}),
        ]
    )
    with pytest.warns(UserWarning, match=r"gone.st of trial 3 cannot be read"):
        history = history_of(study)
    found = [(f.domain, Path(f.url).name, f.budget, f.number) for f in history.experts]
    assert found == [
        ("web", "web.st", 1.0, 1),
        ("web", "half.st", 0.5, 0),
        ("code", "code.st", 1.0, 2),
    ]
    assert history.block == slice(0, 3)
    assert history.domains == tuple(DOMAINS)


def test_runs_without_losses_leave_once_others_report_them() -> None:
    history = history_of(study_of(run(), run(losses={"a": 1.0})))
    assert history.numbers.tolist() == [1]


def test_space_is_what_finished_runs_have_in_common() -> None:
    study = optuna.create_study()
    lr, other = FloatDistribution(1e-4, 1e-2, log=True), FloatDistribution(0.0, 1.0)
    for extra in ({"a": 0.1}, {"b": 0.2}):
        study.add_trial(
            optuna.create_trial(
                params={"lr": 1e-3, "kind": "x", "one": 1.0, **extra},
                distributions={
                    "lr": lr,
                    "kind": CategoricalDistribution(["x", "y"]),
                    "one": FloatDistribution(1.0, 1.0),
                    **dict.fromkeys(extra, other),
                },
                value=0.0,
            )
        )
    space = study_space(study)
    assert list(space.distributions) == ["kind", "lr"]
    assert space.groups == ()
    assert read(study, space).X.tolist() == [[1.0, 0.0, pytest.approx(0.5)]] * 2


def test_registered_bounds_win_over_older_ones() -> None:
    study = optuna.create_study(sampler=MDESampler(seed=0))
    for cap in (0.8, 0.6):
        trial = study.ask()
        suggest_mixture(trial, DOMAINS, bounds={DOMAINS[trial.number]: (0.0, cap)})
        assert study_space(study, trial).groups[0].upper[trial.number] == cap
        study.tell(trial, report_losses(trial, {"a": 1.0}))
    assert study_space(study).groups[0].upper == (1.0, 0.6, 1.0)


def test_an_empty_study_has_an_empty_history() -> None:
    history = history_of(study_of())
    assert history.X.shape == (0, 3)
    assert history.Y.shape == (0, 1)
    assert history.numbers.shape == (0,)


def test_the_nearest_allowed_mixture_stands_for_a_natural_one_out_of_bounds() -> None:
    group = Group("mix/", tuple(DOMAINS), (0.0,) * 3, (0.5, 1.0, 1.0), (0.6, 0.4, 0.0))
    told = [read_trial(run((0.5, 0.45, 0.05), {"a": 2.0})), read_trial(run(losses={"a": 3.0}))]
    assert natural_loss(told, group, "a") == 2.0
    told.append(read_trial(run((0.6, 0.4, 0.0), {"a": 1.0})))  # enqueued, so run as it is
    assert natural_loss(told, group, "a") == 1.0
    assert natural_loss(told, group, "b") is None


def test_start_times_with_a_time_zone_are_understood() -> None:
    hour = timedelta(hours=1)
    done = run()
    done.datetime_start = datetime.now(UTC) - 2 * hour
    done.datetime_complete = datetime.now(UTC) - hour
    lost = run(state=TrialState.RUNNING)
    lost.datetime_start = datetime.now(UTC) - 30 * hour
    alive = run(state=TrialState.RUNNING)
    trials = [replace(read_trial(t), number=i) for i, t in enumerate((done, lost, alive))]
    assert lost_trials(trials) == {1}
