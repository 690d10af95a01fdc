"""Figures of studies hold what `recommend` and `predict` say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import plotly.graph_objects as go
import pytest

from optuna_mde import predict, recommend, suggest_mixture
from optuna_mde.answers.intervals import Interval
from optuna_mde.visualization import (
    plot_effects,
    plot_front,
    plot_mixtures,
    plot_predicted,
    plot_ternary,
)
from optuna_mde.visualization.effects import Line, draw
from optuna_mde.visualization.palette import titled
from tests.optuna_mde.recorded import add_run, inner, study_of_runs

Z90 = 1.6448536269514722
CLOSE = {"abs": 1.1e-5, "rel": 0}  # figures keep five decimals


def panel(figure, i: int):
    """Traces of the i-th panel, by name."""
    axis = "x" if i == 0 else f"x{i + 1}"
    return {trace.name: trace for trace in figure.data if (trace.xaxis or "x") == axis}


@pytest.fixture(scope="module")
def study(world, tmp_path_factory) -> optuna.Study:
    """Four domains with experts, one goal over two sets."""
    rates = inner(9, seed=3)
    losses = world.observed(rates, 1)
    goals = {"books": 2, "unseen": 1}
    return study_of_runs(world, tmp_path_factory.mktemp("experts"), rates, losses, goals=goals)


@pytest.fixture(scope="module")
def two_goals(world) -> optuna.Study:
    rates = inner(10, seed=4)
    goals = {"prose": {"books": 1, "web": 1}, "code": {"code": 1}}
    return study_of_runs(world, None, rates, world.observed(rates, 1), goals=goals, n_goals=2)


@pytest.fixture(scope="module")
def bounded() -> optuna.Study:
    """Three domains, of which the first has a cap, and a value that is maximised."""
    study = optuna.create_study(direction="maximize", study_name="bounded")
    for rates in (*np.eye(3)[1:], *inner(9, K=3, seed=5) * [0.4, 1, 1] + [0, 1e-9, 0]):
        parts = rates / rates.sum()
        study.enqueue_trial(dict(zip(["mix/a", "mix/b", "mix/c"], parts.tolist(), strict=True)))
        trial = study.ask()
        mixture = suggest_mixture(trial, ["a", "b", "c"], bounds={"a": (0, 0.5)})
        study.tell(trial, 5 + mixture["a"] - (mixture["b"] - 0.4) ** 2)
    return study


def test_mixtures_are_the_rows_of_the_recommendation(study: optuna.Study) -> None:
    rows = recommend(study).rows
    figure = plot_mixtures(study)
    assert list(figure.data[0].y) == [row.name for row in rows]
    assert [bar.name for bar in figure.data] == list(rows[0].mixture)
    for bar in figure.data:
        assert bar.x == pytest.approx([row.mixture[bar.name] for row in rows], **CLOSE)
    told = [note.text for note in figure.layout.annotations]
    assert told == [f"{row.objective.mean:.3f}" for row in rows]


def test_another_objective_is_answered_by_the_same_runs(study: optuna.Study) -> None:
    rows = recommend(study, {"code": 1}).rows
    figure = plot_mixtures(study, objective={"code": 1})
    code = next(bar for bar in figure.data if bar.name == "code")
    assert code.x[0] == pytest.approx(rows[0].mixture["code"], **CLOSE)
    assert rows[0].mixture["code"] > recommend(study).mixture["code"] + 0.1


def test_effects_are_predictions_between_the_recommendation_and_each_corner(study) -> None:
    answer = recommend(study)
    figure = plot_effects(study)
    for i, domain in enumerate(answer.mixture):
        shown = panel(figure, i)
        line = shown["predicted"]
        assert line.x[0] == 0
        assert line.x[-1] == 1
        assert any(x == pytest.approx(answer.mixture[domain], **CLOSE) for x in line.x)
        for at in (0, 7, 25, -1):
            rest = sum(rate for d, rate in answer.mixture.items() if d != domain)
            mixture = {d: r * (1 - line.x[at]) / rest for d, r in answer.mixture.items()}
            found = predict(study, mixture | {domain: line.x[at]})
            assert line.y[at] == pytest.approx(found.objective_mean[0], abs=2e-3)
            ends = sorted((shown["90 % interval"].y[at % len(line.x)],
                           shown["90 % interval"].y[-1 - at % len(line.x)]))  # fmt: skip
            wide = 2 * Z90 * found.objective_sd[0]
            assert ends[1] - ends[0] == pytest.approx(wide, abs=2e-3, rel=0.05)
        star = shown["recommended"]
        assert star.x[0] == pytest.approx(answer.mixture[domain], **CLOSE)
        assert star.y[0] == pytest.approx(answer.objective.mean, **CLOSE)
        assert star.y[0] + star.error_y.array[0] == pytest.approx(answer.objective.high, abs=3e-5)


def test_what_bounds_forbid_is_dotted(bounded: optuna.Study) -> None:
    shown = panel(plot_effects(bounded), 0)
    assert all(y is not None for y in shown["forbidden"].y)
    assert shown["forbidden"].line.dash == "dot"
    for x, y in zip(shown["predicted"].x, shown["predicted"].y, strict=True):
        assert (y is None) == (x > 0.5)


def test_a_recommended_corner_has_no_line_of_its_own_and_ends_all_others() -> None:
    study = optuna.create_study()
    for rates in (*np.eye(3), *inner(6, K=3, seed=2)):
        add_run(study, dict(zip("abc", rates, strict=True)), (3 - rates[0] + rates[1],))
    answer = recommend(study)
    assert answer.mixture == {"a": 1, "b": 0, "c": 0}
    figure = plot_effects(study)
    assert panel(figure, 0)["predicted"].x == (1,)
    for i in (1, 2):
        line = panel(figure, i)["predicted"]
        assert line.x[0] == 0
        assert line.y[0] == pytest.approx(answer.objective.mean, **CLOSE)
    with pytest.raises(ValueError, match=r"'d' is no domain"):
        plot_ternary(study, ["a", "b", "d"])


def test_several_goals_have_panels_of_their_own(two_goals: optuna.Study) -> None:
    answer = recommend(two_goals)
    figure = plot_effects(two_goals)
    titles = [axis.title.text for axis in figure.select_yaxes() if axis.title.text]
    assert titles == ["prose loss", "code loss"]
    for g, goal in enumerate(answer.rows[0].goals):
        for i in range(4):
            star = panel(figure, 4 * g + i)["recommended"]
            assert star.y[0] == pytest.approx(goal.mean, **CLOSE)


def test_predicted_is_what_trust_was_judged_by(study: optuna.Study) -> None:
    trust = recommend(study).trust
    points = plot_predicted(study).data[1]
    error = np.array(points.x) - np.array(points.y)
    assert np.sqrt(np.mean(error**2)) == pytest.approx(trust.rmse, abs=1e-5)
    assert np.mean(np.abs(error) <= points.error_x.array) == pytest.approx(trust.coverage)
    runs = study.trials[4:]  # the experts come first
    assert points.y == pytest.approx([trial.value for trial in runs], **CLOSE)
    assert [text.split("<br>")[0] for text in points.hovertext] == [
        f"trial {trial.number}" for trial in runs
    ]


def test_maximised_values_keep_their_sign(bounded: optuna.Study) -> None:
    points = plot_predicted(bounded).data[1]
    values = [t.value for t in bounded.trials if max(t.params.values()) < 1]
    assert points.y == pytest.approx(values, **CLOSE)
    assert points.x == pytest.approx(values, abs=0.2)


def test_the_ternary_map_is_predictions_beside_what_is_recommended(study: optuna.Study) -> None:
    answer = recommend(study)
    domains = ["books", "math", "web"]
    figure = plot_ternary(study, domains)
    cells = figure.data[0]
    rates = np.stack([cells.a, cells.b, cells.c], axis=1)
    total = sum(answer.mixture[domain] for domain in domains)
    assert figure.layout.ternary.sum == pytest.approx(total)
    assert rates.sum(axis=1) == pytest.approx(np.full(len(rates), total))
    assert len(np.unique(rates.round(9), axis=0)) == len(rates)
    every = [answer.mixture | dict(zip(domains, row, strict=True)) for row in rates.tolist()]
    found = predict(study, every)
    assert list(cells.marker.color) == pytest.approx(found.objective_mean, abs=1e-4)
    star = figure.data[-1]
    assert [star.a[0], star.b[0], star.c[0]] == pytest.approx(
        [answer.mixture[domain] for domain in domains]
    )


def test_three_domains_are_mapped_with_their_runs_and_bounds(bounded: optuna.Study) -> None:
    cells, runs, _ = plot_ternary(bounded).data
    trials = bounded.trials
    assert list(runs.a) == pytest.approx([trial.params["mix/a"] for trial in trials])
    assert list(runs.c) == pytest.approx([trial.params["mix/c"] for trial in trials])
    faint = [opacity < 1 for opacity in cells.marker.opacity]
    assert faint == [a > 0.5 + 1e-9 for a in cells.a]


def test_the_front_is_that_of_the_recommendation(two_goals: optuna.Study) -> None:
    answer = recommend(two_goals)
    figure = plot_front(two_goals)
    shown = {trace.name: trace for trace in figure.data}
    runs = sorted(zip(shown["others"].x, shown["others"].y, strict=True))
    assert np.array(runs) == pytest.approx(
        np.array(sorted(tuple(t.values) for t in two_goals.trials)), abs=1e-5
    )
    ends = sorted((row.goals[0].mean, row.goals[1].mean) for row in answer.pareto)
    line = shown["predicted front"]
    assert np.array(ends) == pytest.approx(np.stack([line.x, line.y], axis=1), abs=1e-5)
    assert shown["recommended"].x[0] == pytest.approx(answer.rows[0].goals[0].mean, **CLOSE)
    turned = plot_front(two_goals, goals=["code", "prose"])
    assert turned.layout.xaxis.title.text == figure.layout.yaxis.title.text == "code loss"
    assert {t.name: t for t in turned.data}["others"].x == shown["others"].y


def test_a_study_of_one_goal_has_a_front_for_others(study: optuna.Study) -> None:
    goals = {"a": {"books": 1}, "b": {"code": 1, "web": 1}}
    shown = {trace.name: trace for trace in plot_front(study, objective=goals).data}
    losses = [trial.user_attrs["losses"] for trial in study.trials]
    assert shown["others"].x == pytest.approx([told["books"] for told in losses], **CLOSE)
    assert shown["others"].y == pytest.approx(
        [(told["code"] + told["web"]) / 2 for told in losses], **CLOSE
    )


def test_a_second_mixture_is_shown_by_its_prefix() -> None:
    study = optuna.create_study(study_name="two")
    rng = np.random.default_rng(0)
    for first, second in zip(rng.dirichlet([1, 1, 1], 9), rng.dirichlet([1, 1], 9), strict=True):
        parts = dict(zip(["mix/a", "mix/b", "mix/c"], first.tolist(), strict=True))
        parts |= dict(zip(["late/d", "late/e"], second.tolist(), strict=True))
        study.enqueue_trial(parts)
        trial = study.ask()
        one = suggest_mixture(trial, ["a", "b", "c"])
        two = suggest_mixture(trial, ["d", "e"], prefix="late/")
        study.tell(trial, (one["a"] - 0.3) ** 2 + (two["d"] - 0.6) ** 2)
    answer = recommend(study)
    bars = {bar.name: bar for bar in plot_mixtures(study, prefix="late/").data}
    assert list(bars) == ["d", "e"]
    assert bars["d"].x[0] == pytest.approx(answer.mixture["late/d"], **CLOSE)
    line = panel(plot_effects(study, prefix="late/"), 0)["predicted"]
    first = {f"mix/{domain}": answer.mixture[domain] for domain in "abc"}
    every = [first | {"late/d": x, "late/e": 1 - x} for x in line.x]
    assert line.y == pytest.approx(predict(study, every).objective_mean, abs=1e-4)
    with pytest.raises(ValueError, match=r"no mixture with the prefix 'x/'; there is 'mix/', 'l"):
        plot_effects(study, prefix="x/")


def test_figures_are_strict_json_and_names_stay_text() -> None:
    study = optuna.create_study()
    names = ["<img src=x onerror=alert(1)>", "%{x}", "c"]
    for rates in inner(6, K=3, seed=1):
        mixture = dict(zip(names, rates, strict=True))
        add_run(study, mixture, (float(rates[0]),), losses={"<b>s</b>": float(rates[0])})
    for plot in (plot_mixtures, plot_effects, plot_predicted, plot_ternary):
        text = plot(study).to_json()
        json.loads(text, parse_constant=pytest.fail)
        assert "<img" not in text
        assert "%{x}" not in text.replace(", %{fullData.name} %{x:", "")


PLOTS = [plot_mixtures, plot_effects, plot_predicted, plot_ternary, plot_front]


@pytest.mark.parametrize("plot", PLOTS)
def test_an_empty_study_says_what_it_lacks(plot) -> None:
    with pytest.raises(ValueError, match="has no finished run to learn from; run at least one"):
        plot(optuna.create_study())


@pytest.mark.parametrize("plot", PLOTS)
def test_a_study_without_a_mixture_says_so(plot) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda trial: trial.suggest_float("lr", 0, 1), n_trials=5)
    with pytest.raises(ValueError, match=r"has no mixture to show; .*suggest_mixture"):
        plot(study)


def test_wrong_choices_are_named(study: optuna.Study, two_goals: optuna.Study, world) -> None:
    with pytest.raises(ValueError, match=r"'wiki' is no domain .*web, code, books, math"):
        plot_ternary(study, ["web", "code", "wiki"])
    with pytest.raises(ValueError, match="three different names"):
        plot_ternary(study, ["web", "web", "code"])
    with pytest.raises(ValueError, match="'x' is no goal; the goals are prose, code"):
        plot_ternary(two_goals, goal="x")
    with pytest.raises(ValueError, match="two different names"):
        plot_front(two_goals, goals=["prose"])
    with pytest.raises(ValueError, match="one goal only; name several with objective="):
        plot_front(study)


def test_experts_alone_have_nothing_to_be_predicted_from(world, tmp_path: Path) -> None:
    study = study_of_runs(world, tmp_path, np.zeros((0, 4)), np.zeros((0, 5)))
    with pytest.raises(ValueError, match="no finished run beside its experts; run a mixture"):
        plot_predicted(study)


def test_importing_is_light_and_a_missing_plotly_is_named() -> None:
    code = """
