"""Figures that people are told stand on every token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
import pytest
import torch

import optuna_mde.mde.coreset
from optuna_mde import (
    MDESampler,
    predict,
    recommend,
    report_losses,
    save_logprobs,
    suggest_mixture,
)
from optuna_mde.answers.fitted import fit_study
from optuna_mde.gp.calibration import of_predictions
from optuna_mde.gp.fitting import fit
from optuna_mde.gp.modeller import expert_table
from optuna_mde.mde.coreset import Coreset

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def study(world, tmp_path_factory) -> optuna.Study:
    folder: Path = tmp_path_factory.mktemp("experts")

    def objective(trial: optuna.Trial):
        mixture = suggest_mixture(trial, list(world.domains))
        rates = np.array(list(mixture.values()))
        losses = dict(zip(world.sets, world.observed(rates, trial.number)[0], strict=True))
        url = None
        if mixture.is_expert:
            domain = world.domains[int(rates.argmax())]
            url = save_logprobs(folder / domain, world.logprobs[domain])
        return report_losses(trial, losses, logprobs=url)

    study = optuna.create_study(sampler=MDESampler(seed=0))
    study.optimize(objective, n_trials=10)
    return study


@pytest.fixture
def mixtures(world) -> list[dict[str, float]]:
    rates = np.random.default_rng(3).dirichlet(np.ones(4), 40)
    return [dict(zip(world.domains, r.tolist(), strict=True)) for r in rates]


def test_predictions_and_recommendations_use_the_exact_table(
    world, study, mixtures, monkeypatch
) -> None:
    """Compared with a coreset of all tokens, each with the same weight."""
    fitted = fit_study(study)
    loaded = expert_table(fitted.observations)
    assert loaded is not None
    monkeypatch.setattr(optuna_mde.mde.coreset, "LEAST_EQUATIONS", 10**6)
    whole, quick = Coreset(loaded[0]), fitted.quick
    assert whole.n_tokens == tuple(len(table.ratios) for table in world.table.tables)
    exact = fit(quick.features.on(whole), quick.runs, quick.state(), steps=0)

    recommended = recommend(study)
    asked = [recommended.mixture, *mixtures]
    X = torch.tensor([[m[d] for d in world.domains] for m in asked], dtype=torch.float64)
    with torch.no_grad():
        mean, sd = (values.numpy() for values in exact.posterior(X))
        rough = quick.posterior(X)[0].numpy()
    prediction = predict(study, asked)
    np.testing.assert_allclose(prediction.mean, mean, atol=1e-8)
    width = of_predictions([1.0] * len(world.domains), beside=6)
    wider = prediction.sd / (width * sd)  # by what leave-one-out shows of each set
    np.testing.assert_allclose(wider, np.broadcast_to(wider[0], wider.shape), rtol=1e-5)
    assert (wider[0] > 1.0 - 1e-6).all()
    told = [recommended.losses[name].mean for name in prediction.sets]
    np.testing.assert_allclose(told, mean[0], atol=1e-8)
    assert 1e-5 < np.abs(rough - mean).max() < 0.02  # it does make a difference, and a small one


def test_the_recommended_mixture_is_the_best_of_all_rows_on_every_token(study, mixtures) -> None:
    answer = recommend(study)
    assert answer.objective.mean <= min(row.objective.mean for row in answer.rows[1:])
    assert answer.objective.mean <= predict(study, mixtures).objective_mean.min()
