"""The answer in a line never contradicts the figures below it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from optuna_mde_studies.report import overview
from optuna_mde_studies.report.headlines import Headline, headline
from optuna_mde_studies.report.judgement import judge
from optuna_mde_studies.report.statements import findings

from optuna_mde import recommend
from optuna_mde.answers.intervals import Interval


def said(study, recommendation, confirmation=None) -> Headline:
    found = overview.read(study)
    confirmed = judge(found, recommendation, confirmation)
    return headline(found, recommendation, recommendation.mixture, confirmed)


def predicted(recommendation, low: float, high: float):
    """The recommendation with another predicted gain on the baseline."""
    change = Interval(-(low + high) / 2, -high, -low)
    return replace(recommendation, against=replace(recommendation.against, objective=change))


def test_fresh_seeds_name_a_winner_that_the_search_alone_could_not(finished, invented):
    study, recommendation = finished
    unsure = replace(recommendation, signal=False)
    assert said(study, unsure) == Headline("No mixture stands out from the noise", False)
    found = said(study, unsure, invented.confirmation(recommendation))
    assert found.names
    assert found.text.startswith("Train on ")


def test_a_gain_that_the_runs_do_not_bear_out_is_called_the_models(finished, invented):
    study, recommendation = finished
    found = overview.read(study)
    sure = predicted(recommendation, 0.1, 0.9)
    told = findings(found, replace(sure, signal=False))[0]
    assert told.startswith("Gain on natural, predicted")
    assert "do not bear it out" in told
    assert "bear" not in findings(found, sure)[0]
    unsure = replace(predicted(recommendation, -0.1, 0.9), signal=False)
    assert "bear" not in findings(found, unsure)[0]
    confirmed = judge(found, sure, invented.confirmation(recommendation))
    assert "bear" not in findings(found, replace(sure, signal=False), confirmed)[0]


@pytest.mark.parametrize(("low", "high", "names"), [(-0.6, 0.9, False), (0.1, 0.9, True)])
def test_a_predicted_gain_that_includes_none_names_no_winner(low, high, names, finished):
    study, recommendation = finished
    assert recommendation.signal
    found = said(study, predicted(recommendation, low, high))
    assert found.names is names
    assert ("better than the natural one for sure" in found.text) is not names


def test_fresh_seeds_overrule_a_predicted_gain(finished, invented):
    study, recommendation = finished
    kept = invented.confirmation(recommendation)
    level = dict.fromkeys(kept.losses, kept.losses["natural"])
    jitter = [{s: v + 0.001 * (-1) ** i for s, v in run.items()}
              for i, run in enumerate(level["natural"])]  # fmt: skip
    level["recommended"] = jitter
    found = said(study, recommendation, kept.model_copy(update={"losses": level}))
    assert said(study, recommendation).names
    assert not found.names


def test_what_a_limit_costs_is_said(finished):
    study, free = finished
    natural = next(row for row in free.rows if row.name == "natural")
    limit = (natural.losses["python"].mean + 2.9) / 2
    found = recommend(study, limits={"python": limit})
    dear = predicted(replace(found, signal=False), -7.1, -5.1)
    text = said(study, dear).text
    assert text.startswith("Train on ")
    assert text.endswith(
        f"which keeps python ≤ {limit:g} at a cost of 6.1 against the natural one"
    )


def test_a_limit_that_nothing_keeps_is_no_answer(finished):
    study, _ = finished
    found = said(study, recommend(study, limits={"python": 0.5}))
    assert found == Headline("No mixture keeps python ≤ 0.5", False)
