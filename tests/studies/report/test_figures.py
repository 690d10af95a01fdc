from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import optuna
import pytest
from optuna_mde_studies.report import figures, overview
from optuna_mde_studies.report.judgement import judge
from optuna_mde_studies.report.mixture_figures import set_losses
from optuna_mde_studies.report.search_figures import foresight, history, mixtures_by_run

from optuna_mde import report_losses, suggest_mixture
from optuna_mde.visualization import mixtures
from optuna_mde.visualization.palette import DOMAIN_COLOURS, ink_on


def keys(shown):
    return [picture.key for picture in shown]


def traces(figure):
    return {trace.name: trace for trace in figure.data}


def test_a_finished_study_has_every_picture(finished, invented):
    study, recommendation = finished
    found = overview.read(study)
    answered, _ = overview.answered(study, recommendation)
    shown = figures.pictures(found, recommendation, answered)
    assert keys(shown) == ["mixtures", "sets", "effects", "map", "search", "foresight", "tried"]
    parts = figures.pictures(found, recommendation, answered, in_parts=True)
    assert keys(parts) == keys(shown)
    (effects,) = (picture for picture in parts if picture.key == "effects")
    titles = [panel.layout.annotations[0].text for panel in effects.panels]
    assert titles == [f"<b>{domain}</b>" for domain in found.domains]
    frames = {panel.layout.yaxis.range for panel in effects.panels}
    assert len(frames) == 1
    confirmed = judge(found, recommendation, invented.confirmation(recommendation))
    assert keys(figures.confirmation(confirmed)) == ["confirmed"]


def test_an_empty_study_has_no_picture():
    assert figures.pictures(overview.read(optuna.create_study())) == []


def test_several_objectives_have_a_history_each_and_their_trade_off(invent):
    world = invent()
    world.objective = {"code": {"python": 1}, "text": {"docs": 1, "prose": 1}}
    study = world.study()
    found = overview.read(study)
    answered, _ = overview.answered(study)
    assert keys(figures.pictures(found, answered.recommendation, answered)) == [
        *("mixtures", "sets", "effects", "map"),
        *("search-0", "search-1", "trade-off-1", "left-out", "tried"),
    ]
    assert found.objectives == ("code loss", "text loss")


def test_pictures_stay_small_enough_for_a_storage_and_are_strict_json(finished):
    study, recommendation = finished
    answered, _ = overview.answered(study, recommendation)
    for picture in figures.pictures(overview.read(study), recommendation, answered):
        text = picture.figure.to_json()
        json.loads(text, parse_constant=pytest.fail)
        assert len(text) < (100_000 if picture.key in ("effects", "map") else 15_000), picture.key


def test_a_domain_has_one_colour_in_all_pictures(finished):
    study, recommendation = finished
    found = overview.read(study)
    compared = traces(mixtures.draw(recommendation.rows, found.domains))
    by_run = traces(mixtures_by_run(found))
    assert list(compared) == list(by_run) == list(found.domains)
    for domain, colour in zip(found.domains, DOMAIN_COLOURS, strict=False):
        assert compared[domain].marker.color == by_run[domain].marker.color == colour


def test_more_domains_than_colours_share_the_last_and_still_fill_the_bar(finished):
    _, recommendation = finished
    domains = [f"d{i}" for i in range(30)]
    row = replace(recommendation.rows[0], mixture=dict.fromkeys(domains, 1 / 30))
    layers = mixtures.draw([row], domains).data
    assert [layer.name for layer in layers][-1] == "18 others"
    assert sum(layer.x[0] for layer in layers) == pytest.approx(1, abs=1e-3)


