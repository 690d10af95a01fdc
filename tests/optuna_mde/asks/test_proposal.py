"""Proposals: repeatable, new, inside the region, and never an exception."""

from __future__ import annotations

import contextlib
import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

import optuna_mde.gp.modeller
from benchmarks import planted
from optuna_mde.asks.proposal import (
    APART,
    SAME,
    Proposer,
    _first_new,
    _fresh,
    _one_thread,
    is_seen,
)
from optuna_mde.mde.logprobs import save_logprobs
from optuna_mde.objective import Objective
from optuna_mde.observations import ExpertFile, Observations, Output
from optuna_mde.simplex.region import Region, design
from tests.optuna_mde.fits import observed, rows

BLOCK = slice(0, 4)


@pytest.fixture(scope="module")
def expert_files(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("experts")
    return tuple(
        ExpertFile(d, save_logprobs(folder / d, world.logprobs[d], domain=d), 1.0, j)
        for j, d in enumerate(world.domains)
    )


def region(upper: float = 1.0) -> Region:
    return Region(np.zeros(4), np.full(4, upper), (BLOCK,))


def history(world, n: int, experts=(), seed: int = 0, pending=None) -> Observations:
    inner = np.random.default_rng(seed).dirichlet(np.ones(4), n)
    X = np.concatenate([np.eye(4), inner])
    return observed(
        X,
        world.observed(X, seed),
        world.sets,
        world.domains,
        corner=np.arange(len(X)) < 4,
        pending=np.zeros((0, 4)) if pending is None else pending,
        experts=tuple(experts),
        objective=Objective.parse({"books": 1, "unseen": 1}),
    )


def regret(world, x: np.ndarray) -> float:
    """Noise-free loss above the best of a fine sample."""
    pool = np.random.default_rng(9).dirichlet(np.full(4, 0.7), 20_000)
    goal = world.true_losses(np.concatenate([pool, x[None]]))[:, [2, 4]].mean(axis=1)
    return float(goal[-1] - goal[:-1].min())


def test_with_experts_and_few_runs_the_proposal_is_near_the_optimum(world, expert_files) -> None:
    told = history(world, 5, expert_files)
    proposal = Proposer().propose(told, region(), seed=0)
    assert proposal.phase == "model"
    assert proposal.cause is None
    assert regret(world, proposal.x) < 0.02
    truth = world.true_losses(proposal.x)[0, [2, 4]].mean()
    assert abs(proposal.predicted_mean - truth) < 4 * proposal.predicted_sd + 0.01


def test_experts_alone_propose_the_mde_optimum(world, expert_files) -> None:
    proposal = Proposer().propose(history(world, 0, expert_files), region(), seed=0)
    w = np.array([0, 0, 0.5, 0, 0.5])
    gradient = w @ world.table.gradients(proposal.x)
    assert gradient @ proposal.x - gradient.min() < 1e-6


def at_mde_optimum(world, rates: np.ndarray, weights: list[float]) -> bool:
    """Whether no mixture has a lower weighted MDE loss: Frank and Wolfe's gap is nothing."""
    gradient = np.array(weights) @ world.table.gradients(rates)
    return bool(gradient @ rates - gradient.min() < 1e-6)


def test_before_any_run_the_files_alone_propose_and_nothing_has_failed(
    world, expert_files, caplog
) -> None:
    nothing = rows(history(world, 0, expert_files), slice(0))
    proposal = Proposer().propose(nothing, region(), seed=0)
    assert (proposal.phase, proposal.cause, proposal.predicted_mean) == ("mde", None, None)
    assert at_mde_optimum(world, proposal.x, [0, 0, 0.5, 0, 0.5])
    assert not caplog.records
    without = Proposer().propose(replace(nothing, experts=()), region(), seed=0)
    assert without.phase == "design"
    assert "no expert log-probabilities" in without.cause
    one = Proposer().propose(rows(history(world, 1), slice(4, 5)), region(), seed=0)
    assert (one.phase, one.cause) == ("model", None)


def test_of_several_goals_no_mean_is_predicted(world, expert_files) -> None:
    two = Objective.parse({"a": {"books": 1}, "b": {"unseen": 1}})
    for n in (0, 6):
        told = replace(history(world, n, expert_files), objective=two)
        proposal = Proposer().propose(told, region(), seed=0)
        assert proposal.phase == "model"
        assert (proposal.predicted_mean, proposal.predicted_sd) == (None, None)
        assert not is_seen(proposal.x, told.seen)


def test_sets_without_an_expert_leave_the_others_to_propose_by(world, expert_files) -> None:
    """A goal that no file speaks of: all sets that files do speak of count alike."""
    told = history(world, 0, expert_files)
    new = replace(
        told,
        Y=np.column_stack([told.Y, np.ones(4)]),
        targets=(*told.targets, Output("new")),
        objective=Objective.parse({"new": 1}),
    )
    x = Proposer().propose(new, region(), seed=0).x
    assert at_mde_optimum(world, x, [0.2] * 5)
    mixed = replace(new, objective=Objective.parse({"new": 3, "code": 1}))
    assert at_mde_optimum(world, Proposer().propose(mixed, region(), seed=0).x, [0, 1, 0, 0, 0])


def test_beside_the_mde_optimum_other_parameters_are_spread(world, expert_files) -> None:
    told = history(world, 0, expert_files)
    told = replace(
        told,
        columns=(*told.columns, "lr"),
        X=np.column_stack([told.X, np.full(4, 0.5)]),
        **{name: np.zeros((0, 5)) for name in ("pending", "stalled")},
    )
    wide = Region(np.zeros(5), np.ones(5), (BLOCK,))
    points = np.array([Proposer()._by_mde(told, wide, seed).x for seed in range(4)])
    for x in points:
        assert at_mde_optimum(world, x[:4], [0, 0, 0.5, 0, 0.5])
    assert len(set(points[:, 4])) == 4
    assert points[:, 4].min() < 0.5 < points[:, 4].max()


def test_a_worker_that_comes_second_does_not_take_the_mde_optimum_too(world, expert_files) -> None:
    first = Proposer().propose(history(world, 0, expert_files), region(), seed=0)
    pending = history(world, 0, expert_files, pending=first.x[None])
    second = Proposer().propose(pending, region(), seed=1)
    assert second.phase == "model"
    assert second.cause is None
    assert np.abs(second.x - first.x).sum() >= APART


def test_the_best_point_that_is_new_is_taken_and_apart_from_pending_ones_if_one_is() -> None:
    points = np.array([[0.5, 0.5], [0.52, 0.48], [0.6, 0.4], [0.9, 0.1]])
    nothing = np.zeros((0, 2))
    assert _first_new(points, nothing, nothing) is not None
    for seen, pending, chosen in (
        ([], [], 0),
        ([0], [], 1),
        ([0], [0], 2),  # .04 from a pending one is too near, .2 is not
        ([0, 2], [0], 3),
        ([0, 2, 3], [0], 1),  # none is apart: the best that is no repeat
    ):
        np.testing.assert_array_equal(
            _first_new(points, points[seen], points[pending]), points[chosen]
        )
    assert _first_new(points, points, nothing) is None


def test_a_design_point_that_was_run_is_passed_over() -> None:
    points = np.array([design(region(), 3, 7 + i) for i in range(3)])
    np.testing.assert_array_equal(_fresh(region(), points[1:], 3, 7), points[0])
    np.testing.assert_array_equal(_fresh(region(), points[:2], 3, 7), points[2])
    nowhere = Region(points[0], points[0], (BLOCK,))
    np.testing.assert_allclose(_fresh(nowhere, points[:1], 3, 7), points[0])


def test_models_compute_on_one_thread_and_give_the_others_back() -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            with contextlib.suppress(RuntimeError), _one_thread():
                assert torch.get_num_threads() == 1
                raise RuntimeError("a step fails")
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_the_same_history_and_seed_give_the_same_proposal(world, expert_files) -> None:
    told = history(world, 6, expert_files)
    proposer = Proposer()
    proposer.propose(history(world, 5, expert_files), region(), seed=7)  # has seen another state
    first = proposer.propose(told, region(), seed=3).x
    torch.manual_seed(123)
    np.random.seed(5)
    np.testing.assert_array_equal(first, Proposer().propose(told, region(), seed=3).x)
    for clone in (copy.deepcopy(proposer), pickle.loads(pickle.dumps(proposer))):
        np.testing.assert_array_equal(first, clone.propose(told, region(), seed=3).x)


def test_global_state_is_left_alone(world) -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    Proposer().propose(history(world, 5), region(), seed=0)
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)
    assert (torch.get_num_threads(), torch.get_default_dtype()) == (threads, dtype)


