"""What MDE has to do with an answer, and what it would have said alone."""

from __future__ import annotations

import numpy as np
import pytest

from optuna_mde.answers.fitted import fit_study
from optuna_mde.answers.mde_alone import mde_alone
from optuna_mde.answers.optimum import best_point
from tests.optuna_mde.recorded import inner, study_of_runs


def test_where_mde_is_right_it_says_the_same(world, tmp_path) -> None:
    rates = inner(14)
    study = study_of_runs(world, tmp_path, rates, world.table.losses(rates))
    fitted = fit_study(study)
    best, _ = best_point(fitted)
    found = mde_alone(fitted, best)
    assert found is not None
    assert found.followed > 0.9
    assert found.spearman == pytest.approx(1.0, abs=0.1)
    rows = np.array([list(found.mixture.values())])
    assert found.loss == pytest.approx(float(world.table.losses(rows).mean()), abs=0.02)
    drawn = np.random.default_rng(0).dirichlet(np.ones(len(rows[0])), 2000)
    assert found.loss <= world.table.losses(drawn).mean(axis=1).min() + 0.02
    assert found.cost.low <= 0.02


def test_where_mde_is_off_its_error_is_told(world, tmp_path) -> None:
    rates = inner(14)
    study = study_of_runs(world, tmp_path, rates, world.true_losses(rates))
    found = mde_alone(fitted := fit_study(study), best_point(fitted)[0])
    assert found is not None
    errors = (world.table.losses(rates) - world.true_losses(rates)).mean(axis=1)
    assert found.bias == pytest.approx(errors.mean(), abs=0.02)
    assert found.error == pytest.approx((errors**2).mean() ** 0.5, abs=0.02)


def test_without_files_nothing_is_said(world) -> None:
    rates = inner(8)
    fitted = fit_study(study_of_runs(world, None, rates, world.true_losses(rates)))
    assert mde_alone(fitted, best_point(fitted)[0]) is None
