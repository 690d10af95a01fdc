"""The prior of scales: a level, departures from it, and tails that reach far."""

from __future__ import annotations

import torch

from optuna_mde.gp.tails import HeavyTailed, Tails

PRIOR = HeavyTailed(torch.tensor([-2.0, -2.0, -1.0]).double(), Tails(1.0, 0.2, 0.5))


def density(*away: float) -> float:
    return float(PRIOR.log_prob(PRIOR.median + torch.tensor(away).double()).sum())


def test_the_median_is_the_mode() -> None:
    assert density(0.0, 0.0, 0.0) == 0.0
    assert density(0.3, 0.0, 0.0) < 0.0


def test_it_is_student_t_of_the_level_and_of_departures() -> None:
    t = torch.distributions.StudentT(4.0)

    def terms(*values: float) -> float:
        found = t.log_prob(torch.tensor(values).double()) - t.log_prob(torch.tensor(0.0))
        return float(found.sum())

    assert abs(density(2.0, 2.0, 2.0) - terms(2.0)) < 1e-6
    assert abs(density(-0.4, -0.4, -0.4) - terms(-0.4 / 0.2)) < 1e-6
    assert abs(density(1.0, -1.0, 0.0) - terms(2.0, -2.0)) < 1e-6


def test_all_together_move_more_easily_than_one_and_upwards_than_down() -> None:
    assert density(2.0, 2.0, 2.0) > density(2.0, 0.0, 0.0)
    assert density(1.0, 1.0, 1.0) > density(-1.0, -1.0, -1.0)
