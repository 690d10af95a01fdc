"""Whether runs tell mixtures apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import optuna
import pytest
from scipy.stats import chi2

from optuna_mde.answers.fitted import fit_study
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
    assert has_signal(fitted, 0.95 * just)
    assert not has_signal(fitted, 1.05 * just)


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
