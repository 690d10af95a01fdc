"""Predictions and recommendations of real studies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pytest
from scipy.spatial.distance import pdist

import optuna_mde
from optuna_mde import MDESampler, predict, recommend, report_losses, suggest_mixture
from optuna_mde.answers.fitted import fit_study
from optuna_mde.answers.intervals import Z90
from tests.optuna_mde.recorded import add_run

NATURAL = {"web": 0.5, "code": 0.1, "books": 0.2, "math": 0.2}
GOAL = {"books": 1.0, "unseen": 1.0}


def objective_of(world, folder: Path | None, **options) -> Callable[[optuna.Trial], float]:
    """A stand-in for training: losses of the known world, log-probabilities at the corners.

    Without a folder no expert keeps its log-probabilities.
    """

    def objective(trial: optuna.Trial):
        mixture = suggest_mixture(
            trial, list(world.domains), natural=NATURAL, bounds=options.get("bounds")
        )
        rates = np.array([mixture[d] for d in world.domains])
        losses = world.observed(rates, trial.number)[0]
        url = None
        if mixture.is_expert and folder is not None:
            domain = world.domains[int(rates.argmax())]
            url = optuna_mde.save_logprobs(folder / domain, world.logprobs[domain], domain=domain)
        return report_losses(
            trial,
            dict(zip(world.sets, losses, strict=True)),
            objective=options.get("objective", GOAL),
            logprobs=url,
        )

    return objective


@pytest.fixture(scope="module")
def study(world, tmp_path_factory) -> optuna.Study:
    study = optuna.create_study(sampler=MDESampler(seed=0))
    study.optimize(objective_of(world, tmp_path_factory.mktemp("experts")), n_trials=12)
    return study


def best_possible(world, weights: np.ndarray) -> float:
    pool = np.random.default_rng(1).dirichlet(np.full(4, 0.7), 20_000)
    return float((world.true_losses(pool) @ weights).min())


def test_the_recommended_mixture_is_near_the_optimum_after_twelve_runs(world, study) -> None:
    answer = recommend(study)
    weights = np.array([s in GOAL for s in world.sets]) / 2.0
    rates = np.array([answer.mixture[d] for d in world.domains])
    truth = float(world.true_losses(rates)[0] @ weights)
    assert truth - best_possible(world, weights) < 0.01
    assert answer.objective.low - 0.01 <= truth <= answer.objective.high + 0.01
    assert sum(answer.mixture.values()) == pytest.approx(1.0, abs=1e-9)
    assert answer.signal
    assert 0 <= answer.expected_gain < 0.05


def test_doubt_is_charged_where_runs_are_few(world) -> None:
    study = optuna.create_study(sampler=MDESampler(seed=0))
    study.optimize(objective_of(world, None), n_trials=7)
    pool = np.random.default_rng(0).dirichlet(np.full(4, 0.5), 4_000)
    drawn = predict(study, [dict(zip(world.domains, rates, strict=True)) for rates in pool])
    recommended = predict(study, recommend(study).mixture)
    told = predict(study, [t.params for t in study.trials]).objective_mean

    def charged(prediction) -> np.ndarray:
        sd = prediction.objective_sd
        return prediction.objective_mean + 0.5 * sd * np.minimum(1.0, sd / np.std(told))

    assert charged(recommended)[0] < charged(drawn).min() + 1e-3
    assert recommended.objective_sd[0] < drawn.objective_sd[drawn.objective_mean.argmin()]


def test_a_promise_that_no_run_is_near_is_discounted() -> None:
    """Losses that fall towards shares that were never run: the lowest mean lies far from all."""
    study = optuna.create_study()
    for a in np.linspace(0.55, 1.0, 7):
        add_run(study, {"a": a, "b": 1 - a}, (float(3.0 + 0.3 * a),))
    grid = np.linspace(0.0, 1.0, 1001)
    drawn = predict(study, [{"a": a, "b": 1 - a} for a in grid])
    told = predict(study, [t.params for t in study.trials]).objective_mean
    sd = drawn.objective_sd
    charged = drawn.objective_mean + 0.5 * sd * np.minimum(1.0, sd / np.std(told))
    best = grid[charged.argmin()]
    assert best > grid[drawn.objective_mean.argmin()] + 0.05
    assert recommend(study).mixture["a"] == pytest.approx(best, abs=0.01)


def test_intervals_beside_experts_are_a_fifth_wider_than_the_posteriors(world, study) -> None:
    """docs/model.md, (7): at least 1.2 beside experts, and 1.2 where no run contradicts."""
    bare = optuna.create_study(sampler=MDESampler(seed=0))
    bare.optimize(objective_of(world, None), n_trials=7)
    mixture = {"web": 0.4, "code": 0.3, "books": 0.2, "math": 0.1}
    for told, factor in ((study, 1.2), (bare, 1.0)):
        fitted = fit_study(told)
        _, sd = fitted.outputs(np.array([[mixture[d] for d in fitted.observations.domains]]))
        assert (predict(told, mixture).sd[0] / sd[0]).min() == pytest.approx(factor)


def test_the_rows_a_reader_expects(world, study) -> None:
    answer = recommend(study)
    rows = {row.name: row for row in answer.rows}
    assert list(rows) == ["recommended", "natural", "uniform", "best expert", "best seen"]
    assert rows["natural"].mixture == pytest.approx(NATURAL)
    natural_trials = [
        t
        for t in study.trials
        if t.params["mix/web"] == pytest.approx(0.5) and t.params["mix/code"] == pytest.approx(0.1)
    ]
    assert rows["natural"].observed == pytest.approx(natural_trials[0].value)
    assert rows["natural"].trial == natural_trials[0].number
    assert max(rows["best expert"].mixture.values()) == 1.0
    assert rows["best expert"].observed == pytest.approx(min(t.value for t in study.trials[:4]))
    assert rows["best seen"].observed == pytest.approx(study.best_value)
    assert rows["best seen"].trial == study.best_trial.number
    assert (
        rows["recommended"].objective.mean
        <= min(r.objective.mean for r in answer.rows if r.name != "recommended") + 1e-6
    )
    text = str(answer)
    for name in (*rows, "Trust", "noise of a single run"):
        assert name in text
    assert f"{rows['natural'].observed:.4f}" in text


def test_an_experts_run_counts_once(world, study) -> None:
    """Its row is what the posterior, which was told the run, says of its mixture."""
    answer = recommend(study)
    expert = next(r for r in answer.rows if r.name == "best expert")
    own = study.trials[expert.trial].user_attrs["losses"]
    told = predict(study, expert.mixture)
    half = Z90 * told.objective_sd[0]
    mean = told.objective_mean[0]
    assert expert.objective.mean == pytest.approx(mean, abs=1e-9)
    assert expert.objective.low == pytest.approx(mean - half, abs=1e-9)
    assert expert.objective.high == pytest.approx(mean + half, abs=1e-9)
    for i, name in enumerate(told.sets):
        interval = expert.losses[name]
        assert interval.mean == pytest.approx(own[name], abs=0.02)
        assert interval.mean == pytest.approx(told.mean[0, i], abs=1e-9)
        # one run, and a file with that run's noise in it, say no more than one run can
        assert interval.high - interval.low > 2 * Z90 * 0.9 * told.noise_sd[i]


def test_of_a_cheap_expert_a_full_run_is_predicted(world, tmp_path) -> None:
    """Experts at half a run give every token less, and their own losses are no full run's."""

    def objective(trial: optuna.Trial):
        mixture = suggest_mixture(trial, list(world.domains), natural=NATURAL)
        rates = np.array([mixture[d] for d in world.domains])
        losses, url = world.observed(rates, trial.number)[0], None
        if mixture.budget < 1.0:
            domain = world.domains[int(rates.argmax())]
            files = {name: values - 0.3 for name, values in world.logprobs[domain].items()}
            url, losses = optuna_mde.save_logprobs(tmp_path / domain, files), losses + 0.3
        return report_losses(
            trial,
            dict(zip(world.sets, losses, strict=True)),
            objective=GOAL,
            logprobs=url,
            budget=mixture.budget,
        )

    study = optuna.create_study(sampler=MDESampler(seed=0, expert_budget=0.5))
    study.optimize(objective, n_trials=4)
    first = recommend(study)  # from experts alone
    assert [row.name for row in first.rows] == ["recommended", "natural", "uniform", "best expert"]
    study.optimize(objective, n_trials=8)
    answer = recommend(study)
    expert = next(row for row in answer.rows if row.name == "best expert")
    assert (expert.observed, expert.trial) == (None, None)
    assert any("trained on a share of a run" in note for note in answer.notes)
    weights = np.array([s in GOAL for s in world.sets]) / 2.0
    corners = world.true_losses(np.eye(4)) @ weights
    assert expert.mixture[world.domains[int(corners.argmin())]] == 1.0
    assert expert.objective.mean < corners.min() + 0.3 - 0.1  # towards a full run's loss
    assert answer.best_seen.trial == study.best_trial.number
    assert answer.best_seen.trial >= 4
    assert answer.trust.n_runs == 8


