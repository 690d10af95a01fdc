"""The page's script, figures and long tables, small enough to send."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna_mde_studies.report import packing
from optuna_mde_studies.report.page import write
from optuna_mde_trainers.spec import RunResult
from optuna_mde_trainers.spec.results import Point, TrainPoint
from plotly.offline import get_plotlyjs

from optuna_mde import report_losses, suggest_mixture

MB = 1e6


@pytest.mark.parametrize("text", ["", "a", "</script><!--", "Ω 'quotes' \n" * 999])
def test_what_is_packed_comes_back_and_may_stand_in_a_script(text):
    held = packing.packed(text)
    assert "<" not in held
    assert packing.unpacked(held) == text


def test_the_script_lacks_nothing_but_the_worker_of_maps():
    script = get_plotlyjs()
    kept = packing.without_worker(script)
    start = next(i for i, (a, b) in enumerate(zip(script, kept, strict=False)) if a != b)
    cut = len(script) - len(kept)
    assert cut > 400_000
    assert script[:start] + script[start + cut :] == kept
    assert script[start + cut - 1 : start + cut + 1].strip(";")[-1] == "'"
    assert packing.unpacked(packing.plotly()) == kept
    assert packing.without_worker("short") == "short"


def large(runs: Path, n_trials: int = 500, n_sets: int = 18, n_domains: int = 12) -> optuna.Study:
    """Runs with losses by a power law of kindred domains, and noise; with folders."""
    rng = np.random.default_rng(0)
    kinship = rng.uniform(0, 0.5, (n_sets, n_domains)) + np.eye(n_sets, n_domains)
    domains = [f"domain {i}" for i in range(n_domains)]
    natural = dict(zip(domains, rng.dirichlet(np.full(n_domains, 3)), strict=True))
    study = optuna.create_study(study_name="large")
    chosen = [*np.eye(n_domains), list(natural.values())]
    chosen += [rng.dirichlet(np.ones(n_domains)) for _ in range(n_trials - len(chosen))]
    for number, rates in enumerate(chosen):
        parts = {f"mix/{d}": float(r) for d, r in zip(domains, rates, strict=True)}
        study.enqueue_trial(parts)
        trial = study.ask()
        suggest_mixture(trial, domains, natural=natural)
        losses = 2.5 + 0.6 * (kinship @ rates + 0.03) ** -0.4 + 0.01 * rng.standard_normal(n_sets)
        if number > n_domains:
            trial.set_user_attr("phase", "model")
            trial.set_user_attr("predicted_mean", float(losses.mean() + 0.02 * rng.normal()))
            trial.set_user_attr("predicted_sd", 0.02)
        named = {f"set {i}": float(loss) for i, loss in enumerate(losses)}
        trial.set_user_attr("run", f"runs/{number:016x}")
        study.tell(trial, report_losses(trial, named, tokens=184_320))
        write_result(runs / f"{number:016x}", named, rng)
    return study


def write_result(run: Path, losses: dict[str, float], rng: np.random.Generator) -> None:
    """A run that was scored at three points and has a curve of its training loss."""
    run.mkdir(parents=True)
    train = 2.0 + 6.0 * np.arange(1, 51) ** -0.5 + 0.05 * rng.standard_normal(50)
    RunResult(
        losses=losses,
        bits_per_byte={},
        set_fingerprints={},
        train_loss=2.0,
        tokens=184_320,
        parameters=1,
        realised={},
        seconds=1.0,
        points=[
            Point(step=i, tokens=46_080 * i, losses={s: v + 1 / i for s, v in losses.items()})
            for i in (1, 2, 3)
        ],
        train_curve=[
            TrainPoint(step=i, tokens=3686 * i, loss=loss) for i, loss in enumerate(train, 1)
        ],
    ).write(run / "result.json")


@pytest.mark.slow
def test_a_page_of_500_runs_and_18_sets_is_small_and_soon_there(tmp_path):
    study = large(tmp_path / "runs")
    began = time.process_time()
    path = write(study, tmp_path)
    assert time.process_time() - began < 10
    assert path.stat().st_size < 2 * MB
    assert '<div id="training"' in path.read_text("utf-8")
