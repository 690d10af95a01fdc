"""A word on the expert of a scarce domain that has learned its text by heart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest

from benchmarks.ours import told_study
from benchmarks.prediction import DATA
from benchmarks.tables import DIRICHLET, Recording
from optuna_mde import recommend
from tests.optuna_mde.recorded import inner, study_of_runs


def word(study: optuna.Study) -> str:
    return next((note for note in recommend(study).notes if "spoils predictions" in note), "")


def studied(
    world, folder: Path, spoilt: str | None, natural: dict[str, float], seed: int
) -> optuna.Study:
    """Runs in a world where MDE is right, but for one file: sure of the wrong tokens."""
    rates = inner(14, seed=seed)
    noise = np.random.default_rng(seed).normal(0.0, 0.01, (14, len(world.sets)))
    losses = world.table.losses(rates) + noise
    files = dict(world.logprobs)
    if spoilt is not None:
        worse = files[spoilt]
        files[spoilt] = {
            s: np.minimum(v.mean() + 1.6 * (v - v.mean()) - 0.4, -1e-3) for s, v in worse.items()
        }
    study = study_of_runs(replace(world, logprobs=files), folder, rates, losses)
    study.set_user_attr("natural", natural)
    return study


@pytest.mark.parametrize("spoilt", ["code", "math"])
def test_the_overtrained_expert_of_a_scarce_domain_is_named(world, tmp_path, spoilt: str) -> None:
    scarce = {d: 0.02 if d == spoilt else 1.0 for d in world.domains}
    said = word(studied(world, tmp_path, spoilt, scarce, 0))
    assert said.startswith(f"The expert of {spoilt} spoils predictions")
    assert f"MDESampler(expert_budget={{'{spoilt}': 0.5}})" in said
    number = world.domains.index(spoilt)
    assert f"exclude_trials(study, [{number}]" in said
    assert word(studied(world, tmp_path, spoilt, {}, 0)) == said  # shares may be unknown
    plentiful = dict.fromkeys(world.domains, 1.0)
    assert word(studied(world, tmp_path, spoilt, plentiful, 0)) == ""


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_said_where_mde_is_right(world, tmp_path, seed: int) -> None:
    scarce = {**dict.fromkeys(world.domains, 1.0), "code": 0.02}
    assert word(studied(world, tmp_path, None, scarce, seed)) == ""


def test_too_few_runs_say_nothing(world, tmp_path) -> None:
    study = studied(world, tmp_path, "code", {}, 0)
    young = optuna.create_study()
    young.add_trials(study.trials[: 4 + 7])
    assert word(young) == ""


@pytest.mark.parametrize(("budget", "named"), [(1.0, True), (0.25, False)])
def test_on_a_recording_with_a_scarce_domain(budget: float, named: bool) -> None:
    """sql of `twins`: read 8 times by its full expert, twice by that of a quarter."""
    recording = Recording.load(DATA / "twins")
    experts = [
        i
        for i, kind in enumerate(recording.kinds)
        if kind == "expert" and recording.budgets[i] == budget
    ]
    drawn = [i for i, kind in enumerate(recording.kinds) if kind == DIRICHLET][:24]
    rows = [*experts, *drawn]
    X = recording.mixtures[rows]
    files = {
        i: recording.experts[budget][recording.domains[int(X[i].argmax())]]
        for i in range(len(experts))
    }
    losses, budgets = recording.losses[rows], recording.budgets[rows]
    study = told_study(recording.domains, recording.sets, X, losses, budgets, files)
    study.set_user_attr(
        "natural", dict(zip(recording.domains, recording.natural.tolist(), strict=True))
    )
    assert word(study).startswith("The expert of sql") == named
