"""A finished study answers from what it kept; a changed one computes anew."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
from optuna_mde_studies.runner import findings

from optuna_mde import MDESampler, recommend, suggest_mixture


def loss(trial: optuna.Trial) -> float:
    return (suggest_mixture(trial, ["web", "code"])["code"] - 0.3) ** 2


@pytest.fixture
def study() -> optuna.Study:
    study = optuna.create_study(sampler=MDESampler(seed=0))
    study.optimize(loss, n_trials=6)
    return study


def test_what_is_kept_is_what_was_recommended(study: optuna.Study, tmp_path: Path) -> None:
    kept = tmp_path / "recommendation.json"
    first = findings.recommend(study, kept)
    written = kept.read_bytes()
    assert findings.recommend(study, kept) == first == recommend(study)
    assert kept.read_bytes() == written


def test_a_new_run_changes_the_answer(study: optuna.Study, tmp_path: Path) -> None:
    kept = tmp_path / "recommendation.json"
    before = findings.recommend(study, kept)
    study.optimize(loss, n_trials=1)
    after = findings.recommend(study, kept)
    assert after.trust.n_runs == before.trust.n_runs + 1
    assert after == recommend(study)


@pytest.mark.parametrize("text", ["", '{"told": "x"}', "not JSON"])
def test_a_file_of_another_kind_is_replaced(
    study: optuna.Study, tmp_path: Path, text: str
) -> None:
    kept = tmp_path / "recommendation.json"
    kept.write_text(text)
    assert findings.recommend(study, kept) == recommend(study)
    assert findings.recommend(study, kept) == recommend(study)


@pytest.mark.parametrize("change", [{"rows": []}, {"noise_sd": 7.0}, {"notes": ["<script>"]}])
def test_a_recommendation_that_was_changed_is_computed_anew(
    study: optuna.Study, tmp_path: Path, change: dict[str, object]
) -> None:
    kept = tmp_path / "recommendation.json"
    first = findings.recommend(study, kept)
    whole = json.loads(kept.read_text())
    whole["recommendation"] |= change
    kept.write_text(json.dumps(whole))
    assert findings.recommend(study, kept) == first
