"""Which runs are taken for diverged ones: those that no mixture explains."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from optuna_mde.gp.accidents import accidents, pulled_in


def losses(n: int = 20, M: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(3.0 + np.random.default_rng(seed).normal(0.0, 0.1, (n, M)))


@pytest.mark.parametrize("M", [1, 4])
@pytest.mark.parametrize("numbers", [(7,), (0, 9, 19)])
def test_runs_far_above_all_others_are_accidents(M: int, numbers: tuple[int, ...]) -> None:
    Y = losses(M=M)
    Y[list(numbers)] += 5.0
    assert accidents(Y).nonzero()[:, 0].tolist() == list(numbers)
    kept, diverged = pulled_in(Y)
    others = Y[~diverged]
    assert (kept[diverged] <= others.max(dim=0).values).all()
    torch.testing.assert_close(kept[~diverged], others)


@pytest.mark.parametrize("value", [11.0, 1e30, torch.inf])
def test_whatever_they_end_at(value: float) -> None:
    Y = losses()
    Y[3] = value
    assert accidents(Y).nonzero().tolist() == [[3]]
    assert pulled_in(Y)[0].isfinite().all()


def test_a_set_that_lacks_its_domain_is_none() -> None:
    """A corner of another domain is far above on one set, and the others are as they are."""
    Y = losses()
    Y[5, 2] += 4.0
    assert not accidents(Y).any()


def test_all_runs_far_from_what_mde_says_are_none() -> None:
    """They are judged by each other: that all are half a nat off is no accident."""
    Y = losses()
    Y[5:] += 0.5
    assert not accidents(Y).any()


def test_a_diverged_run_that_reports_one_set_alone() -> None:
    """Sets have levels of their own: 7 nats are many where runs have 3, though others have 9."""
    Y = losses(M=3) + torch.tensor([0.0, 6.0, 6.0]).double()
    Y[4] = torch.tensor([7.0, torch.nan, torch.nan])
    assert accidents(Y).nonzero().tolist() == [[4]]


def test_few_runs_tell_no_accident() -> None:
    Y = losses(5)
    Y[0] += 5.0
    assert not accidents(Y).any()
    assert not accidents(Y[:0]).any()


def test_absent_losses_do_not_count() -> None:
    Y = losses()
    Y[4] = torch.nan
    Y[6, :2] = torch.nan
    Y[6, 2:] += 5.0
    assert accidents(Y).nonzero().tolist() == [[6]]
