"""The sentences beside the figures of a recommendation."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from optuna_mde import recommend, suggest_mixture
from optuna_mde.answers.fitted import fit_study
from optuna_mde.answers.notes import cautions, notes
from optuna_mde.answers.tables import rates_text
from tests.optuna_mde.recorded import add_run, inner, study_of_runs

LEVELS = {0.1: 4.0, 0.2: 3.5, 0.3: 3.0, 0.32: 3.4, 0.5: 3.1, 0.7: 3.3, 0.72: 3.02, 0.9: 3.4}


@pytest.mark.parametrize(
    ("a", "repeats", "said"),
    [
        (0.3, (), None),  # the best run itself
        (0.31, (), None),  # beside it, whatever its other neighbours
        (0.73, (), None),  # one of two neighbours is as good as the best run
        (0.52, (), r"nearest runs differ from it in up to 10 % of the mixture \(trial 4\)"),
        (0.12, (), r"differ from it in up to 10 % of the mixture \(trials 0, 1\), .* by 0\.5000:"),
        (0.1, (), r"mixture was run itself \(trial 0\), .* best run, trial 2, by 1\.0000:"),
        (0.3, (3.6, 3.6), r"was run itself \(trials 2, 8, 9\), .* by 0\.4000:"),
        (0.4, (), None),
    ],
)
def test_a_mixture_whose_runs_were_clearly_worse_is_not_named_in_silence(
    a: float, repeats: tuple[float, ...], said: str | None
) -> None:
    study = optuna.create_study()
    for share, value in (*LEVELS.items(), *((a, value) for value in repeats)):
        add_run(study, {"a": share, "b": 1 - share}, (value,))
    fitted = fit_study(study)
    fitted.__dict__["noise"] = lambda W=None: np.array([0.01])
    found = " ".join(notes(fitted, np.array([a, 1 - a]), (), None, signal=True))
    assert ("clearly worse than the best run" in found) == (said is not None)
    assert said is None or re.search(said, found)


def test_a_gain_that_may_be_none_is_said_in_words_a_person_can_read() -> None:
    rng = np.random.default_rng(0)
    study = optuna.create_study()
    study.set_user_attr("natural", {"a": 0.5, "b": 0.5})
    for a in np.linspace(0.0, 1.0, 11):
        add_run(study, {"a": a, "b": 1 - a}, (float(3 + (a - 0.55) ** 2 + 0.02 * rng.normal()),))
    answer = recommend(study)
    assert answer.signal
    note = next(note for note in answer.notes if "natural" in note)
    assert note.startswith(
        "By the search alone it is not sure that the recommended mixture is better than the nat"
    )
    assert "includes no gain at all" in note
    assert not any("of nothing" in note for note in answer.notes)
    far = optuna.create_study()
    far.set_user_attr("natural", {"a": 0.05, "b": 0.95})
    for trial in study.trials:
        far.add_trial(trial)
    assert not any("not sure" in note for note in recommend(far).notes)


def test_a_study_as_it_should_be_needs_no_notes(world, tmp_path) -> None:
    """Experts of all domains, a fit, no limits, runs that agree with the recommendation."""
    rates = inner(12)
    study = study_of_runs(world, tmp_path, rates, world.observed(rates, 1))
    assert recommend(study).notes == ()


def test_a_baseline_that_bounds_forbid_is_moved_with_two_mixtures_as_well() -> None:
    def objective(trial: optuna.Trial) -> float:
        early = suggest_mixture(
            trial, ["a", "b"], bounds={"a": (0.2, 0.6)}, natural={"a": 0.9, "b": 0.1}
        )
        late = suggest_mixture(trial, ["a", "c"], prefix="late/")
        return (early["a"] - 0.4) ** 2 + (late["a"] - 0.3) ** 2

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for early, late in np.random.default_rng(0).uniform((0.2, 0.0), (0.6, 1.0), (12, 2)):
        rates = {"mix/a": early, "mix/b": 1 - early, "late/a": late, "late/c": 1 - late}
        study.enqueue_trial(rates)
    study.optimize(objective, n_trials=12)
    answer = recommend(study)
    assert set(answer.mixture) == {"a", "b", "late/a", "late/c"}
    (natural,) = (row for row in answer.rows if row.name == "natural")
    assert natural.moved
    assert natural.mixture["a"] == pytest.approx(0.6)
    assert any(note.startswith("Bounds or constraints forbid the nat") for note in answer.notes)


def test_domains_whose_experts_left_no_file_are_named(world, tmp_path) -> None:
    rates = inner(6)
    study = study_of_runs(world, tmp_path, rates, world.observed(rates, 1))
    assert not any("No expert log-probabilities" in note for note in recommend(study).notes)
    without = optuna.create_study()
    for trial in study.trials:  # as of runs that kept no files for code and math
        kept = trial.params["mix/code"] < 1.0 and trial.params["mix/math"] < 1.0
        attrs = {k: v for k, v in trial.user_attrs.items() if kept or k != "logprobs"}
        mixture = {d: trial.params[f"mix/{d}"] for d in world.domains}
        add_run(without, mixture, tuple(trial.values), **attrs)
    said = "No expert log-probabilities for code, math: "
    assert any(note.startswith(said) for note in recommend(without).notes)
    bare = study_of_runs(world, None, rates, world.observed(rates, 1))
    assert not any("No expert log-probabilities" in note for note in recommend(bare).notes)


def test_an_experts_file_that_cannot_be_read_is_named(world, tmp_path) -> None:
    rates = inner(6)
    study = study_of_runs(world, tmp_path, rates, world.observed(rates, 1))
    (tmp_path / "code").unlink(missing_ok=True)
    (tmp_path / "code.safetensors").unlink(missing_ok=True)
    with pytest.warns(UserWarning, match="cannot be read"):
        found = recommend(study).notes
    assert any("of 'code'" in note and "cannot be read" in note for note in found)


def test_trials_that_were_told_and_teach_nothing_are_named() -> None:
    study = optuna.create_study()
    for a in (0.1, 0.3, 0.5, 0.7, 0.9):
        add_run(study, {"a": a, "b": 1 - a}, (3 + a,), losses={"x": 3 + a})
    assert not any("Nothing is learned" in note for note in recommend(study).notes)
    parts = {"mix/a": 0.4, "mix/b": 0.6}
    ranges = dict.fromkeys(parts, FloatDistribution(0.0, 1.0))
    short = {"losses": {"x": 4.0}, "budget": 0.5}
    kept: dict[str, Any] = {"params": parts, "distributions": ranges}
    for _ in range(8):
        study.add_trial(optuna.create_trial(state=TrialState.PRUNED, user_attrs=short, **kept))
    study.add_trial(optuna.create_trial(state=TrialState.FAIL, **kept))  # was never told
    add_run(study, {"a": 0.2, "b": 0.8}, (3.2,))
    assert (
        "Nothing is learned from trials 5, 6, 7, 8, 9, 10 and 2 more (a run on 0.5 of a full "
        "run); trial 14 (reports no losses, as others do)."
    ) in recommend(study).notes


def test_losses_below_zero_are_said_to_mean_nothing() -> None:
    study = optuna.create_study()
    for a in np.linspace(0.0, 0.4, 9):  # a straight line that falls below 0 beyond the runs
        losses = {"x": 1.0 - 2.0 * a, "y": 2.0}
        add_run(study, {"a": a, "b": 1 - a}, (losses["x"],), losses=losses)
    answer = recommend(study, "x")
    assert answer.losses["x"].mean < 0
    said = next(note for note in answer.notes if note.startswith("Predicted losses below 0"))
    assert f"x {answer.losses['x'].mean:.4f} (recommended)" in said
    assert " y " not in said
    gains = optuna.create_study()
    for a in np.linspace(0.0, 0.4, 9):  # no losses in nats per token, as their signs show
        add_run(gains, {"a": a, "b": 1 - a}, (-a,), losses={"x": -a})
    assert not any("below 0" in note for note in recommend(gains).notes)


def test_shortened_experts_without_a_file_are_said_to_leave_figures_to_extrapolation() -> None:
    def study_of(most: float, budget: float = 0.5) -> optuna.Study:
        study = optuna.create_study()
        for domain in ("a", "b"):
            parts = {"mix/a": float(domain == "a"), "mix/b": float(domain == "b")}
            study.add_trial(
                optuna.create_trial(
                    state=TrialState.PRUNED if budget < 1.0 else TrialState.COMPLETE,
                    value=None if budget < 1.0 else 4.0,
                    params=parts,
                    distributions=dict.fromkeys(parts, FloatDistribution(0.0, 1.0)),
                    user_attrs={"losses": {"x": 4.0}, "budget": budget},
                )
            )
        for a in np.linspace(0.2, most, 8):
            value = float(3 - a / 2)
            add_run(study, {"a": a, "b": 1 - a}, (value,), losses={"x": value})
        return study

    def said(study: optuna.Study) -> list[str]:
        return [note for note in recommend(study).notes if "extrapolated" in note]

    beyond = study_of(0.6)
    assert recommend(beyond).mixture["a"] > 0.6
    (note,) = said(beyond)
    assert "(a up to 60 %, b up to 80 %) are extrapolated, as those of the rec" in note
    assert "mixture are (a): " in note
    assert said(study_of(0.6, budget=1.0)) == []


def test_an_interval_above_0_is_not_contradicted_where_runs_tell_nothing_apart() -> None:
    study = optuna.create_study()
    study.set_user_attr("natural", {"a": 0.05, "b": 0.95})
    for a in np.linspace(0.0, 1.0, 11):
        add_run(study, {"a": a, "b": 1 - a}, (float(3 + (a - 0.55) ** 2),))
    answer = recommend(study)
    assert answer.against is not None
    assert answer.against.objective.high < 0
    fitted = fit_study(study)
    best = np.array(list(answer.mixture.values()))
    found = cautions(fitted, best, answer.rows, answer.against, signal=False)
    (note,) = (note for note in found if "no winner to name" in note)
    assert "the interval of the gain on natural lies above 0 is the model's expectation" in note
    assert "no winner" not in str(answer)
    assert "no winner" in str(replace(answer, signal=False)).splitlines()[0]


def test_rates_that_round_to_nothing_are_left_out() -> None:
    assert rates_text({"a": 1e-7, "b": 0.3, "c": 0.7}) == "c 0.700, b 0.300"
