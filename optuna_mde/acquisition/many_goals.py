"""Acquisitions of several goals: hypervolume for few, random scalarisations for many.

Notation as in `goals`.

.. [Knowles2006] Knowles, ParEGO, IEEE Trans. Evolutionary Computation 10(1), 2006.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from botorch.acquisition.acquisition import AcquisitionFunction
from botorch.models.model import Model
from botorch.posteriors.gpytorch import GPyTorchPosterior
from botorch.posteriors.posterior import Posterior
from torch import Tensor

from optuna_mde.acquisition.goals import GoalAcquisition, Limits
from optuna_mde.gp.surrogate import Surrogate

_CHEBYSHEV_RHO = 0.05  # [Knowles2006]_
_SMOOTHED = 1e-2  # sd of the points' scalarised goals, over which an improvement is smoothed
_QMC_SAMPLES = 64
_PRUNING_SAMPLES = 2048  # BoTorch's number: a told point on no front in any of them is left out
_BEHIND = 0.1  # of the front's range, how far the reference point lies behind its worst


class ChebyshevImprovement(GoalAcquisition):
    """log EI of a random augmented Chebyshev scalarisation of many goals [Knowles2006]_."""

    def __init__(
        self,
        surrogate: Surrogate,
        W: Tensor,
        limits: Limits,
        incumbents: Tensor,
        generator: torch.Generator,
    ) -> None:
        super().__init__(surrogate, W, limits)
        G = len(W)
        means = surrogate.means(incumbents)
        mean = means @ W.mT
        self.ideal = mean.min(dim=0).values
        self.range = (mean.max(dim=0).values - self.ideal).clamp_min(1e-9)
        draws = torch.rand(G, generator=generator, dtype=torch.float64).clamp_min(1e-9)
        self.preference = draws.log() / draws.log().sum()  # uniform on the simplex
        self.draws = torch.randn(_QMC_SAMPLES, G, generator=generator, dtype=torch.float64)
        values = self._scalarise(mean)
        kept = limits.kept(means)
        self.best = values[kept].min() if bool(kept.any()) else values.max()
        self.temperature = _SMOOTHED * float(values.std().clamp_min(1e-6))

    def forward(self, X: Tensor) -> Tensor:
        """Values `b` of candidates `b x 1 x d`; the improvement is smoothed to keep a gradient."""
        mean, sd = self.surrogate.posterior(X.squeeze(-2))
        spread = self.surrogate.spread(sd, self.W)
        samples = (mean @ self.W.mT).unsqueeze(-2) + spread.unsqueeze(-2) * self.draws  # [b, S, G]
        better = (self.best - self._scalarise(samples)) / self.temperature
        gain = torch.nn.functional.softplus(better).clamp_min(1e-300).log().logsumexp(dim=-1)
        return gain + self.limits.log_probability(mean, sd)

    def _scalarise(self, goals: Tensor) -> Tensor:
        scaled = self.preference * (goals - self.ideal) / self.range
        return scaled.max(dim=-1).values + _CHEBYSHEV_RHO * scaled.sum(dim=-1)


class HypervolumeImprovement(AcquisitionFunction):
    """BoTorch's qLogNEHVI of the goals, with the limits' log-probability."""

    def __init__(
        self, surrogate: Surrogate, W: Tensor, limits: Limits, incumbents: Tensor, seed: int
    ) -> None:
        from botorch.acquisition.multi_objective import logei
        from botorch.sampling.normal import SobolQMCNormalSampler

        torch.nn.Module.__init__(self)
        self.surrogate, self.limits = surrogate, limits
        means, sd = surrogate.posterior(incumbents)
        mean, sd = means @ W.mT, surrogate.spread(sd, W)
        kept = limits.kept(means)
        baseline = incumbents[kept] if bool(kept.any()) else incumbents
        model, reference = GoalModel(surrogate, W), -reference_point(mean, sd)
        # BoTorch's own pruning draws from torch's global generator: unlike in every process.
        many = SobolQMCNormalSampler(torch.Size([_PRUNING_SAMPLES]), seed=seed)
        with _uncompiled(logei):
            self.inner = logei.qLogNoisyExpectedHypervolumeImprovement(
                model=model,
                ref_point=reference.tolist(),
                X_baseline=baseline[_on_a_front(many(model.posterior(baseline)), reference)],
                sampler=SobolQMCNormalSampler(torch.Size([_QMC_SAMPLES]), seed=seed),
                cache_root=False,
            )

    def forward(self, X: Tensor) -> Tensor:
        """Values `b` of candidates `b x 1 x d`."""
        mean, sd = self.surrogate.posterior(X.squeeze(-2))
        value: Tensor = self.inner(X)
        return value + self.limits.log_probability(mean, sd)


@contextlib.contextmanager
def _uncompiled(logei: Any) -> Iterator[None]:
    """Keep BoTorch from compiling a kernel within the first ask, which takes longer than a search.

    A worker killed meanwhile would leave a lock behind, at which every later process waits.
    """
    attempted, logei._load_attempted = logei._load_attempted, True
    try:
        yield
    finally:
        logei._load_attempted = attempted


class GoalModel(Model):
    """The goals as a BoTorch model, maximised: minus the weighted means, goals independent."""

    def __init__(self, surrogate: Surrogate, W: Tensor) -> None:
        super().__init__()
        self.surrogate, self.W = surrogate, W

    @property
    def num_outputs(self) -> int:
        """Number of goals G."""
        return len(self.W)

    @property
    def batch_shape(self) -> torch.Size:
        """The model has no batch of its own."""
        return torch.Size()

    def posterior(
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: object = None,
    ) -> Posterior:
        """Joint posterior over `b x q x d` points."""
        from gpytorch.distributions import MultitaskMultivariateNormal, MultivariateNormal
        from linear_operator import to_linear_operator

        assert output_indices is None
        assert posterior_transform is None
        mean, covariance = self.surrogate.joint_goals(X, self.W)  # b x q x G, b x G x q x q
        # as an operator, a candidate that repeats a told run costs some jitter and no failure
        normals = [
            MultivariateNormal(-mean[..., g], to_linear_operator(covariance[..., g, :, :]))
            for g in range(len(self.W))
        ]
        if len(normals) == 1:
            return GPyTorchPosterior(normals[0])
        return GPyTorchPosterior(MultitaskMultivariateNormal.from_independent_mvns(normals))


def _on_a_front(samples: Tensor, reference: Tensor) -> Tensor:
    """Which points `[n]` are on the front in any of the samples `[s, n, G]`, maximised, and
    better there than the reference point `[G]`."""
    from botorch.utils.multi_objective.pareto import is_non_dominated

    good = is_non_dominated(samples, deduplicate=False) & (samples > reference).all(dim=-1)
    return good.any(dim=0)


def reference_point(mean: Tensor, sd: Tensor) -> Tensor:
    """A point `[G]` a tenth of the range behind the worst of the non-dominated means."""
    from botorch.utils.multi_objective.pareto import is_non_dominated

    front = mean[is_non_dominated(-mean)]
    worst, ideal = front.max(dim=0).values, front.min(dim=0).values
    return worst + torch.maximum(_BEHIND * (worst - ideal), sd.mean(dim=0))
