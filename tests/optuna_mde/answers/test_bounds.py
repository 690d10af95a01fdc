"""What bounds hold a recommendation, what they cost, and what it gains on the mixture in use."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import optuna
import pytest

from optuna_mde import MDESampler, recommend, report_losses, suggest_mixture
from optuna_mde.answers.bounds import AT

DOMAINS = ("web", "code", "books")
NATURAL = (0.7, 0.1, 0.2)
FLOOR, CAP = 0.5, 0.05


def losses(rates: np.ndarray) -> np.ndarray:
    """Of two sets `[..., 2]`: both have enough of code and of books."""
    web, code, books = np.moveaxis(rates, -1, 0)
    prose = 3 - 1.2 * books + 0.6 * books**2 + 0.4 * web
    programs = 2 - 2 * code + 1.5 * code**2 + 0.1 * web
    return np.stack([prose, programs], axis=-1)


@pytest.fixture(scope="module")
def study() -> optuna.Study:
    def objective(trial: optuna.Trial) -> float:
        mixture = suggest_mixture(
            trial,
            DOMAINS,
            bounds={"web": (FLOOR, 1), "code": (0, CAP)},
            natural=dict(zip(DOMAINS, NATURAL, strict=True)),
        )
        told = losses(np.array(list(mixture.values())))
        return report_losses(trial, dict(zip(("prose", "programs"), told.tolist(), strict=True)))

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=MDESampler(seed=0))
    study.optimize(objective, n_trials=14)
    return study


def least(floor: float, cap: float) -> float:
    """The lowest mean loss of all mixtures on a grid that keep the bounds."""
    grid = np.array([(w, c, 1 - w - c) for w, c in product(np.linspace(0, 1, 401), repeat=2)])
    kept = (grid >= -1e-9).all(axis=1) & (grid[:, 0] >= floor - 1e-9) & (grid[:, 1] <= cap + 1e-9)
    return float(losses(grid[kept]).mean(axis=1).min())


def test_bounds_are_worth_what_a_search_without_them_finds(study):
    found = {(b.domain, b.side): b for b in recommend(study).bounds}
    assert found.keys() == {("web", "floor"), ("code", "cap")}
    relaxed = {("web", "floor"): (FLOOR / 2, CAP), ("code", "cap"): (FLOOR, 2 * CAP)}
    for key, (floor, cap) in relaxed.items():
        bound, worth = found[key], least(FLOOR, CAP) - least(floor, cap)
        assert bound.to == pytest.approx(floor if bound.side == "floor" else cap)
        assert abs(bound.gain - worth) < 3 * bound.sd + 0.003
        assert bound.gain == pytest.approx(worth, rel=0.3)
    gains = [bound.gain for bound in recommend(study).bounds]
    assert gains == sorted(gains, reverse=True)
    assert "web at its floor 0.5 (0.25 would gain" in str(recommend(study))


def limited(**asked: Any) -> optuna.Study:
    """A study of the same losses, with a constraint or limits."""

    def objective(trial: optuna.Trial) -> float:
        mixture = suggest_mixture(trial, DOMAINS, constraints=asked.get("constraints", ()))
        told = losses(np.array(list(mixture.values())))
        named = dict(zip(("prose", "programs"), told.tolist(), strict=True))
        return report_losses(trial, named, limits=asked.get("limits"))

    study = optuna.create_study(sampler=MDESampler(seed=0))
    study.optimize(objective, n_trials=14)
    return study


def test_a_constraint_is_worth_what_a_search_without_it_finds():
    found = recommend(limited(constraints=["web + books >= 0.7"]))
    (bound,) = found.bounds
    assert (bound.side, bound.domain, bound.to) == ("constraint", "web + books >= 0.7", None)
    grid = np.array([(w, c, 1 - w - c) for w, c in product(np.linspace(0, 1, 401), repeat=2)])
    goals = losses(grid).mean(axis=1)
    inside = (grid >= -1e-9).all(axis=1)
    worth = goals[inside & (grid[:, 1] <= 0.3)].min() - goals[inside].min()
    assert worth > 0.01
    assert abs(bound.gain - worth) < 2 * bound.sd
    assert bound.sd < 2 * worth
    assert "Held by: the constraint web + books >= 0.7 (to drop it would gain 0." in str(found)


def test_a_limit_is_worth_what_a_search_without_it_finds():
    free = recommend(limited())
    limit = free.losses["prose"].mean - 0.1
    study = limited(limits={"prose": limit, "programs": 5.0})
    found = recommend(study)
    (bound,) = found.bounds
    assert (bound.side, bound.domain, bound.at) == ("limit", "prose", limit)
    grid = np.array([(w, c, 1 - w - c) for w, c in product(np.linspace(0, 1, 401), repeat=2)])
    told = losses(grid[(grid >= -1e-9).all(axis=1)])
    worth = told[told[:, 0] <= limit].mean(axis=1).min() - told.mean(axis=1).min()
    assert bound.gain == pytest.approx(worth, rel=0.3)
    assert f"the limit prose ≤ {limit:g} (to drop it would gain 0.0" in str(found)


def test_a_mixture_inside_its_bounds_is_held_by_none():
    study = optuna.create_study(sampler=MDESampler(seed=0))
    study.optimize(
        lambda t: (suggest_mixture(t, DOMAINS, bounds={"web": (0.1, 0.9)})["web"] - 0.4) ** 2, 10
    )
    found = recommend(study)
    assert found.mixture["web"] > 0.1 + AT
    assert found.bounds == ()


def test_the_gain_on_natural_has_the_interval_of_a_difference(study):
    found = recommend(study)
    assert found.against is not None
    assert found.against.name == "natural"
    rows = {row.name: row for row in found.rows}
    best, natural = (
        np.array([rows[n].mixture[d] for d in DOMAINS]) for n in ("recommended", "natural")
    )
    truth, versus = losses(best) - losses(natural), found.against
    assert versus.objective.low - 1e-3 <= truth.mean() <= versus.objective.high + 1e-3
    for name, true in zip(("prose", "programs"), truth, strict=True):
        change = versus.losses[name]
        apart = rows["recommended"].losses[name].mean - rows["natural"].losses[name].mean
        assert change.mean == pytest.approx(apart, abs=1e-6)
        assert change.mean == pytest.approx(true, abs=0.02)


def test_one_mixture_is_called_uniform_and_it_is_allowed(study):
    found = recommend(study)
    rows = {row.name: row for row in found.rows}
    tried = next(t for t in study.trials if t.user_attrs.get("phase") == "uniform")
    assert rows["uniform"].trial == tried.number
    assert rows["uniform"].mixture == pytest.approx(
        {d: tried.params[f"mix/{d}"] for d in DOMAINS}, abs=1e-9
    )
    assert rows["uniform"].moved
    assert not rows["uniform"].forbidden
    assert not rows["natural"].forbidden
    assert "uniform (within bounds)" in str(found)
    assert any("forbid the natural and the uniform mixture" in note for note in found.notes)


def test_the_best_run_seen_is_an_allowed_one(study):
    def forbidden(trial: optuna.Trial) -> float:
        suggest_mixture(trial, DOMAINS, bounds={"web": (FLOOR, 1), "code": (0, CAP)})
        return report_losses(trial, {"prose": 1.0, "programs": 1.0})

    copy = optuna.create_study()
    copy.add_trials(study.trials)
    copy.enqueue_trial({"mix/web": 0.0, "mix/code": 0.5, "mix/books": 0.5})
    with pytest.warns(UserWarning, match="outside"):
        copy.optimize(forbidden, 1)
    assert copy.best_trial.number == 14
    seen = recommend(copy).best_seen
    assert seen is not None
    assert seen.trial != 14
    assert not seen.forbidden
