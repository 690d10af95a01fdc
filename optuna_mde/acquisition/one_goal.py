"""Acquisitions of one goal: what a run is expected to bring, and what to recommend.

Notation as in `goals`.

.. [Ament2023] Ament et al., Unexpected Improvements to Expected Improvement, NeurIPS 2023.
.. [Frazier2009] Frazier, Powell and Dayanik, The Knowledge-Gradient Policy for Correlated Normal
   Beliefs, INFORMS Journal on Computing 21(4), 2009.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from optuna_mde.acquisition.goals import GoalAcquisition, Limits
from optuna_mde.gp.surrogate import Surrogate

_CHARGE = 0.5  # sd that a recommendation is charged where the runs say nothing
_LEAST_CHANGE = 1e-8  # a candidate that is the incumbent has nothing to gain

# What a loss above its limit costs, by its mean and by the upper end of its interval; both in
# spreads over the runs. Steeper than a goal can gain by it, so that limits are kept exactly.
_OVER, _DOUBTFUL = 100.0, 10.0


class LogKnowledgeGradient(GoalAcquisition):
    """Log of what one run at a candidate is expected to improve the best expected goal by.

    The knowledge gradient [Frazier2009]_ of two alternatives, the candidate and the best of the
    ``incumbents``: told the run, which has the lower mean, and by how much? Seed noise, and what
    the candidate shares with the incumbent, are discounted. An improvement as if losses were told
    without noise goes on asking beside the incumbent, where no run tells points apart; over the
    best mean anywhere, told or not, the mixture to be recommended is hardly ever run.

    Args:
        surrogate, W, limits: as in `GoalAcquisition`, for one goal.
        incumbents: `[n, d]` points, the best of which is to be improved on.
        noisy: whether a run has the noise of its seed; else its loss is taken as known.
    """

    def __init__(
        self,
        surrogate: Surrogate,
        W: Tensor,
        limits: Limits,
        incumbents: Tensor,
        *,
        noisy: bool = True,
    ) -> None:
        super().__init__(surrogate, W, limits)
        noise = surrogate.spread(surrogate.noise_sd.unsqueeze(0), W)[0, 0]
        self.noise = noise if noisy else torch.zeros_like(noise)
        means = surrogate.means(incumbents)
        kept = limits.kept(means)
        # No incumbent keeps the limits: any allowed mixture improves; look for one.
        self.incumbent: Tensor | None = None
        if bool(kept.any()):
            goals = torch.where(kept, (means @ W.mT)[:, 0], torch.inf)
            self.incumbent, self.best = incumbents[int(goals.argmin())], goals.min()
            self.there = surrogate.look(self.incumbent)

    def forward(self, X: Tensor) -> Tensor:
        """Values `b` of candidates `b x 1 x d`."""
        X = X.squeeze(-2)
        if self.incumbent is None:
            return self.limits.log_probability(*self.surrogate.posterior(X))
        mean, sd, covariance = self.surrogate.posterior_beside(X, self.there)
        change = self._change(sd, covariance)
        gain = change.log() + log_improvement((self.best - (mean @ self.W.mT)[:, 0]) / change)
        return gain + self.limits.log_probability(mean, sd)

    def _change(self, sd: Tensor, covariance: Tensor) -> Tensor:
        """Sd `[b]` of how far a run moves the candidate's mean goal against the incumbent's.

        Args:
            sd: `[b, M]` of the candidates' losses.
            covariance: `[b, M]` with the incumbent's.
        """
        # Residuals of different sets are as correlated between two points as at one of them.
        squares = self.W.square().mT
        alone = (sd.square() @ squares) * (self.there.sd.square() @ squares)
        correlation = ((covariance @ squares) / alone.sqrt())[:, 0].clamp(-1.0, 1.0)
        here, there = (self.surrogate.spread(s, self.W)[:, 0] for s in (sd, self.there.sd))
        told = (here.square() + self.noise.square()).sqrt()
        return ((here.square() - correlation * here * there).abs() / told).clamp_min(_LEAST_CHANGE)


class CautiousLoss(GoalAcquisition):
    """Minus the expected goal and a charge for doubt. For recommendations.

    The charge is half an sd where nothing is known, and less in proportion where the sd `σ` is
    below the spread of what is known: ``σ/2 · min(1, σ/spread)``. After few runs without
    experts the lowest mean often lies where no run is (`python -m benchmarks.search`).

    Limits are kept by the upper ends of the losses' 90 % intervals where that can be had, by their
    means at a higher price, so that a large sd is no merit where they cannot be kept.

    Args:
        surrogate, W, limits: as in `GoalAcquisition`, for one goal.
        spread: sd of the expected goals of the runs.
        scale: `[M]` sd of the expected losses of the runs.
        reach: `[M]` half widths of the losses' intervals, in sd.
    """

    def __init__(
        self,
        surrogate: Surrogate,
        W: Tensor,
        limits: Limits,
        spread: float,
        scale: Tensor,
        reach: Tensor,
    ) -> None:
        super().__init__(surrogate, W, limits)
        self.spread, self.scale, self.reach = max(spread, 1e-12), scale, reach
        noise = float(surrogate.spread(surrogate.noise_sd.unsqueeze(0), W)[0, 0])
        self.unit = max(spread, noise)

    def forward(self, X: Tensor) -> Tensor:
        """Values `b` of candidates `b x 1 x d`."""
        mean, sd = self.surrogate.posterior(X.squeeze(-2))
        doubt = self.surrogate.spread(sd, self.W)[:, 0]
        charge = _CHARGE * doubt * (doubt / self.spread).clamp_max(1.0)
        return -(mean @ self.W.mT)[:, 0] - charge - self._price(mean, sd)

    def _price(self, mean: Tensor, sd: Tensor) -> Tensor:
        if not self.limits.outputs:
            return torch.zeros_like(mean[:, 0])
        over = self.limits.excess(mean, self.scale)
        doubtful = self.limits.excess(mean + self.reach * sd, self.scale)
        return self.unit * (_OVER * over + _DOUBTFUL * doubtful)


class LeastExcess(GoalAcquisition):
    """Minus what expected losses are above their limits by. For limits that nothing keeps.

    Args:
        surrogate, W, limits: as in `GoalAcquisition`.
        scale: `[M]` sd of the expected losses of the runs, in which the excesses are added.
    """

    def __init__(self, surrogate: Surrogate, W: Tensor, limits: Limits, scale: Tensor) -> None:
        super().__init__(surrogate, W, limits)
        self.scale = scale

    def forward(self, X: Tensor) -> Tensor:
        """Values `b` of candidates `b x 1 x d`."""
        return -self.limits.excess(self.surrogate.means(X.squeeze(-2)), self.scale)


def log_improvement(z: Tensor) -> Tensor:
    """log(φ(z) + z Φ(z)), stable for very negative z [Ament2023]_."""
    value: Tensor = _LogImprovement.apply(z)
    return value


class _LogImprovement(torch.autograd.Function):
    """Its derivative is Φ / (φ + z Φ): one step instead of the forty of its branches."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        value = _log_improvement(z)
        ctx.save_for_backward(z, value)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        z, value = ctx.saved_tensors
        return gradients[0] * (torch.special.log_ndtr(z) - value).exp()


def _log_improvement(z: Tensor) -> Tensor:
    near = z.clamp_min(-1.0)
    density = torch.exp(-0.5 * near.square()) / math.sqrt(2.0 * math.pi)
    direct = (density + near * torch.special.ndtr(near)).log()
    far = z.clamp_max(-1.0)
    # φ(z) + zΦ(z) = φ(z) (1 - |z| sqrt(π/2) erfcx(|z|/sqrt 2)); beyond 1e3 it tends to φ(z)/z².
    tail = 1.0 - far.abs() * math.sqrt(math.pi / 2.0) * torch.special.erfcx(far.abs() / 2**0.5)
    tail = torch.where(
        far < -1e3, far.clamp_max(-1e3).square().reciprocal(), tail.clamp_min(1e-12)
    )
    log_density = -0.5 * far.square() - 0.5 * math.log(2.0 * math.pi)
    return torch.where(z > -1.0, direct, log_density + tail.log())
