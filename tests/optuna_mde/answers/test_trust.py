"""What is said of how far predictions can be trusted, and how wide intervals are by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from scipy.stats import spearmanr

from optuna_mde import predict, recommend
from optuna_mde.answers.fitted import Fitted, fit_study
from optuna_mde.answers.held_out import leave_one_out, widening
from optuna_mde.answers.trust import Trust, _verdict, judge, rank_correlation
from optuna_mde.gp import modeller
from tests.optuna_mde.recorded import add_run, inner, study_of_runs

CODE = {"code": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("experts")


def of_runs(world, folder: Path | None, n: int, **options) -> optuna.Study:
    rates = inner(n)
    return study_of_runs(world, folder, rates, world.observed(rates, 1), **options)


def judged(fitted: Fitted, z: np.ndarray) -> Trust:
    """The verdict if leave-one-out had these errors, in sd, on the runs beside the experts."""
    means, sds = fitted.surrogate.leave_one_out()
    runs = (~fitted.surrogate.runs.corner).numpy()
    errors = torch.zeros(len(means), 1, dtype=torch.float64)
    errors[runs] = torch.from_numpy(z).unsqueeze(-1)
    fitted.__dict__["unseen"] = (fitted.surrogate.runs.Y - errors * sds, sds)
    return judge(fitted)


def test_therank_correlation_is_spearmans() -> None:
    rng = np.random.default_rng(0)
    for ties in (2, 5, 1000):
        a, b = rng.integers(0, ties, (2, 15)).astype(float)
        assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b)[0])
    assert rank_correlation(np.ones(4), np.arange(4.0)) is None


@pytest.mark.parametrize(
    ("n", "outside", "verdict"),
    [
        (5, 0, "good"),
        (5, 1, "good"),
        (5, 2, "poor"),
        (19, 0, "good"),
        (19, 3, "good"),
        (19, 4, "fair"),
        (19, 6, "poor"),
        (19, 19, "poor"),
    ],
)
def test_runs_outside_their_intervals_cost_trust(
    world, folder, n: int, outside: int, verdict: str
) -> None:
    """Runs that differ by much more than the errors, and are ranked well whatever these are."""
    fitted = fit_study(of_runs(world, folder, n, goals=CODE))
    z = np.where(np.arange(n) < outside, 2.5, 0.2)
    found = judged(fitted, z)
    assert found.statement.startswith(f"{verdict}: ")
    assert f"{n - outside} of {n} inside" in found.statement
    assert found.coverage == pytest.approx(1.0 - outside / n)
    assert (found.spearman or 0.0) >= 0.8


def test_a_rank_that_says_nothing_is_not_good(world, folder) -> None:
    fitted = fit_study(of_runs(world, folder, 10, goals=CODE))
    Y = fitted.surrogate.runs.Y
    runs = ~fitted.surrogate.runs.corner
    fitted.__dict__["unseen"] = (2.0 * Y[runs].mean(dim=0) - Y, torch.full_like(Y, 10.0))
    found = judge(fitted)
    assert (found.spearman, found.coverage) == (pytest.approx(-1.0), 1.0)
    assert found.statement.startswith("poor: ")


@pytest.mark.parametrize(
    ("rank", "error", "verdict"),
    [
        (0.8, 9.0, "good"),
        (0.79, 2.1, "fair"),
        (0.2, 2.0, "good"),
        (0.2, 2.1, "fair"),
        (0.5, 9.0, "fair"),
        (0.49, 4.0, "fair"),
        (0.49, 4.1, "poor"),
        (None, 2.0, "good"),
        (None, 4.1, "poor"),
    ],
)
def test_ranks_and_errors_are_weighed(rank: float | None, error: float, verdict: str) -> None:
    """Errors in units of the noise of a run."""
    assert _verdict(rank, 0.01 * error, 0.01, inside=10, n=10) == verdict


def test_small_errors_of_runs_that_are_all_alike_are_no_trust() -> None:
    """Noise about one loss is predicted to within noise by whoever says the mean."""
    study = optuna.create_study()
    rng = np.random.default_rng(3)
    for a in np.linspace(0.0, 1.0, 12):
        add_run(study, {"a": a, "b": 1 - a}, (float(3 + 0.01 * rng.standard_normal()),))
    found = recommend(study)
    assert not found.signal
    assert (found.trust.spearman or 0.0) < 0.8
    assert found.trust.rmse is not None
    assert found.trust.rmse < 2 * found.noise_sd
    assert found.trust.statement.startswith("cannot be judged")
    assert judge(fit_study(study)).statement.startswith("good")  # by the errors alone


@pytest.mark.parametrize(("at_stake", "verdict"), [(True, "good"), (False, "poor")])
def test_errors_are_weighed_by_what_the_choice_is_worth(
    world, folder, at_stake: bool, verdict: str
) -> None:
    """Ranks that are all wrong, and errors of five times the noise. An eighth of what these runs
    gain on natural, uniform and experts is three times the noise, unless natural is one of them.
    """
    goals = {"code": 1.0, "math": 1.0}
    rates = 0.98 * np.array([0.0, 0.49, 0.01, 0.5]) + 0.02 * inner(10)
    study = study_of_runs(world, folder, rates, world.observed(rates, 1), goals=goals)
    natural = np.full(4, 0.25) if at_stake else rates.mean(axis=0)
    study.set_user_attr("natural", dict(zip(world.domains, natural.tolist(), strict=True)))
    fitted = fit_study(study)
    noise = float(fitted.noise()[0])
    Y = fitted.surrogate.runs.Y
    runs = ~fitted.surrogate.runs.corner
    W = torch.from_numpy(fitted.weights)
    middle = Y[runs].mean(dim=0)
    error = (Y - middle) * 5.0 * noise / float((Y[runs] @ W.mT).std(correction=0))
    fitted.__dict__["unseen"] = (Y - error, torch.full_like(Y, 10.0))
    found = judge(fitted)
    assert found.rmse == pytest.approx(5.0 * noise)
    assert (found.spearman or 0.0) < 0.5
    assert found.statement.startswith(f"{verdict}: ")


def test_the_statement_says_where_it_was_judged(world, folder) -> None:
    rates = 0.5 * np.array([0.1, 0.6, 0.2, 0.1]) + 0.5 * inner(9)
    study = study_of_runs(world, folder, rates, world.observed(rates, 1), goals=CODE)
    said = recommend(study).trust.statement
    mixtures = [dict(zip(world.domains, x.tolist(), strict=True)) for x in rates]
    best = rates[predict(study, mixtures).objective_mean.argmin()]
    half = np.median(np.abs(rates - best).sum(axis=1) / 2)
    assert 0.05 < half < 0.5
    assert f"half differ from the best of them by at most {100 * half:.0f} % of the mix" in said
    assert "predictions elsewhere may be off" in said


def test_several_goals_are_all_judged_by_name(world, folder) -> None:
    goals = {"text": {"books": 1.0}, "tools": {"code": 1.0, "math": 1.0}}
    study = of_runs(world, folder, 9, goals=goals, n_goals=2)
    fitted = fit_study(study)
    means, sds = fitted.unseen
    books = world.sets.index("books")
    wrong = means.clone()
    wrong[:, books] += 5.0 * sds[:, books]
    fitted.__dict__["unseen"] = (wrong, sds)
    found = judge(fitted)
    assert [goal.name for goal in found.goals] == ["text", "tools"]
    text, tools = found.goals
    assert (text.verdict, text.inside) == ("poor", 0)
    assert tools.inside >= 7
    assert found.statement.startswith("poor: ")
    assert "text poor, " in found.statement
    assert f"tools {tools.verdict}, " in found.statement
    assert (found.coverage, found.rmse) == (0.0, text.rmse)


def test_intervals_are_widened_by_what_leave_one_out_shows(world, folder) -> None:
    """sqrt((10 + Σz²) / (10 + n)), on top of the factor of the sd; the noise is not widened."""
    fitted = fit_study(of_runs(world, folder, 12, goals=CODE))
    W = fitted.weights
    seed = fitted.surrogate.noise_sd.square()
    for factor in (1.0, 1.2):
        for z in (0.1, 1.0, 4.0):
            _, sds = fitted.surrogate.leave_one_out()
            wide = (seed + factor**2 * (sds.square() - seed).clamp_min(0.0)).sqrt()
            fitted.__dict__["unseen"] = (fitted.surrogate.runs.Y + z * wide, sds)
            wanted = factor * max(1.0, ((10 + 12 * z**2) / 22) ** 0.5)
            assert widening(fitted, W, factor)[0] == pytest.approx(wanted, rel=1e-6)


def test_a_few_broken_runs_widen_no_interval_much(world, folder) -> None:
    fitted = fit_study(of_runs(world, folder, 20, goals=CODE))
    means, sds = fitted.unseen
    broken = means.clone()
    broken[-3:] -= 5.0  # nats
    fitted.__dict__["unseen"] = (broken, sds)
    assert widening(fitted, fitted.weights, 1.0)[0] < 1.6


def test_rows_and_predictions_are_both_wider_where_runs_contradict_them(world, folder) -> None:
    """Losses that swing from run to run by more than any smooth model can follow."""
    rates = inner(12)
    losses = world.observed(rates, 1)
    swing = np.where(np.arange(12) % 2, 1.0, -1.0)[:, None]
    calm = study_of_runs(world, folder, rates, losses, goals=CODE)
    fitted = fit_study(calm)
    odd = study_of_runs(world, folder, rates, losses + 0.5 * swing, goals=CODE)
    mixture = dict(zip(world.domains, (0.25,) * 4, strict=True))
    assert predict(odd, mixture).objective_sd[0] > 2.0 * predict(calm, mixture).objective_sd[0]

    def width(study: optuna.Study) -> float:
        row = next(r for r in recommend(study).rows if r.name == "uniform")
        return row.objective.high - row.objective.low

    assert width(odd) > 2.0 * width(calm)
    assert widening(fitted, fitted.weights, 1.0)[0] < 1.5


def test_a_failed_fit_is_said_and_never_good(world, folder, monkeypatch) -> None:
    import optuna_mde.gp.fitting as fitting

    def fails(*args, **kwargs):
        raise RuntimeError("covariance is not positive definite")

    study = of_runs(world, folder, 9, goals=CODE)
    assert recommend(study).trust.statement.startswith("good")
    monkeypatch.setattr(fitting, "_fit_hyperparameters", fails)
    answer = recommend(study)
    reason = "RuntimeError: covariance is not positive definite"
    assert answer.trust.statement.startswith("poor: ")
    assert f"the model could not be fitted ({reason})" in answer.trust.statement
    assert any(reason in note and "take them as a guess" in note for note in answer.notes)
    assert sum(answer.mixture.values()) == pytest.approx(1.0, abs=1e-9)
    assert np.isfinite(predict(study, answer.mixture).objective_mean).all()
    young = of_runs(world, folder, 2, goals=CODE)
    said = recommend(young).trust.statement
    assert said.startswith("poor: 2 runs beside the experts")
    assert reason in said


def test_a_study_of_more_runs_than_the_model_keeps_is_judged(world, folder, monkeypatch) -> None:
    monkeypatch.setattr(modeller, "FIT_RUNS", 9)
    monkeypatch.setattr(modeller, "MODEL_RUNS", 9)
    study = of_runs(world, folder, 14)
    fitted = fit_study(study)
    assert len(fitted.surrogate.runs.X) == 9
    (held,) = leave_one_out(fitted, fitted.weights)
    told = [study.trials[number].value for number in held.numbers]
    assert held.observed == pytest.approx(told)
    assert recommend(study).trust.n_runs == len(told)
