"""Experts on a share of a full run: how long each trains, and what is made of such runs."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from optuna.trial import TrialState
from optuna_mde_studies.definition import reading
from optuna_mde_studies.report import overview, page
from optuna_mde_studies.runner.changes import keep_definition
from optuna_mde_studies.runner.experiment import Experiment
from optuna_mde_studies.runner.folder import StudyFolder, create
from optuna_mde_studies.runner.session import Session
from optuna_mde_studies.terminal.progress import Progress
from rich.console import Console

from tests.studies.report.test_page import unpacked
from tests.studies.tiny import PER_STEP, TOKENS, experiment


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        ([], {"code": 10, "prose": 10, "numbers": 10}),
        (["experts.budget=1"], {"code": 20, "prose": 20, "numbers": 20}),
        (["experts.budget=0.25"], {"code": 5, "prose": 5, "numbers": 5}),
        (["experts.budget=1", "experts.max_epochs=2"], {"code": 20, "prose": 20, "numbers": 15}),
        (["experts.max_epochs=1"], {"code": 10, "prose": 10, "numbers": 7}),
        (["training.max_steps=200"], {"code": 100, "prose": 100, "numbers": 31}),
        (
            ["training.max_steps=200", "experts.max_epochs=null"],
            dict.fromkeys(("code", "prose", "numbers"), 100),
        ),
        (["experts.budget=0.001"], {"code": 1, "prose": 1, "numbers": 1}),
    ],
)
def test_an_expert_stops_at_its_share_or_before_it_repeats_its_text_too_often(
    workplace, overrides, steps
):
    found = experiment(*overrides)
    assert found.expert_steps == steps
    full = found.config.training.max_steps
    shares = found.expert_budget
    assert {name: round(share * full) for name, share in shares.items()} == steps
    epochs = found.config.experts.max_epochs
    if epochs is not None and steps["numbers"] > 1:
        assert steps["numbers"] * PER_STEP <= epochs * TOKENS["numbers"]


def test_warm_up_and_decay_are_scaled_with_a_shortened_run(workplace):
    mixture = {"code": 1.0, "prose": 0.0, "numbers": 0.0}
    found = experiment("optimizer.warmup_steps=12")
    assert found.training(mixture, seed=0).optimizer.warmup_steps == 12
    short = found.training(mixture, seed=0, max_steps=10)
    assert (short.max_steps, short.optimizer.warmup_steps) == (10, 6)
    type(short).model_validate(short.model_dump())  # 12 steps of warm-up would be refused
    share = experiment().training(mixture, seed=0, max_steps=10).optimizer
    assert (share.warmup_ratio, share.warmup_steps) == (0.2, None)


def make_scarce(folder: Path) -> None:
    """Leaves little text of one domain."""
    for i, path in enumerate(sorted((folder / "numbers").iterdir())):
        path.write_text(f"{i} {i * i} {i**3 % 9973} and so on to {i + 9}", encoding="utf-8")


def test_a_study_with_cheap_experts(workplace: Path) -> None:
    make_scarce(workplace)
    folder, said = StudyFolder(workplace / "runs/tiny"), StringIO()
    settings = ["experts.max_epochs=0.5", "corpus.validation_tokens=64"]
    definition = reading.read("tiny.yaml", [*settings, "launch.workers=1"])
    create(folder)
    with folder.owned():
        keep_definition(folder, definition)
        with (
            Progress("tiny", Console(file=said, width=200)) as progress,
            Session(definition, folder, progress) as session,
        ):
            session.search()
            study = session.study
    steps = Experiment.open(folder).expert_steps
    assert steps["code"] == steps["prose"] == 10
    assert 1 <= steps["numbers"] < 10
    told = ", ".join(f"{name} {n}" for name, n in steps.items())
    assert f"steps of the experts, out of 20: {told}\n" in said.getvalue()
    assert "expert     expert at 50\u202f% of a run  " in said.getvalue()

    states = [trial.state for trial in study.trials]
    assert states == [TrialState.PRUNED] * 3 + [TrialState.COMPLETE] * 3
    for trial in study.trials:
        result = json.loads((folder.path / trial.user_attrs["run"] / "result.json").read_text())
        mixture = trial.user_attrs["spec"]["training"]["mixture"]
        domain = max(mixture, key=lambda name: mixture[name])
        expected = steps[domain] if trial.number < 3 else 20
        assert result["tokens"] == trial.user_attrs["tokens"] == expected * PER_STEP
        assert trial.user_attrs.get("budget", 1.0) == expected / 20
        if trial.number < 3:
            assert result["realised"][domain]["epochs"] <= 0.5

    found = overview.read(study)
    assert (len(found.finished), len(found.complete)) == (6, 3)
    text = unpacked(page.write(study, folder.path))
    assert "6 finished runs" in text
    assert "<dt>shortened experts</dt><dd>3</dd>" in text
    assert f"<dt>search in full runs</dt><dd>{3 + sum(steps.values()) / 20:.1f}</dd>" in text
    assert "50\u202f% of a run" in text
    assert "best expert" in text