def test_history_shows_what_was_observed_and_predicted(finished):
    study, recommendation = finished
    figure = history(overview.read(study), recommendation)
    shown = traces(figure)
    proposals = [t for t in study.trials if t.user_attrs["phase"] == "model"]
    low, high = figure.layout.yaxis.range
    inside = [t for t in proposals if low < t.value < high]
    assert len(inside) >= len(proposals) // 2
    seen = {t.value: y for t, y in zip(proposals, shown["proposals"].y, strict=True)}
    for trial in inside:
        assert low < seen[trial.value] <= trial.value + 1e-4
    at = dict(zip(shown["proposals"].x, shown["proposals"].y, strict=True))
    assert list(at) == [t.number + 1 for t in proposals]  # full runs: each costs one
    foreseen = [t.user_attrs["predicted_mean"] for t in proposals]
    assert {*shown["predicted ± sd"].y} <= {round(mean, 5) for mean in foreseen}
    best = shown["best so far"].y
    assert list(best) == sorted(best, reverse=True)
    assert best[-1] == pytest.approx(study.best_value, abs=1e-4)
    assert shown["recommended"].y[0] == pytest.approx(recommendation.objective.mean, abs=1e-4)


def test_far_values_stand_at_the_edge_with_their_number(finished):
    found = overview.read(finished[0])
    runs = [replace(run, values=(math.inf,)) if run.number == 0 else run for run in found.runs]
    figure = history(replace(found, runs=tuple(runs)))
    experts = traces(figure)["experts"]
    low, high = figure.layout.yaxis.range
    assert all(low < y < high for y in experts.y)
    assert experts.text[0] == "inf"
    assert experts.marker.symbol[0].endswith("-open")
    json.loads(figure.to_json(), parse_constant=pytest.fail)


def test_intervals_of_foresight_count_the_noise_of_a_run(finished):
    figure = foresight(overview.read(finished[0]), noise_sd=0.05)
    bars, half = figure.data[1].error_x, 1.645 * math.hypot(0.02, 0.05)
    ends = zip(figure.data[1].x, bars.arrayminus, bars.array, strict=True)
    low, high = figure.layout.xaxis.range
    assert max(*bars.array, *bars.arrayminus) <= half + 1e-3
    for x, left, right in ends:
        assert low <= x - left <= x + right <= high
        assert right == pytest.approx(half, abs=1e-3) or x + right > high - 0.05 * (high - low)


def test_losses_are_differences_to_natural_with_the_goal_first(finished):
    study, recommendation = finished
    found = overview.read(study)
    figure = set_losses(recommendation.rows, found.sets, found.counted)
    labels = figure.layout.yaxis.ticktext
    assert labels == ("<b>docs</b>", "<b>prose</b>", "<b>mathdocs</b>", "python", "boilerplate")
    natural = next(row for row in recommendation.rows if row.name == "natural")
    shown = traces(figure)
    expected = recommendation.losses["docs"].mean - natural.losses["docs"].mean
    assert shown["recommended"].x[0] == pytest.approx(expected, abs=1e-4)
    assert set(shown["natural"].x) == {0}


def test_hostile_names_stay_text(invent):
    world = invent(domains=("<img src=x onerror=alert(1)>", "%{x}", "<b>b</b>", "a" * 200))
    for picture in figures.pictures(overview.read(world.study())):
        texts = json.loads(picture.figure.to_json())
        assert "<img" not in json.dumps(texts)
        assert "%{x}" not in [trace.get("name") for trace in texts["data"]]
        assert "a" * 30 not in json.dumps(texts)


def test_text_on_a_colour_is_readable():
    assert {ink_on("#ccbb44"), ink_on("#332288")} == {"#1f2933", "#ffffff"}


def test_values_of_runs_beyond_the_edge_have_room_side_by_side():
    study = optuna.create_study()
    rng = np.random.default_rng(0)
    for number in range(30):
        study.enqueue_trial({"mix/a": (number + 1) / 32, "mix/b": 1 - (number + 1) / 32})
        trial = study.ask()
        suggest_mixture(trial, ["a", "b"])
        trial.set_user_attr("phase", "expert" if number < 8 else "model")
        loss = 9.0 if number < 8 else 3.0 + 0.01 * rng.standard_normal()
        study.tell(trial, report_losses(trial, {"x": loss}))
    figure = history(overview.read(study))
    (trace,) = (trace for trace in figure.data if trace.name == "experts")
    assert all(str(symbol).endswith("-open") for symbol in trace.marker.symbol)
    written = [(x, text) for x, text in zip(trace.x, trace.text, strict=True) if text]
    assert 3 <= len(written) < 8
    for line in range(3):
        places = [x for x, text in written if text.count("<br>") == line]
        assert np.diff(places).min(initial=30) >= 0.12 * 30
