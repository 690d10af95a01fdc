"""Whether runs tell mixtures apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import optuna
import pytest
from scipy.stats import chi2

from optuna_mde.answers.fitted import fit_study
from optuna_mde.answers.held_out import leave_one_out
from optuna_mde.answers.signal import has_signal
from optuna_mde.mde.experts import ExpertTable
from tests.optuna_mde.recorded import add_run, inner, study_of_runs


def test_expected_losses_must_span_two_sd_of_a_run(world, tmp_path) -> None:
    rates = inner(8)
    fitted = fit_study(study_of_runs(world, tmp_path, rates, world.observed(rates, 1)))
    mean, _ = fitted.goals(fitted.observations.X)
    span = float(np.ptp(mean))
    assert not has_signal(fitted, span / 1.9)
    assert has_signal(fitted, span / 5.0)


def test_runs_that_differ_as_repeats_do_have_no_signal(world, tmp_path) -> None:
    """Noise of so many sd that 99 of 100 studies of one mixture would differ less."""
    rates = inner(8)
    fitted = fit_study(study_of_runs(world, tmp_path, rates, world.observed(rates, 1)))
    observed = fitted.observations.Y.mean(axis=1)
    just = float(np.sqrt(observed.var(ddof=1) * 11 / chi2.ppf(0.99, 11)))
    assert has_signal(fitted, 0.99 * just)
    assert not has_signal(fitted, 1.01 * just)


def alike(world, apart: float):
    """The world with experts that differ by a share of what they do."""
    web = world.logprobs["web"]
    files = {
        d: {s: web[s] + apart * (world.logprobs[d][s] - web[s]) for s in world.sets}
        for d in world.domains
    }
    return replace(world, logprobs=files, table=ExpertTable(world.domains, files))


@pytest.mark.parametrize("apart", [1e-2, 1e-4])
def test_flat_runs_of_experts_that_are_nearly_the_same_have_no_signal(
    world, tmp_path, apart: float
) -> None:
    flat = alike(world, apart)
    losses = flat.table.losses(inner(1)) + np.random.default_rng(2).normal(0.0, 0.01, (12, 5))
    fitted = fit_study(study_of_runs(flat, tmp_path, inner(12), losses))
    assert not has_signal(fitted, float(fitted.noise(fitted.overall)[0]))


def test_one_broken_run_is_no_signal_of_a_flat_study(world, tmp_path) -> None:
    """Experts that are much alike, runs that differ by their noise, and one that diverged."""
    flat = alike(world, 0.01)
    losses = flat.table.losses(inner(1)) + np.random.default_rng(1).normal(0.0, 0.01, (12, 5))
    losses[3] += 5.0
    fitted = fit_study(study_of_runs(flat, tmp_path, inner(12), losses))
    assert fitted.observations.Y.mean(axis=1).std() > 1.0
    assert not has_signal(fitted, 0.01 / 5**0.5)


def test_three_runs_are_too_few_to_be_called_noise() -> None:
    """And too few to be predicted from each other; with a fourth they are judged."""
    for n, known in ((3, True), (4, False)):
        study = optuna.create_study()
        for a in np.arange(n) / (n - 1):
            add_run(study, {"a": a, "b": 1 - a}, (float(3 + a),))
        fitted = fit_study(study)
        mean, _ = fitted.goals(fitted.observations.X)
        assert np.ptp(mean) > 2 * 0.35
        assert has_signal(fitted, 0.35) is known


def test_beside_experts_nothing_need_be_predicted(world, tmp_path) -> None:
    """Losses that have nothing to do with the mixtures, by ten sd of their noise."""
    losses = world.true_losses(inner(8)) + np.random.default_rng(0).normal(0.0, 3.0, (8, 1))
    fitted = fit_study(study_of_runs(world, tmp_path, inner(8), losses))
    (held,) = leave_one_out(fitted, fitted.overall, experts=True)
    error = np.mean((held.observed - held.mean) ** 2)
    assert error > 0.7 * np.var(held.observed, ddof=1)
    assert has_signal(fitted, 0.01)


def test_without_experts_unseen_runs_must_be_predicted_better_than_their_average(
    monkeypatch,
) -> None:
    study = optuna.create_study()
    rng = np.random.default_rng(0)
    for a in rng.permutation(9) / 8:
        add_run(study, {"a": a, "b": 1 - a}, (float(3 + (a - 0.4) ** 2 + rng.normal(0, 0.05)),))
    fitted = fit_study(study)
    (held,) = leave_one_out(fitted, fitted.overall, experts=True)
    left = float(np.mean((held.observed - held.mean) ** 2) / np.var(held.observed, ddof=1))
    for share, known in ((1.01, True), (0.99, False)):
        monkeypatch.setattr("optuna_mde.answers.signal._NO_SKILL", share * left)
        assert has_signal(fitted, 1e-6) is known


def test_without_experts_unseen_runs_must_be_predicted_as_well() -> None:
    """Losses that have nothing to do with the mixtures, and a model that believes them."""
    study = optuna.create_study()
    values = np.random.default_rng(0).normal(3.0, 0.1, 14)
    for a, value in zip(np.random.default_rng(1).permutation(14) / 13, values, strict=True):
        add_run(study, {"a": a, "b": 1 - a}, (float(value),))
    assert not has_signal(fit_study(study), 1e-6)
    smooth = optuna.create_study()
    for a in np.arange(14) / 13:
        add_run(smooth, {"a": a, "b": 1 - a}, (float(3 + (a - 0.4) ** 2),))
    assert has_signal(fit_study(smooth), 1e-6)
