"""When a surrogate is fitted, and on what."""

from __future__ import annotations

import copy
import os
from dataclasses import replace

import numpy as np
import torch

from optuna_mde.gp import modeller as model
from optuna_mde.gp.features import Features
from optuna_mde.gp.modeller import Modeller
from optuna_mde.gp.surrogate import Runs
from optuna_mde.mde.coreset import Coreset
from optuna_mde.mde.experts import ExpertTable
from optuna_mde.mde.logprobs import save_logprobs
from optuna_mde.observations import ExpertFile, Observations, Output
from tests.optuna_mde.fits import observed, rows

BLOCKS = (slice(0, 3),)


def history(n: int, seed: int = 0) -> Observations:
    X = np.random.default_rng(seed).dirichlet(np.ones(3), n)
    Y = np.stack([((X - 0.3) ** 2).sum(axis=1), X[:, 0]], axis=1)
    return observed(X, Y, ("a", "b"), ("x", "y", "z"))


def test_a_history_is_fitted_once(monkeypatch) -> None:
    calls = []
    build = model._build
    monkeypatch.setattr(model, "_build", lambda *a: calls.append(1) or build(*a))
    modeller, told = Modeller(), history(8)
    first = modeller.surrogate(told, BLOCKS)
    pending = replace(told, pending=np.full((1, 3), 1 / 3))
    assert modeller.surrogate(pending, BLOCKS) is first  # pending runs need no new fit
    assert len(calls) == 1
    other = replace(told, Y=told.Y + 1.0)
    assert modeller.surrogate(other, BLOCKS) is not first
    assert copy.deepcopy(modeller)._surrogate is None


def test_many_runs_are_modelled_by_a_stated_subset() -> None:
    told = history(700)
    surrogate = Modeller().surrogate(told, BLOCKS)
    assert len(surrogate.runs.X) == model.MODEL_RUNS
    level = told.Y.mean(axis=1)
    best = torch.from_numpy(told.X[np.argsort(level)[:20]])
    kept = surrogate.runs.X
    assert all((kept == x).all(dim=1).any() for x in best)  # the best runs are never left out


def test_a_run_that_lacks_the_worst_set_is_not_for_that_among_the_best() -> None:
    n = 30
    level = torch.linspace(2.0, 3.0, n, dtype=torch.float64)
    Y = torch.stack([level, level + 4.0], dim=1)
    Y[::2, 1] = torch.nan
    X = torch.eye(n, dtype=torch.float64)
    kept = model._thinned(Runs(X, Y, torch.zeros(n, dtype=torch.bool)), 12).X.argmax(dim=1)
    assert set(range(4)) <= set(kept.tolist())
    assert set(kept.tolist()) >= {4, 29}  # of the others, evenly in time


def test_order_of_arrival_does_not_matter() -> None:
    told = history(12)
    order = np.random.default_rng(3).permutation(12)
    shuffled = rows(told, order)
    X = torch.from_numpy(history(5, seed=9).X)
    first, second = (Modeller().surrogate(h, BLOCKS).posterior(X) for h in (told, shuffled))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_refits_become_rare_as_runs_accumulate() -> None:
    milestones = {model._milestone(n) for n in range(1, 501)}
    assert set(range(1, model.REFIT_FROM + 1)) <= milestones
    assert len([m for m in milestones if m > model.REFIT_FROM]) < 30
    assert all(0.85 * n <= model._milestone(n) <= n for n in range(1, 2000))


def test_hyper_parameters_of_the_same_runs_are_fitted_once(monkeypatch) -> None:
    from optuna_mde.gp import fitting

    fits = []
    fit = fitting._fit_hyperparameters
    monkeypatch.setattr(
        fitting, "_fit_hyperparameters", lambda *a: fits.append(len(a[3].targets.T)) or fit(*a)
    )
    modeller, runs = Modeller(), history(90)

    X = torch.from_numpy(history(5, seed=9).X)
    for n in range(67, 75):  # milestones at 66 and 72
        kept = modeller.surrogate(rows(runs, slice(0, n)), BLOCKS).posterior(X)
        fresh = Modeller().surrogate(rows(runs, slice(0, n)), BLOCKS).posterior(X)
        torch.testing.assert_close(kept, fresh, rtol=0, atol=0)
    assert len(fits) == 8 + len({model._milestone(n) for n in range(67, 75)})


