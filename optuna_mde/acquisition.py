"""Acquisition functions over the posterior of the goals.

Notation: ``X`` `[n, d]` candidates, ``W`` `[G, M]` weights of the goals, minimised; ``μ, σ``
`[n, G]` posterior mean and sd of the noise-free goals. Every function here is a BoTorch
acquisition (`b x 1 x d -> b`, larger is better, logarithmic) and reads the surrogate's closed-form
posterior of all candidates at once.

The incumbent of an improvement is the best *posterior mean*, never the best observed draw: a
lucky seed is no target.

.. [Ament2023] Ament et al., Unexpected Improvements to Expected Improvement, NeurIPS 2023.
.. [Frazier2009] Frazier, Powell and Dayanik, The Knowledge-Gradient Policy for Correlated Normal
   Beliefs, INFORMS Journal on Computing 21(4), 2009.
.. [Knowles2006] Knowles, ParEGO, IEEE Trans. Evolutionary Computation 10(1), 2006.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from botorch.acquisition.acquisition import AcquisitionFunction
from botorch.models.model import Model
from botorch.posteriors.gpytorch import GPyTorchPosterior
from botorch.posteriors.posterior import Posterior
from torch import Tensor

from optuna_mde.surrogate import Surrogate

HYPERVOLUME_GOALS = 4  # box decompositions beyond four goals take too long
_CHEBYSHEV_RHO = 0.05  # [Knowles2006]_
_QMC_SAMPLES = 64
_LEAST_CHANGE = 1e-8  # a candidate that is the incumbent has nothing to gain


class Limits:
    """Upper limits on outputs, as a log-probability that they are kept.

    Args:
        limits: (index of the output, limit in nats per token).
    """

    def __init__(self, limits: Sequence[tuple[int, float]]) -> None:
        self.outputs = [i for i, _ in limits]
        self.values = torch.tensor([v for _, v in limits], dtype=torch.float64)

    def log_probability(self, mean: Tensor, sd: Tensor) -> Tensor:
        """`[n]` log-probability that all limits are kept, outputs taken as independent."""
        if not self.outputs:
            return mean.new_zeros(mean.shape[:-1])
        z = (self.values - mean[..., self.outputs]) / sd[..., self.outputs]
        return torch.special.log_ndtr(z).sum(dim=-1)

    def kept(self, means: Tensor) -> Tensor:
        """`[n]` whether losses of these means `[n, M]` keep every limit rather than not."""
        return (means[..., self.outputs] <= self.values).all(dim=-1)


class GoalAcquisition(AcquisitionFunction):
    """Base of the acquisitions that read the posterior of weighted outputs in closed form.

    Args:
        surrogate: posterior of the outputs.
        W: `G x M` weights of the goals.
        limits: upper limits of outputs.
    """

    def __init__(self, surrogate: Surrogate, W: Tensor, limits: Limits) -> None:
        torch.nn.Module.__init__(self)
        self.surrogate, self.W, self.limits = surrogate, W, limits


class LogKnowledgeGradient(GoalAcquisition):
    """Log of what one run at a candidate is expected to improve the best expected goal by.

    The knowledge gradient [Frazier2009]_ of two alternatives, the candidate and the best of the
    ``incumbents``: told the run, which has the lower mean, and by how much? Seed noise, and what
    the candidate shares with the incumbent, are discounted. An improvement as if losses were told
    without noise goes on asking beside the incumbent, where no run tells points apart: on two
    recordings (6 searches on each of 8 emulated objectives) its mean regret at 12 / 16 / 24 / 32
    runs was .0249 / .0192 / .0161 / .0149 nats, that of the knowledge gradient .0239 / .0187 /
    .0146 / .0135; without experts .0417 / .0254 / .0190 / .0145 and .0415 / .0275 / .0177 / .0131.
    Over the best mean anywhere, told or not, it was .0238 / .0178 / .0139 / .0127, but then the
    mixture to be recommended is hardly ever run, and a study's best trial is a worse one.

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
    below the spread of what is known: ``σ/2 · min(1, σ/spread)``. After 8 runs without experts the
    lowest mean often lies where no run is. Median regrets there of 48 searches (6 on each of 8
    emulated objectives; nats x 1000), without a charge, with this one and with half an sd always:
    82, 75, 144, 202 / 50, 49, 80, 91 / 40, 48, 70, 99 where the optimum is inside, 31, 44, 215,
    157 / 98, 101, 305, 258 / 85, 100, 302, 252 where it is near a corner; the mean of all was
    149 / 148 / 147. At 12 runs half an sd cost .004 +- .002 on one of the recordings, this charge
    less than .001; with experts half an sd cost .010 and .006 before any run beside them.

    Args:
        surrogate, W, limits: as in `GoalAcquisition`, for one goal.
        spread: sd of the expected goals of the runs.
    """

    def __init__(self, surrogate: Surrogate, W: Tensor, limits: Limits, spread: float) -> None:
        super().__init__(surrogate, W, limits)
        self.spread = max(spread, 1e-12)

    def forward(self, X: Tensor) -> Tensor:
        """Values `b` of candidates `b x 1 x d`."""
        mean, sd = self.surrogate.posterior(X.squeeze(-2))
        doubt = self.surrogate.spread(sd, self.W)[:, 0]
        charge = 0.5 * doubt * (doubt / self.spread).clamp_max(1.0)
        return self.limits.log_probability(mean, sd) - (mean @ self.W.mT)[:, 0] - charge


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
        self.temperature = 1e-2 * float(values.std().clamp_min(1e-6))

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
        with _uncompiled(logei):
            self.inner = logei.qLogNoisyExpectedHypervolumeImprovement(
                model=GoalModel(surrogate, W),
                ref_point=(-reference_point(mean, sd)).tolist(),
                X_baseline=baseline,
                sampler=SobolQMCNormalSampler(torch.Size([_QMC_SAMPLES]), seed=seed),
                prune_baseline=True,
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


def build(
    surrogate: Surrogate,
    W: Tensor,
    limits: Sequence[tuple[int, float]],
    incumbents: Tensor,
    seed: int,
) -> AcquisitionFunction:
    """The acquisition for these goals: KG for one, hypervolume up to four, else scalarised.

    Args:
        surrogate: fitted, and believing in the pending runs.
        W: `G x M` weights.
        limits: (index of the output, limit).
        incumbents: `[n, d]` told and pending points, inside the region.
        seed: of Monte Carlo samples and scalarisation.
    """
    kept = Limits(limits)
    with torch.no_grad():
        if len(W) == 1:
            return LogKnowledgeGradient(surrogate, W, kept, incumbents)
        if len(W) <= HYPERVOLUME_GOALS:
            return HypervolumeImprovement(surrogate, W, kept, incumbents, seed)
        generator = torch.Generator().manual_seed(seed)
        return ChebyshevImprovement(surrogate, W, kept, incumbents, generator)


def reference_point(mean: Tensor, sd: Tensor) -> Tensor:
    """A point `[G]` a tenth of the range behind the worst of the non-dominated means."""
    from botorch.utils.multi_objective.pareto import is_non_dominated

    front = mean[is_non_dominated(-mean)]
    worst, ideal = front.max(dim=0).values, front.min(dim=0).values
    return worst + torch.maximum(0.1 * (worst - ideal), sd.mean(dim=0))


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
