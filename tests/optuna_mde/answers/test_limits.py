"""Limits on losses: what is recommended under them, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
import pytest

from optuna_mde import predict, recommend, suggest_mixture
from optuna_mde.answers.fitted import fit_study
from optuna_mde.answers.optimum import _way
from optuna_mde.answers.rows import run_row
from optuna_mde.objective import Objective, ObjectiveError
from tests.optuna_mde.recorded import add_run, inner, study_of_runs

POOL = inner(4000, seed=5, concentration=0.7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("experts")


def limited(world, folder: Path | None, limits: dict[str, float], n: int = 14) -> optuna.Study:
    rates = inner(n)
    goals = {"books": 1.0}
    losses = world.observed(rates, 1)
    return study_of_runs(world, folder, rates, losses, goals=goals, limits=limits)


def predicted(study: optuna.Study, world, rates: np.ndarray, name: str):
    mixtures = [dict(zip(world.domains, x.tolist(), strict=True)) for x in rates]
    found = predict(study, mixtures)
    column = found.sets.index(name)
    return found.mean[:, column], found.sd[:, column], found.objective_mean


@pytest.mark.parametrize("objective", [None, "unseen", {"books": 1, "unseen": 3}])
def test_limits_are_kept_whatever_the_objective(world, folder, objective) -> None:
    code = world.true_losses(POOL)[:, world.sets.index("code")]
    limit = float(np.quantile(code, 0.3))
    study = limited(world, folder, {"code": limit})
    free = limited(world, folder, {})
    assert recommend(free, objective).losses["code"].mean > limit + 0.05
    answer = recommend(study, objective)
    assert answer.losses["code"].high <= limit + 1e-3  # its whole interval keeps it
    rates = np.array([answer.mixture[d] for d in world.domains])
    assert world.true_losses(rates)[0, world.sets.index("code")] <= limit + 0.02
    assert not any("limit" in note for note in answer.notes)
    # and no more than that is given up
    mean, sd, goal = predicted(study, world, POOL, "code")
    if objective is None:
        assert answer.objective.mean <= goal[mean + 2.5 * sd <= limit].min() + 1e-3


def test_predictions_do_not_depend_on_limits(world, folder) -> None:
    mixture = dict(zip(world.domains, (0.25,) * 4, strict=True))
    one = predict(limited(world, folder, {}), mixture)
    other = predict(limited(world, folder, {"code": 1.0}), mixture)
    np.testing.assert_array_equal(one.mean, other.mean)
    np.testing.assert_array_equal(one.objective_mean, other.objective_mean)


@pytest.mark.parametrize("with_experts", [True, False])
def test_limits_that_nothing_keeps_are_exceeded_least_and_said(
    world, folder, with_experts: bool
) -> None:
    """Whatever the doubt: without experts it is large where no run is."""
    code = world.true_losses(POOL)[:, world.sets.index("code")]
    limit = float(code.min()) - 1.0
    study = limited(world, folder if with_experts else None, {"code": limit})
    answer = recommend(study)
    mean, _, _ = predicted(study, world, np.concatenate([POOL, np.eye(4)]), "code")
    excess = answer.losses["code"].mean - limit
    assert excess <= mean.min() - limit + 2e-3
    said = next(note for note in answer.notes if "No mixture is expected to keep" in note)
    assert f"{excess:.4f} above {limit:g}" in said
    assert answer.rows[0].breaks == ("code",)


def test_no_gain_is_promised_where_no_mixture_keeps_the_limits(world, folder) -> None:
    """Though one may well do, by the doubt of its loss."""
    low = recommend(limited(world, folder, {}), "code").objective.mean
    answer = recommend(limited(world, folder, {"code": low - 0.002}))
    assert answer.rows[0].breaks == ("code",)
    assert answer.expected_gain == 0.0


def test_the_way_to_the_least_excess_leads_straight_through_mixtures(world, folder) -> None:
    """So that little is given up where a limit is missed by a hair."""
    fitted = fit_study(limited(world, folder, {}))
    start, end = inner(2)
    points = np.array(list(_way(fitted, start, end)))
    np.testing.assert_allclose(points[-1], end, atol=1e-9)
    gone, left = (np.abs(points - x).sum(axis=1) for x in (start, end))
    assert gone[0] < 0.01
    assert (np.diff(gone) > 0).all()
    np.testing.assert_allclose(gone + left, np.abs(start - end).sum(), rtol=1e-6)


@pytest.mark.parametrize("reach", [0.4, 0.6, 0.8])
def test_doubt_has_no_say_where_limits_cannot_be_kept(reach: float) -> None:
    """Runs up to a rate only; farther out the loss is expected to be lower, and in more doubt."""
    rng = np.random.default_rng(2)
    study = optuna.create_study()
    objective = Objective.parse("goal").to_json()
    for a in np.linspace(0.0, reach, 9):
        told = {"goal": 3.0 + (a - 0.2) ** 2, "code": 3.0 - 0.1 * a + 0.01 * rng.normal()}
        mixture = {"a": a, "b": 1.0 - a}
        add_run(
            study, mixture, (told["goal"],), losses=told, objective=objective, limits={"code": 2.0}
        )
    found = predict(study, [{"a": a, "b": 1.0 - a} for a in np.linspace(0.0, 1.0, 201)])
    least = found.mean[:, found.sets.index("code")].argmin()
    assert found.sd[least, found.sets.index("code")] > 1.05 * found.sd.min(axis=0)[1]
    assert recommend(study).mixture["a"] == pytest.approx(least / 200, abs=0.02)


def test_a_run_is_marked_by_what_was_observed(world, folder) -> None:
    """A loss that is above the limit by bad luck, and one below it by good luck."""
    code = world.sets.index("code")
    rates = inner(14)
    rates = rates[world.true_losses(rates)[:, code].argsort()]
    rates[[1, 7]] = rates[[7, 1]]  # the best of them, and one in the middle
    losses = world.observed(rates, 1)
    limit = float(world.true_losses(rates)[1, code]) - 0.02
    losses[0, code] += limit + 1.0
    losses[1, code] = limit - 0.005
    study = study_of_runs(world, folder, rates, losses, limits={"code": limit})
    fitted = fit_study(study)
    for i, breaks in ((0, ("code",)), (1, ())):
        expected = fitted.outputs(rates[[i]])[0][0, fitted.observations.outputs.index("code")]
        assert (expected > limit) != bool(breaks)
        run = next(t for t in fitted.trials if t.number == 4 + i)
        assert run_row(fitted, "run", run).breaks == breaks


def test_runs_that_break_a_limit_are_marked(world, folder) -> None:
    code = world.true_losses(POOL)[:, world.sets.index("code")]
    study = limited(world, folder, {"code": float(np.quantile(code, 0.3))})
    answer = recommend(study)
    text = str(answer)
    limit = float(np.quantile(code, 0.3))
    marked = 0
    for row in answer.rows:
        if row.trial is None:
            told = row.losses["code"].mean
        else:
            told = study.trials[row.trial].user_attrs["losses"]["code"]
        assert row.breaks == (("code",) if told > limit else ())
        (line,) = (line for line in text.splitlines() if line.startswith(row.name))
        assert ("(breaks code)" in line) == bool(row.breaks)
        marked += bool(row.breaks)
    assert 0 < marked < len(answer.rows)
    # the best run is one that keeps the limit, though others have lower objectives
    assert answer.best_seen.breaks == ()
    assert answer.best_seen.observed > min(t.value for t in study.trials)
    tight = recommend(limited(world, folder, {"code": 0.0}))
    assert tight.best_seen.breaks == ("code",)


def test_constraints_of_the_users_own_are_limits_too() -> None:
    def objective(trial: optuna.Trial) -> float:
        mixture = suggest_mixture(trial, ["a", "b"])
        trial.set_constraint("shares", mixture["a"] - 0.4)
        return -mixture["a"]

    rates = np.linspace(0.05, 0.95, 10)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for a in rates:
        study.enqueue_trial({"mix/a": a, "mix/b": 1.0 - a})
    study.optimize(objective, n_trials=10)
    answer = recommend(study)
    assert answer.mixture["a"] == pytest.approx(0.4, abs=0.03)
    assert answer.rows[0].breaks == ()


def test_an_objective_of_a_misspelt_set_stays_an_error_beside_limits(world, folder) -> None:
    with pytest.raises(ObjectiveError, match="'cdoe', which no run reports"):
        recommend(limited(world, folder, {"code": 3.0}), "cdoe")