@pytest.mark.parametrize("with_experts", [True, False])
def test_sixteen_workers_get_sixteen_different_mixtures(
    world, expert_files, with_experts: bool
) -> None:
    proposer, pending = Proposer(), np.zeros((0, 4))
    for seed in range(16):
        told = history(world, 6, expert_files if with_experts else (), pending=pending)
        x = proposer.propose(told, region(0.9), seed=seed).x
        assert region(0.9).contains(x)
        seen = np.concatenate([told.X, pending])
        assert np.abs(seen - x).sum(axis=1).min() >= SAME
        pending = np.concatenate([pending, x[None]])
    distances = np.abs(pending[:, None] - pending[None]).sum(axis=-1)
    assert np.median(distances[np.triu_indices(16, 1)]) > 0.1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_broken_losses_never_raise(world, expert_files, value: float) -> None:
    told = history(world, 6, expert_files)
    for broken in ([7], [5, 8], list(range(10))):
        Y = told.Y.copy()
        Y[broken, :2] = value
        proposal = Proposer().propose(replace(told, Y=Y), region(), seed=0)
        assert region().contains(proposal.x)


def test_a_failed_fit_falls_back_step_by_step(world, expert_files, monkeypatch, caplog) -> None:
    told = history(world, 6, expert_files)

    def fails(*args, **kwargs):
        raise RuntimeError("singular")

    monkeypatch.setattr("optuna_mde.gp.fitting._fit_hyperparameters", fails)
    proposer = Proposer()
    proposal = proposer.propose(told, region(), seed=0)
    assert proposal.phase == "prior"
    assert "RuntimeError: singular" in proposal.cause
    assert regret(world, proposal.x) < 0.05
    monkeypatch.setattr(optuna_mde.gp.modeller, "_build", fails)
    proposal = Proposer().propose(told, region(), seed=0)
    assert proposal.phase == "mde"
    assert Proposer().propose(replace(told, experts=()), region(), seed=0).phase == "design"
    proposer.propose(told, region(), seed=1)
    first = [r for r in caplog.records if "falls back" in r.message][: len(caplog.records)]
    assert sum("model: RuntimeError" in r.message for r in first) == 3  # once for each proposer


