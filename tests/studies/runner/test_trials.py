"""What is said of a study's trials while it runs."""

from __future__ import annotations

import json

import optuna
import pytest
from optuna_dashboard import get_note
from optuna_mde_studies.definition import reading
from optuna_mde_studies.report import dashboard, overview, page
from optuna_mde_studies.report.search_figures import history
from optuna_mde_studies.runner import trials
from optuna_mde_studies.runner.changes import changed_fields
from optuna_mde_studies.runner.folder import StudyFolder, create, write_definition
from optuna_mde_studies.terminal import answers, summary

from optuna_mde import recommend, report_losses, suggest_mixture

RATES = (0.9, 0.1, 0.5, 0.3)


@pytest.fixture
def study() -> optuna.Study:
    """Trial 0 is the best, and the bounds of the last forbid it; trial 1 is the next."""
    study = optuna.create_study(study_name="bounded")
    for number, web in enumerate(RATES):
        study.enqueue_trial({"mix/web": web, "mix/code": 1 - web})
        trial = study.ask()
        bounds = {"web": (0, 0.6)} if number == len(RATES) - 1 else {}
        suggest_mixture(trial, ["web", "code"], bounds=bounds)
        study.tell(trial, report_losses(trial, {"docs": 1.0 + number}))
    return study


def test_the_best_trial_is_an_allowed_one(study):
    assert study.best_trial.number == 0
    assert [trial.number for trial in trials.best_trials(study)] == [1]
    assert "best: 2.0000 by trial 1" in list(summary.status(study, trials.counts(study), 4))


def test_of_a_maximised_value_the_best_is_the_highest():
    study = optuna.create_study(direction="maximize")
    study.optimize(lambda trial: trial.number, 3)
    assert [trial.number for trial in trials.best_trials(study)] == [2]


def test_forbidden_runs_are_marked_wherever_they_stand(study, tmp_path):
    found = overview.read(study)
    assert [run.number for run in found.runs if run.forbidden] == [0]
    assert found.bounds == {"web": (0.0, 0.6)}
    best = next(trace for trace in history(found).data if trace.name == "best so far")
    assert min(best.y) == pytest.approx(2.0)
    page.write(study, tmp_path)


def test_values_of_several_objectives_have_their_names():
    study = optuna.create_study(directions=["minimize", "minimize"])
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        study.set_metric_names(["code", "text"])
    study.optimize(lambda trial: (1.25, 2.5), 1)
    (_, line) = summary.status(study, trials.counts(study), 1)
    assert line == "best: code 1.2500, text 2.5000 by trial 0"


def test_what_changed_since_the_last_start_is_said(workplace):
    folder = StudyFolder(workplace / "runs/tiny")
    create(folder)
    config = reading.read("tiny.yaml").config
    assert changed_fields(folder, config) == []
    write_definition(folder, config)
    assert changed_fields(folder, config) == []
    (said,) = changed_fields(folder, reading.read("tiny.yaml", ["search.n_trials=9"]).config)
    assert said == f"search.n_trials: {config.search.n_trials} before, 9 now"


@pytest.mark.parametrize("field", ["storage", "warm_start", "launch"])
def test_no_password_is_said_to_have_changed(workplace, field):
    def config(password: str):
        url = f"postgresql+psycopg://optuna:{password}@localhost/studies"
        given = {
            "storage": f"storage='{url}'",
            "warm_start": f"warm_start=['{url}']",
            "launch": f"launch.command=python mine.py {{out}} --log {url}",
        }
        return reading.read("tiny.yaml", [given[field]]).config

    folder = StudyFolder(workplace / "runs/tiny")
    create(folder)
    write_definition(folder, config("secret-of-old"))
    said = "\n".join(changed_fields(folder, config("secret-of-new")))
    assert field in said
    assert "secret" not in said


def test_trials_that_failed_are_said_to_have_failed():
    study = optuna.create_study(study_name="own")
    study.add_trial(optuna.create_trial(value=1.0))
    study.add_trial(optuna.create_trial(state=optuna.trial.TrialState.FAIL))
    first = [next(summary.status(study, trials.counts(study), n)) for n in (None, 1, 8)]
    assert first == [
        "own: 1 trial finished, 1 failed",
        "own: 1 of 1 trial finished, 1 failed",
        "own: 1 of 8 trials finished, 1 failed",
    ]


def test_a_long_value_is_shown_where_it_changed(workplace):
    def config(rate: str):
        command = f"python a/long/way/to/my/own/train.py --spec {{spec}} --out {{out}} --lr {rate}"
        return reading.read("tiny.yaml", [f"launch.command={command}"]).config

    folder = StudyFolder(workplace / "runs/tiny")
    create(folder)
    write_definition(folder, config("3e-3"))
    (said,) = changed_fields(folder, config("1e-3"))
    assert "--lr 3e-3 before" in said
    assert "--lr 1e-3 now" in said


def test_experts_that_failed_for_good_are_named_with_what_it_costs(tmp_path):
    study = optuna.create_study(study_name="own")

    def run(state, **rates):
        study.enqueue_trial({f"mix/{name}": float(rate) for name, rate in rates.items()})
        trial = study.ask()
        suggest_mixture(trial, list(rates))
        values = 1.0 if state == optuna.trial.TrialState.COMPLETE else None
        study.tell(trial, values, state=state)

    failed, complete = optuna.trial.TrialState.FAIL, optuna.trial.TrialState.COMPLETE
    run(complete, web=0.2, code=0.8, books=0)
    run(failed, web=1, code=0, books=0)
    assert trials.on_lost_experts(study) is None, "it is tried once more"
    run(failed, web=1, code=0, books=0)
    said = list(summary.status(study, {}, 4))[-1]
    assert "NO EXPERT of web: " in said
    found = recommend(study)
    assert json.loads(answers.as_json(overview.read(study), found, None))["no_expert"] == ["web"]
    assert said in page.write(study, tmp_path, recommendation=found).read_text("utf-8")
    dashboard.publish(study, recommendation=found)
    assert "NO EXPERT of web: every run failed, " in get_note(study)
    for _ in range(2):
        run(failed, web=0, code=1, books=0)
    assert "web and code" in trials.on_lost_experts(study)
    assert trials.on_lost_experts(study).endswith(
        "there is no MDE, and the search goes by its runs alone"
    )
    run(complete, web=1, code=0, books=0)
    run(complete, web=0, code=1, books=0)
    assert trials.on_lost_experts(study) is None