def test_many_outputs_are_fitted_on_fewer_runs() -> None:
    def fitted(n_outputs: int) -> int:
        told = history(200)
        Y = np.repeat(told.Y[:, :1], n_outputs, axis=1)
        targets = tuple(Output(f"s{i}") for i in range(n_outputs))
        told = replace(told, Y=Y, targets=targets)
        return len(model._head(model._runs(told), Features(3, BLOCKS, told.outputs)).X)

    assert fitted(11) == model.FIT_RUNS
    assert fitted(68) ** 2 * 68 <= model.FIT_ENTRIES
    assert fitted(68) > 60


def test_experts_take_no_place_among_the_runs_of_a_fit() -> None:
    told = history(200)
    table = {d: {"a": np.log(np.full(5, 0.1 * (j + 1)))} for j, d in enumerate("xyz")}
    coreset = Coreset(ExpertTable(told.domains, table))
    runs = replace(model._runs(told), corner=torch.arange(200) < 60)
    knows = Features(3, BLOCKS, told.outputs, BLOCKS[0], coreset)
    assert not model._head(runs, knows).corner.any()
    assert model._head(runs, Features(3, BLOCKS, told.outputs)).corner.any()


def test_experts_are_read_once_and_again_when_a_file_has_changed(tmp_path, monkeypatch) -> None:
    from optuna_mde.mde import loading

    reads = []
    load = loading.load_experts
    monkeypatch.setattr(loading, "load_experts", lambda *a: reads.append(1) or load(*a))
    logprobs = np.log(np.random.default_rng(0).uniform(0.1, 0.9, (2, 200)))
    files = [save_logprobs(tmp_path / d, {"a": logprobs[j]}) for j, d in enumerate("xy")]
    experts = tuple(ExpertFile(d, url, 1.0, -1) for d, url in zip("xy", files, strict=True))
    modeller, told = Modeller(), replace(history(6), experts=experts)
    for _ in range(2):
        found = modeller.experts(told)
        modeller.surrogate(told, BLOCKS)
    assert found is not None
    assert len(reads) == 1
    np.testing.assert_allclose(found.table.losses(np.eye(3)[:2])[:, 0], -logprobs.mean(axis=1))
    save_logprobs(files[0], {"a": logprobs[0] - 1.0})
    os.utime(files[0], (1.0, 1.0))
    changed = modeller.experts(told)
    assert changed is not None
    assert len(reads) == 2
    assert modeller.surrogate(told, BLOCKS).features.coreset is changed.coreset
    assert copy.deepcopy(modeller).experts(told) is not changed  # copies start empty
    assert modeller.experts(replace(told, experts=experts[:1])) is None


def test_a_run_whose_experts_file_is_refused_is_a_run_like_others(tmp_path) -> None:
    logprobs = np.log(np.random.default_rng(0).uniform(0.1, 0.9, (3, 200)))
    losses = [(("a", float(-values.mean())),) for values in logprobs]
    units = (np.log(10.0), 1.0, 1.0)
    experts = tuple(
        ExpertFile(
            d, save_logprobs(tmp_path / d, {"a": logprobs[j] / units[j]}), 1.0, j, losses[j]
        )
        for j, d in enumerate("xyz")
    )
    told = history(6)
    told = replace(
        told,
        X=np.concatenate([np.eye(3), told.X[3:]]),
        corner=np.arange(6) < 3,
        experts=experts,
    )
    modeller = Modeller()
    surrogate = modeller.surrogate(told, BLOCKS, fit=False)
    assert surrogate.runs.corner.tolist() == [False, True, True, False, False, False]
    assert list(modeller.refused(told)) == ["x"]
