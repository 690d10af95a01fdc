"""Losses of runs on their way: read from their folders, and drawn together."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna_mde_studies.report import curves, overview, page
from optuna_mde_studies.runner.confirm import Confirmation
from optuna_mde_trainers.spec import LaunchSpec, RunResult, RunSpec, TrainingSpec
from optuna_mde_trainers.spec.results import Point, TrainPoint

from optuna_mde import recommend, report_losses, suggest_mixture

NATURAL = {"web": 0.5, "code": 0.5}
LOSSES = {"a": 2.0, "b": 1.0}


def result(folder: Path, train: list[float], points: dict[int, dict[str, float]]) -> None:
    """A run's result, with losses on the way: of training each hundred tokens."""
    folder.mkdir(parents=True)
    RunResult(
        losses=LOSSES,
        bits_per_byte={},
        set_fingerprints={},
        train_loss=train[-1] if train else None,
        tokens=1000,
        parameters=10,
        realised={},
        seconds=1.0,
        points=[Point(step=t, tokens=t, losses=losses) for t, losses in points.items()],
        train_curve=[
            TrainPoint(step=i, tokens=100 * i, loss=loss) for i, loss in enumerate(train, 1)
        ],
    ).write(folder / "result.json")


def study_of(n: int, runs: Path) -> optuna.Study:
    """Runs whose training losses begin with their numbers; the first is the natural mixture."""
    study = optuna.create_study(study_name="own")
    rng = np.random.default_rng(0)
    for number, web in enumerate([0.5, *rng.uniform(0, 1, n - 1)]):
        study.enqueue_trial({"mix/web": float(web), "mix/code": float(1 - web)})
        trial = study.ask()
        suggest_mixture(trial, ["web", "code"], natural=NATURAL)
        trial.set_user_attr("run", f"runs/{number:016x}")
        study.tell(trial, report_losses(trial, {"a": 2.0 + (web - 0.3) ** 2, "b": 1.0}))
        points = {400: {"a": 4.0, "b": 2.0}, 700: {"a": 3.0}} if number < 2 else {}
        result(runs / f"{number:016x}", [float(number), 3.0, 2.0, *[1.0] * 27], points)
    return study


def drawn(figure, name: str) -> list[tuple[str, list[int], list[float]]]:
    """(text, tokens, losses) of the lines of a trace, which gaps part."""
    (trace,) = (trace for trace in figure.data if trace.name == name)
    points = zip(trace.text, trace.x, trace.y, strict=True)
    found = []
    for is_gap, line in groupby(points, lambda point: point[1] is None):
        if not is_gap:
            texts, tokens, losses = zip(*line, strict=True)
            found.append((texts[0], list(tokens), list(losses)))
    return found


def test_runs_are_drawn_with_their_numbers_and_those_that_matter_by_name(tmp_path):
    study = study_of(8, tmp_path / "runs")
    traced = curves.of_study(overview.read(study), tmp_path / "runs", recommend(study))
    figure = curves.training(traced)
    ((text, tokens, losses),) = drawn(figure, "natural")
    assert (text, tokens[:2], losses[:4]) == ("trial 0", [100, 200], [0.0, 3.0, 2.0, 1.0])
    best = min(study.trials, key=lambda trial: trial.value).number
    assert [text for text, *_ in drawn(figure, "best seen")] == [f"trial {best}"]
    others = {text: losses[0] for text, _, losses in drawn(figure, "other runs")}
    assert others == {f"trial {n}": n for n in range(1, 8) if n != best}


def test_the_objective_is_drawn_where_all_of_its_sets_were_scored(tmp_path):
    study = study_of(6, tmp_path / "runs")
    found = overview.read(study)
    figure = curves.objective(curves.of_study(found, tmp_path / "runs"), found.goals, "loss")
    lines = drawn(figure, "other runs")
    assert lines == [(f"trial {n}", [400, 1000], [3.0, 1.5]) for n in (0, 1)]


def test_fresh_seeds_of_the_recommended_mixture_are_strong_lines(tmp_path):
    runs = tmp_path / "runs"
    study = study_of(6, runs)
    best = recommend(study).mixture
    for i, (mixture, seed) in enumerate([(best, 10), (best, 11), (NATURAL, 10), (best, 3)]):
        training = TrainingSpec(
            mixture=mixture, corpus="c", tokenizer="t", max_steps=3, global_batch_size=2, seed=seed
        )
        result(runs / f"f{i:015x}", [9.0, 5.0], {})
        launch = LaunchSpec(corpus_folder="corpus")
        RunSpec(training=training, launch=launch).write(runs / f"f{i:015x}" / "spec.json")
    kept = Confirmation(
        told=6,
        seeds=[10, 11],
        mixtures={"recommended": best, "natural": NATURAL},
        losses={name: [LOSSES, LOSSES] for name in ("recommended", "natural")},
    )
    figure = curves.training(curves.of_study(overview.read(study), runs, recommend(study), kept))
    assert [text for text, *_ in drawn(figure, "recommended")] == [
        "recommended, seed 10",
        "recommended, seed 11",
    ]
    assert [text for text, *_ in drawn(figure, "natural")] == ["trial 0", "natural, seed 10"]


def test_of_many_runs_the_faint_ones_are_thinned_and_keep_their_ends(tmp_path):
    study = study_of(curves.MANY + 2, tmp_path / "runs")
    traced = curves.of_study(overview.read(study), tmp_path / "runs", recommend(study))
    for _, tokens, losses in drawn(curves.training(traced), "other runs"):
        assert len(tokens) == curves.THIN
        assert (tokens[0], tokens[-1], losses[-1]) == (100, 3000, 1.0)
    ((_, tokens, _),) = drawn(curves.training(traced), "natural")
    assert len(tokens) == 30


@pytest.mark.parametrize("name", ["../secret", "x/..", "", "unknown"])
def test_a_run_that_a_storage_invents_has_no_curve(name, tmp_path):
    study = study_of(2, tmp_path / "runs")
    result(tmp_path / "secret", [1.0, 1.0], {})
    trial = study.ask({})
    suggest_mixture(trial, ["web", "code"])
    trial.set_user_attr("run", name)
    study.tell(trial, report_losses(trial, LOSSES))
    assert len(curves.of_study(overview.read(study), tmp_path / "runs")) == 2


def test_the_page_has_the_curves_of_runs_that_lie_beside_it(tmp_path):
    study = study_of(6, tmp_path / "runs")
    text = page.write(study, tmp_path).read_text("utf-8")
    assert '<div id="training"' in text
    assert '<div id="curves"' in text
    bare = page.write(study, tmp_path / "runs").read_text("utf-8")
    assert '<div id="training"' not in bare