def test_a_cheap_expert_is_a_feature_and_no_observation(world, expert_files) -> None:
    told = history(world, 6, expert_files)
    cheap = replace(told, budget=np.where(told.corner, 0.5, 1.0), Y=told.Y.copy())
    cheap.Y[:4] += 5.0  # a quarter of the training: far worse losses
    x = Proposer().propose(cheap, region(), seed=0).x
    assert regret(world, x) < 0.05


def test_a_corner_is_reached_where_it_is_best(world) -> None:
    """A single domain that serves its own set best: exact zeros must be proposed."""
    X = history(world, 10).X[4:]
    for seed in range(6):
        Y = 3.0 - X[:, [0]]  # better and better towards the first corner
        now = observed(X, Y, ("web",), world.domains, objective=Objective.parse({"web": 1}))
        x = Proposer().propose(now, region(), seed=seed).x
        X = np.concatenate([X, x[None]])
        if x[0] == 1.0:
            break
    np.testing.assert_array_equal(X[-1], [1.0, 0.0, 0.0, 0.0])


def test_stalled_runs_are_not_repeated_and_not_believed(world, expert_files) -> None:
    told = history(world, 8, expert_files)
    first = Proposer().propose(told, region(), seed=0).x
    rng = np.random.default_rng(0)
    beside = region().snap(np.vstack([first, first + 0.03 * rng.normal(size=(11, 4))]))
    stalled = Proposer().propose(replace(told, stalled=beside), region(), seed=0)
    believed = Proposer().propose(replace(told, pending=beside), region(), seed=0)
    assert not is_seen(stalled.x, beside)
    assert regret(world, stalled.x) < 0.02
    assert np.abs(believed.x - first).sum() > 2 * np.abs(stalled.x - first).sum()