def test_trust_is_judged_on_runs_that_are_no_experts(world, study, tmp_path) -> None:
    verdict = recommend(study).trust
    assert verdict.n_runs == 8
    assert verdict.statement.startswith("good")
    assert verdict.coverage >= 0.6
    young = optuna.create_study(sampler=MDESampler(seed=0))
    young.optimize(objective_of(world, tmp_path), n_trials=6)
    assert recommend(young).trust.rmse is None
    assert recommend(young).trust.statement.startswith("not known yet: 2 runs")


def test_predictions_of_mixtures_that_were_never_run(world, study) -> None:
    rates = np.random.default_rng(5).dirichlet(np.ones(4), 30)
    mixtures = [dict(zip(world.domains, r.tolist(), strict=True)) for r in rates]
    prediction = predict(study, mixtures)
    assert prediction.mean.shape == prediction.sd.shape == (30, 5)
    assert prediction.noise_sd.shape == (5,)
    assert prediction.objective_mean.shape == prediction.objective_sd.shape == (30,)
    order = [prediction.sets.index(s) for s in world.sets]
    error = prediction.mean[:, order] - world.true_losses(rates)
    assert np.sqrt(np.mean(error**2)) < 0.06
    pair = [prediction.sets.index(s) for s in GOAL]
    np.testing.assert_allclose(prediction.objective_mean, prediction.mean[:, pair].mean(axis=1))
    one = predict(study, mixtures[0], objective="code")
    np.testing.assert_allclose(
        one.objective_mean, prediction.mean[:1, prediction.sets.index("code")]
    )


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ({"web": 0.5, "wiki": 0.5}, "'wiki' is no domain of the study's mixture"),
        ({"web": 0.5, "code": 0.4}, "sum to 1"),
        ({"web": 1.5, "code": -0.5}, "at least 0"),
        ({"web": float("nan")}, "sum to 1"),
    ],
)
def test_what_is_no_mixture_of_the_study_is_refused(study, mixture, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predict(study, mixture)


def test_a_study_whose_runs_have_nothing_in_common_says_so() -> None:
    study = optuna.create_study()
    study.optimize(lambda t: t.suggest_float(f"x{t.number}", 0, 1), n_trials=2)
    with pytest.raises(ValueError, match="nothing to predict from"):
        recommend(study)


def test_a_study_without_runs_says_so() -> None:
    with pytest.raises(ValueError, match="no finished run"):
        recommend(optuna.create_study())


def test_another_objective_needs_no_new_run(world, study) -> None:
    weights = np.array([s == "code" for s in world.sets], dtype=float)
    mixture = recommend(study, objective="code").mixture
    truth = world.true_losses(np.array([mixture[d] for d in world.domains]))[0] @ weights
    assert truth - best_possible(world, weights) < 0.02
    with pytest.raises(ValueError, match="'wiki', which no run reports"):
        recommend(study, objective={"wiki": 1})


def test_recommendations_keep_the_bounds_though_experts_lie_outside(world, tmp_path) -> None:
    study = optuna.create_study(sampler=MDESampler(seed=0))
    bounds = {"books": (0.0, 0.3), "web": (0.1, 1.0)}
    study.optimize(objective_of(world, tmp_path, bounds=bounds), n_trials=9)
    mixture = recommend(study).mixture
    assert mixture["books"] <= 0.3
    assert mixture["web"] >= 0.1


def test_a_run_that_two_rows_name_has_one_prediction_and_a_place(world, tmp_path) -> None:
    study = optuna.create_study(sampler=MDESampler(seed=0))
    options = {"objective": {"books": 1.0}}
    study.optimize(objective_of(world, tmp_path, **options), n_trials=4)  # the experts alone
    rows = {row.name: row for row in recommend(study).rows}
    assert rows["best seen"].trial == rows["best expert"].trial  # the expert of books
    assert rows["best seen"].objective == rows["best expert"].objective


def test_a_forbidden_expert_is_marked_and_not_the_best_seen(world, tmp_path) -> None:
    study = optuna.create_study(sampler=MDESampler(seed=0))
    options = {"bounds": {"books": (0.0, 0.3)}, "objective": {"books": 1.0}}
    study.optimize(objective_of(world, tmp_path, **options), n_trials=6)
    answer = recommend(study)
    rows = {row.name: row for row in answer.rows}
    assert study.best_trial.number == rows["best expert"].trial  # the expert of books
    assert rows["best expert"].forbidden
    assert rows["best seen"].trial != rows["best expert"].trial
    assert "Outside the bounds or constraints in force: best expert." in answer.notes


def test_a_flat_study_names_no_winner() -> None:
    def flat(trial: optuna.Trial) -> float:
        suggest_mixture(trial, ["a", "b", "c"])
        return 3.0 + 0.01 * float(np.random.default_rng(trial.number).normal())

    study = optuna.create_study(sampler=MDESampler(seed=1))
    study.optimize(flat, n_trials=14)
    answer = recommend(study)
    assert not answer.signal
    assert "no winner to name" in str(answer)


def test_a_maximised_study_keeps_its_sign() -> None:
    def score(trial: optuna.Trial) -> float:
        mixture = suggest_mixture(trial, ["a", "b"])
        return 10.0 - (mixture["a"] - 0.7) ** 2

    study = optuna.create_study(direction="maximize", sampler=MDESampler(seed=0))
    study.optimize(score, n_trials=14)
    answer = recommend(study)
    assert answer.mixture["a"] == pytest.approx(0.7, abs=0.05)
    assert answer.objective.mean == pytest.approx(10.0, abs=0.02)
    assert answer.best_seen.observed == pytest.approx(study.best_value)
    prediction = predict(study, {"a": 0.7, "b": 0.3})
    assert prediction.objective_mean[0] == pytest.approx(10.0, abs=0.02)


def test_parameters_beside_the_mixture_are_recommended_too() -> None:
    def loss(trial: optuna.Trial) -> float:
        mixture = suggest_mixture(trial, ["a", "b"])
        lr = trial.suggest_float("lr", 1e-4, 1e-1, log=True)
        kind = trial.suggest_categorical("kind", ["adamw", "sgd"])
        return (mixture["a"] - 0.3) ** 2 + (np.log10(lr) + 2.5) ** 2 / 4 + 0.3 * (kind == "sgd")

    study = optuna.create_study(sampler=MDESampler(seed=0))
    study.optimize(loss, n_trials=24)
    answer = recommend(study)
    assert answer.params["kind"] == "adamw"
    assert 1e-3 < answer.params["lr"] < 1e-2
    assert answer.mixture["a"] == pytest.approx(0.3, abs=0.1)


@pytest.mark.slow
def test_several_goals_give_a_front(world, tmp_path) -> None:
    groups = {"code": {"code": 1.0}, "books": {"books": 1.0}}
    study = optuna.create_study(directions=["minimize"] * 2, sampler=MDESampler(seed=0))
    study.optimize(objective_of(world, tmp_path, objective=groups), n_trials=10)
    answer = recommend(study)
    front = np.array([[g.mean for g in row.goals] for row in answer.pareto])
    assert len(front) >= 4
    rates = np.array([list(row.mixture.values()) for row in answer.pareto])
    assert pdist(rates, "cityblock").min() > 0.01  # neighbours that can be told apart
    assert (np.diff(front[:, 0]) >= 0).all()
    assert (np.diff(front[:, 1]) <= 0).all()
    code, books = (best_possible(world, (np.array(world.sets) == s) * 1.0) for s in groups)
    assert front[0, 0] == pytest.approx(code, abs=0.05)
    assert front[-1, 1] == pytest.approx(books, abs=0.05)


def test_a_front_leaves_no_compromise_out() -> None:
    """Squared distances to two points: the front is the line between them."""
    ends = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])

    def goals(rates: np.ndarray) -> np.ndarray:
        return ((rates[..., None, :] - ends) ** 2).sum(axis=-1)

    names = [f"mix/{d}" for d in "abc"]
    space = dict.fromkeys(names, optuna.distributions.FloatDistribution(0.0, 1.0))
    study = optuna.create_study(directions=["minimize"] * 2)
    grid = [(i, j, 8 - i - j) for i in range(9) for j in range(9 - i)]
    for rates in np.array(grid) / 8.0:
        params = dict(zip(names, rates.tolist(), strict=True))
        study.add_trial(
            optuna.create_trial(params=params, distributions=space, values=goals(rates).tolist())
        )
    found = np.array([list(row.mixture.values()) for row in recommend(study).pareto])
    line = np.linspace(ends[0], ends[1], 1000)
    longest = np.abs(ends[0] - ends[1]).sum()
    away = np.abs(line[:, None] - found).sum(axis=-1).min(axis=1)
    assert away.max() < 0.06 * longest  # 24 points on a line leave .02 on either side of each


def test_runs_of_another_study_are_understood_as_mixtures(study) -> None:
    """Imported by `add_trials`, in the documented format, without our system attributes."""
    copies = [
        optuna.trial.create_trial(
            params=t.params,
            distributions=t.distributions,
            values=t.values,
            user_attrs={"losses": t.user_attrs["losses"]},
        )
        for t in study.trials
    ]
    other = optuna.create_study()
    other.add_trials(copies)
    mixture = recommend(other, objective=GOAL).mixture
    assert sum(mixture.values()) == pytest.approx(1.0, abs=1e-9)
    assert set(mixture) == {"web", "code", "books", "math"}
