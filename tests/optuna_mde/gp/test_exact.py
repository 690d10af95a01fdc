"""Figures that people are told stand on every token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
import pytest
import torch

import optuna_mde.mde.coreset
import optuna_mde.mde.experts
from optuna_mde import (
    MDESampler,
    predict,
    recommend,
    report_losses,
    save_logprobs,
    suggest_mixture,
)
from optuna_mde.answers.fitted import fit_study
from optuna_mde.gp.calibration import of_answers
from optuna_mde.gp.fitting import fit
from optuna_mde.gp.modeller import Modeller
from optuna_mde.mde import loading
from optuna_mde.mde.coreset import Coreset
from optuna_mde.mde.logprobs import LogprobFile, UnusableFileError

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
    assert fitted.experts is not None
    monkeypatch.setattr(optuna_mde.mde.coreset, "LEAST_EQUATIONS", 10**6)
    whole, quick = Coreset(fitted.experts.table), fitted.quick
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
    width = of_answers(quick.features)
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


def test_figures_of_too_many_tokens_are_the_coresets_and_say_so(
    study, mixtures, monkeypatch
) -> None:
    assert predict(study, mixtures).mde_error == 0.0
    assert not any("weighted tokens" in note for note in recommend(study).notes)
    monkeypatch.setattr(optuna_mde.mde.experts, "MOST_PRODUCTS", 1e6)
    fitted, answer, prediction = fit_study(study), recommend(study), predict(study, mixtures)
    assert fitted.surrogate is fitted.quick
    assert 1e-5 < prediction.mde_error == fitted.mde_error < 4e-3
    assert fitted.mde_error == fitted.quick.features.coreset.rms_error.max()
    said = f"within {fitted.mde_error:.4f} nats"
    assert any(said in note for note in answer.notes)


def test_few_mixtures_stand_on_every_token_where_many_do_not(study, mixtures, monkeypatch) -> None:
    monkeypatch.setattr(optuna_mde.mde.experts, "MOST_PRODUCTS", 1500 * 5 * 4 * (100 + 9 * 20))
    assert predict(study, mixtures[:1]).mde_error == 0.0
    assert predict(study, mixtures).mde_error > 0.0


def test_a_file_that_is_lost_meanwhile_leaves_the_coresets_figures(
    study, mixtures, monkeypatch
) -> None:
    def lost(*_: object) -> None:
        raise UnusableFileError("here", "gone")

    fit_study(study)
    monkeypatch.setattr(LogprobFile, "read", lost)
    assert predict(study, mixtures).mde_error > 0.0


def test_a_coreset_that_is_far_off_is_named(study, monkeypatch, caplog) -> None:
    observations = fit_study(study).observations
    monkeypatch.setattr(loading, "COARSE", 1e-9)
    modeller = Modeller()
    modeller.experts(observations)
    modeller.experts(observations)  # has been said
    said = [r.getMessage() for r in caplog.records if "weighted tokens" in r.getMessage()]
    assert len(said) == len(observations.outputs)
    assert any("'unseen'" in message for message in said)