import sys
import optuna_mde
import optuna_mde.visualization
assert not {"torch", "plotly", "botorch"} & set(sys.modules)
sys.modules["plotly"] = None
import optuna
try:
    optuna_mde.visualization.plot_mixtures(optuna.create_study())
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'optuna-mde[visualization]'" in done.stdout


@pytest.mark.parametrize(("panels", "columns"), [(3, 3), (4, 4), (5, 3), (7, 4), (9, 3)])
def test_panels_of_effects_fill_their_rows(panels: int, columns: int) -> None:
    rates = np.linspace(0, 1, 3)
    mean, sd = np.ones((3, 1)), np.full((3, 1), 0.1)
    lines = [Line(f"d{i}", rates, mean, sd, np.full(3, True), 0.2) for i in range(panels)]
    figure = draw(lines, ("loss",), (Interval(1.0, 0.9, 1.1),))
    assert len({round(axis.domain[0], 4) for axis in figure.select_xaxes()}) == columns


def test_a_title_leaves_room_for_its_legend() -> None:
    figure = go.Figure([go.Scatter(y=[1], name=f"run {i}") for i in range(8)])
    assert titled(figure, "a")["margin_t"] >= 56 + 4 * 19
    assert titled(figure.update_layout(showlegend=False), "a")["margin_t"] == 56
