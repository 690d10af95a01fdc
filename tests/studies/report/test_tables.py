"""Tables beside the losses: epochs of the target run, accuracy on end tasks."""

from __future__ import annotations

import optuna
import pytest
from optuna_dashboard import get_note
from optuna_mde_studies.report import dashboard, epochs, overview, page, tasks
from optuna_mde_studies.runner.confirm import Confirmation

from optuna_mde import recommend


@pytest.fixture(scope="module")
def study(invent) -> optuna.Study:
    found = invent().study()
    found.set_user_attr("target_tokens", 1e12)
    tokens = {"python": 1e12, "docs": 1e10, "prose": 5e11, "boilerplate": 2e12}
    found.set_user_attr("source_tokens", tokens)
    for trial in found.get_trials(deepcopy=False):
        # As the runner writes it before a trial ends; afterwards Optuna refuses.
        trial.user_attrs["accuracy"] = {"arc": 0.25 + trial.number / 100}
    return found


def test_epochs_are_rate_times_tokens_over_what_is_held(study):
    recommendation = recommend(study)
    table = epochs.table(overview.read(study), recommendation)
    assert table.head[0] == "epochs of 1\u202fT tokens"
    cells = {line[0]: line[1:] for line in table.lines}
    for place, row in enumerate(recommendation.rows):
        assert cells["docs"][1 + place] == f"{row.mixture['docs'] * 1e12 / 1e10:.2f}"
        assert cells["boilerplate"][1 + place] == f"{row.mixture['boilerplate'] / 2:.2f}"
    assert cells["docs"][0] == "10\u202fB"


def test_what_is_read_often_is_warned_of(study, tmp_path):
    recommendation = recommend(study)
    found = overview.read(study)
    times = recommendation.mixture["docs"] * 100
    said = f"docs {times:.1f} times"
    assert said in epochs.warning(found, recommendation)
    assert said in page.write(study, tmp_path).read_text("utf-8")
    dashboard.publish(study)
    assert dashboard._plain(said) in get_note(study)


def test_without_a_target_nothing_is_said(finished):
    study, recommendation = finished
    found = overview.read(study)
    assert epochs.table(found, recommendation) is None
    assert epochs.warning(found, recommendation) == ""
    assert tasks.table(found, recommendation, None) is None


def test_accuracy_is_of_runs_and_of_fresh_seeds(study):
    recommendation = recommend(study)
    confirmation = Confirmation(
        told=12,
        seeds=[7, 8],
        mixtures={"recommended": recommendation.mixture},
        accuracy={"recommended": [{"arc": 0.5}, {"arc": 0.6}]},
    )
    table = tasks.table(overview.read(study), recommendation, confirmation)
    assert table.head == ("accuracy, %, 2 fresh seeds", "recommended")
    assert table.lines == (("arc", "55.0"),)
    table = tasks.table(overview.read(study), recommendation, None)
    seen = [row for row in recommendation.rows if row.trial is not None]
    assert table.head == ("accuracy, %", *(row.name for row in seen))
    assert table.lines == (("arc", *(f"{25 + row.trial:.1f}" for row in seen)),)