def test_the_mde_optimum_is_not_run_twice(tmp_path) -> None:
    """At a corner, mixtures drawn beside it are the corner again, more often than not."""
    rng = np.random.default_rng(0)
    base = rng.normal(-4.0, 1.0, 500)
    files = [
        ExpertFile(d, save_logprobs(tmp_path / d, {"a": np.minimum(base - j, -1e-3)}), 1.0, j)
        for j, d in enumerate("wxyz")
    ]
    told = observed(np.eye(4), np.ones((4, 1)), "a", "wxyz", experts=tuple(files))
    for seed in range(10):
        proposal = Proposer()._by_mde(told, region(), seed)
        assert region().contains(proposal.x)
        assert not is_seen(proposal.x, told.seen)
        assert proposal.x[0] == proposal.x.max()


def test_a_mixture_is_seen_though_it_is_the_only_one() -> None:
    x = np.array([0.2, 0.3, 0.5])
    assert is_seen(x, x[None])
    assert is_seen(x, x[None] + 0.5 * SAME / 3)
    assert not is_seen(x, x[None] + 2.0 * SAME / 3)
    assert not is_seen(x, np.zeros((0, 3)))


def test_where_runs_deny_mde_mixtures_are_spread_until_there_are_enough(tmp_path) -> None:
    """Three more than domains, neighbours and experts not counted."""
    world = planted.make("useless", 11)
    K = len(world.domains)
    logs = [dict(zip(world.sets, values, strict=True)) for values in world.logprobs]
    files = tuple(
        ExpertFile(d, save_logprobs(tmp_path / d, values), 1.0, j)
        for j, (d, values) in enumerate(zip(world.domains, logs, strict=True))
    )
    far = apart(K, K + 3)
    beside = region_of(K).snap(np.concatenate([far[:3] + 0.01, far[:-1]]))

    def phase(X: np.ndarray) -> str:
        inner = np.array([world.run(x, i, 11) for i, x in enumerate(X)])
        told = observed(
            np.concatenate([np.eye(K), X]),
            np.concatenate([world.told, inner]),
            world.sets,
            world.domains,
            corner=np.arange(K + len(X)) < K,
            experts=files,
        )
        return Proposer().propose(told, region_of(K), seed=0).phase

    assert phase(beside) == "design"
    assert phase(far) == "model"


def test_a_crowd_of_runs_sends_the_next_one_elsewhere(world, expert_files) -> None:
    """Three neighbours, or a third of all runs if these are more."""
    best = Proposer().propose(history(world, 0, expert_files), region(), seed=0).x

    def neighbours(crowd: int, others: int) -> int:
        rng = np.random.default_rng(0)
        X = np.concatenate(
            [np.eye(4), rng.dirichlet(400 * best + 0.1, crowd), far_from(best, others)]
        )
        told = replace(history(world, len(X) - 4, expert_files), X=X, Y=world.observed(X, 0))
        x = Proposer().propose(told, region(), seed=0).x
        return int((np.abs(X[4:] - x).sum(axis=1) < 0.25).sum())

    assert neighbours(2, 4) == 2
    assert neighbours(3, 4) < 3
    assert neighbours(5, 13) >= 3


def far_from(x: np.ndarray, n: int) -> np.ndarray:
    pool = np.random.default_rng(3).dirichlet(np.ones(4), 500)
    return pool[np.abs(pool - x).sum(axis=1) > 0.5][:n]


def region_of(K: int) -> Region:
    return Region(np.zeros(K), np.ones(K), (slice(0, K),))


def apart(K: int, n: int) -> np.ndarray:
    """Mixtures `[n, K]` that are no neighbours of each other."""
    chosen: list[np.ndarray] = []
    for x in np.random.default_rng(0).dirichlet(np.ones(K), 1000):
        if len(chosen) < n and all(np.abs(x - other).sum() > 0.5 for other in chosen):
            chosen.append(x)
    return np.array(chosen)
