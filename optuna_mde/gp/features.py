"""From a mixture (and other parameters) to what the surrogate looks at.

Notation: ``X`` `[..., d]` columns of the space, K of them the rates λ of the mixture that has
experts; M outputs (validation sets), of which ``S`` sets have an MDE loss; ``z`` `[..., D]`
columns for distances, ``φ`` `[..., M, L]` regressors, ``prior`` `[..., M]` the loss expected
before any run, nats per token.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from optuna_mde.mde.coreset import Coreset, reference_mixtures, temper

# With experts, distances are taken in sqrt(λ + ε) - sqrt(ε): the Hellinger geometry models losses
# better than raw rates, but its infinite slope at 0 makes a face look far from a rate of 2 %; the
# search then distrusts faces (`python -m benchmarks.search`).
ROOT_FLOOR = 2e-3

# Without them between the root and log(1 + λ/ε), both 1 at a rate of 1: what the first tokens of a
# domain bring has to be learned from the runs, and it follows their logarithm; of larger rates a
# logarithm sees too little (`python -m benchmarks.prediction`).
LOG_FLOOR, LOG_SHARE = 5e-4, 0.3

# The prior mean is MDE at weights ∝ λ^α. Which α is best depends on the runs; how far a set wants
# another one is learned through the difference of two (`python -m benchmarks.prediction`).
PRIOR_EXPONENT = 0.9
FLAT_EXPONENT, SHARP_EXPONENT = 0.5, 1.0

# Slopes of two learning curves, nats per e-fold of tokens, see `Features._curve`
# (`python -m benchmarks.prediction`).
SLOPES = (0.5, 1.0)

# What the regressors leave unexplained is larger the more one domain dominates: its sd is taken as
# exp(1.5 (Σλ² - .3)) times that of a balanced mixture (`python -m benchmarks.search`).
GROWTH, BALANCED = 1.5, 0.3

N_REGRESSORS = 7  # offset, level, dilution, bend, gap, curve, steepness

_REFERENCES = 128


class Features:
    """Lifts inputs of the space to the inputs of the surrogate.

    Args:
        dim: number of columns d of the space.
        blocks: the mixtures' columns.
        outputs: names of the M outputs.
        block: columns of the mixture that has experts, or None.
        coreset: MDE losses of that mixture, or None.
        shares: `R x K` of the K domains in each of R older ones, whose experts the coreset has
            after those of the K. Inputs of older runs have R further columns: what they trained of
            these, while their rates are those by share.
    """

    def __init__(
        self,
        dim: int,
        blocks: Sequence[slice],
        outputs: Sequence[str],
        block: slice | None = None,
        coreset: Coreset | None = None,
        shares: Tensor | None = None,
    ) -> None:
        self.dim = dim
        self.blocks = tuple(blocks)
        self.outputs = tuple(outputs)
        known = coreset is not None and block is not None and len(coreset.sets) > 0
        self.block = block if known else None
        self.coreset = coreset if known else None
        sets = self.coreset.sets if self.coreset is not None else ()
        self._shares = shares if known and shares is not None and len(shares) else None
        self._own = [sets.index(name) if name in sets else -1 for name in self.outputs]
        self.has_mde = torch.tensor([own >= 0 for own in self._own])
        self._corners = self._corner_losses()
        self._centre, self._scale, self._unit, self._alike = self._standards()

    @property
    def n_rates(self) -> int:
        """Columns of `z` that are rates, of all mixtures."""
        return sum(b.stop - b.start for b in self.blocks)

    @property
    def n_other(self) -> int:
        """Columns of `z` that are other parameters."""
        return self.dim - self.n_rates

    @property
    def n_mde(self) -> int:
        """Columns of `z` that are MDE losses."""
        return len(self.coreset.sets) if self.coreset is not None else 0

    @property
    def n_blended(self) -> int:
        """Columns of `blended`: the rates of the mixture that has experts, else of all."""
        return self.n_rates if self.block is None else self.block.stop - self.block.start

    @cached_property
    def known_whole(self) -> Tensor:
        """`[M]` whether as many experts kept the output's log-probabilities as those of any set.

        Where an expert lacks it, MDE speaks of the others alone, whatever the lacking one would
        have said.
        """
        kept = [0] * len(self.outputs)
        if self.coreset is not None:
            n = self.n_blended  # older domains' experts come after these
            counts = [int((tokens.experts < n).sum()) for tokens in self.coreset.tokens]
            kept = [counts[own] if own >= 0 else 0 for own in self._own]
        return torch.tensor(kept) == max(kept, default=0)

    @property
    def scale(self) -> Tensor:
        """`[M]` spread of each output's MDE loss over mixtures of every kind, at least that of
        `with_spread`; NaN without one."""
        return self._per_output(self._scale)

    @property
    def likeness(self) -> Tensor:
        """`M x M` correlation of the outputs' MDE losses over mixtures of every kind; NaN without
        one."""
        return self._per_output(self._per_output(self._alike).mT)

    @cached_property
    def units(self) -> Tensor:
        """`M x L` what one unit of `lift`'s regressors stands for: 1 of offset and dilution, whose
        coefficients are in nats per token, else nats per token; 0 without MDE loss."""
        if self.coreset is None:
            return torch.zeros(len(self.outputs), N_REGRESSORS, dtype=torch.float64)
        ones = torch.ones_like(self._scale)
        units = torch.stack([ones, self._scale, ones, *self._unit])  # [L, S]
        return self._per_output(units, torch.zeros_like(units[:, :1])).mT

    def on(self, losses: Coreset) -> Features:
        """The same features, in the same units, on MDE losses of the same sets from elsewhere."""
        assert self.coreset is not None
        assert losses.sets == self.coreset.sets
        other = copy.copy(self)
        other.coreset = losses
        other._corners = other._corner_losses()
        return other

    def with_spread(self, least: Tensor) -> Features:
        """The same features, in which no output's MDE loss counts as spread by less than `[M]`."""
        other = copy.copy(self)
        other.__dict__.pop("units", None)  # which is cached
        other._scale = self._scale.clone()
        own = torch.tensor(self._own)[self.has_mde]
        other._scale[own] = torch.maximum(self._scale[own], least[self.has_mde])
        return other

    def lift(self, X: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The surrogate's inputs.

        Args:
            X: `batch_shape x d`, float64.

        Returns:
            ``z`` `batch_shape x D` (the rates as distances see them, other parameters,
            standardised MDE losses), ``φ`` `batch_shape x M x L`, ``prior`` `batch_shape x M` (0
            where an output has no MDE loss).
        """
        z = torch.cat([*map(self._apart, self._rates(X)), self._others(X)], dim=-1)
        ones = X.new_ones(*X.shape[:-1], len(self.outputs))
        if self.coreset is None:
            nothing = torch.zeros_like(ones)
            return z, torch.stack([ones] + [nothing] * (N_REGRESSORS - 1), dim=-1), nothing
        mde, terms = self._mde(self._ingredients(X))
        level = (mde - self._centre) / self._scale
        none = torch.zeros_like(terms[..., :1])
        # An output of its own kind (no expert kept it) is told by the average of the others.
        own_level = self._per_output(level, level.mean(dim=-1, keepdim=True))
        own_terms = self._per_output(terms / self._unit, none)  # [..., 4, M]
        dilution = (1.0 - self._concentration(X)).expand_as(ones)
        first = torch.stack([ones, own_level, dilution], dim=-1)
        phi = torch.cat([first, own_terms.mT], dim=-1)
        return torch.cat([z, level], dim=-1), phi, self._per_output(mde, none[..., 0, :])

    def amplitude(self, X: Tensor) -> Tensor:
        """Sd `[..., 1]` of what the regressors leave unexplained, 1 for balanced mixtures."""
        if self.coreset is None:
            return X.new_ones(*X.shape[:-1], 1)
        return (GROWTH * (self._concentration(X) - BALANCED)).exp()

    def blended(self, X: Tensor) -> Tensor:
        """Rates `[..., n_blended]` whose blends count, and by which the experts' own seed noise
        enters; none where the study has no mixture."""
        if self.block is not None:
            return X[..., self.block]
        return torch.cat([X[..., :0], *self._rates(X)], dim=-1)

    def _ingredients(self, X: Tensor) -> Tensor:
        """Rates `[..., K + R]` of the experts that MDE mixes."""
        rates = X[..., self.block]
        if self._shares is None:
            return rates
        if X.shape[-1] == self.dim:
            return nn.functional.pad(rates, (0, len(self._shares)))
        held = X[..., self.dim :]
        return torch.cat([(rates - held @ self._shares).clamp_min(0.0), held], dim=-1)

    def _concentration(self, X: Tensor) -> Tensor:
        """Σλ² `[..., 1]` of the mixture that has experts: 1 at a corner."""
        return X[..., self.block].square().sum(dim=-1, keepdim=True)

    def _rates(self, X: Tensor) -> list[Tensor]:
        return [X[..., b].clamp_min(0.0) for b in self.blocks]

    def _apart(self, rates: Tensor) -> Tensor:
        """Rates as distances see them."""
        roots = (rates + ROOT_FLOOR).sqrt() - ROOT_FLOOR**0.5
        if self.coreset is not None:
            return roots
        logs = (rates / LOG_FLOOR).log1p() / math.log1p(1.0 / LOG_FLOOR)
        return (1.0 - LOG_SHARE) * roots + LOG_SHARE * logs

    def _others(self, X: Tensor) -> Tensor:
        taken = {j for b in self.blocks for j in range(b.start, b.stop)}
        return X[..., [j for j in range(self.dim) if j not in taken]]

    def _mde(self, rates: Tensor) -> tuple[Tensor, Tensor]:
        """Tempered MDE losses `[..., S]`, and terms `[..., 4, S]` that correct them.

        In nats per token: *bend*, how the loss moves with the exponent; *gap*,
        ``Σ_j λ_j L(corner j) - L(λ)``, what the mixture of probabilities gains on the mixture of
        the experts' losses (at least 0 by convexity, and 0 at the corners); *curve*, how far a
        learning curve departs from MDE; *steepness*, how far a steeper one departs from that.
        """
        assert self.coreset is not None
        exponents = (PRIOR_EXPONENT, FLAT_EXPONENT, SHARP_EXPONENT)
        tempered = torch.stack([temper(rates, exponent) for exponent in exponents])
        prior, flat, sharp = self.coreset.losses(tempered)
        curve, steep = (self._curve(rates, slope) for slope in SLOPES)
        terms = (sharp - flat, rates @ self._corners - sharp, curve - sharp, steep - curve)
        return prior, torch.stack(terms, dim=-2)

    def _curve(self, rates: Tensor, slope: float) -> Tensor:
        """Losses `[..., S]` of a learning curve, nats per token.

        ``-s log Σ_j λ_j exp(-L(corner j) / s)``: tokens of every domain count as that many of the
        best one's that would give the same loss, and e times as many lower the loss by the slope
        s. MDE lets each token choose its expert; this is what choosing one for the whole set
        gives. Exact at the corners.
        """
        best = self._corners.min(dim=0).values
        return best - slope * (rates @ ((best - self._corners) / slope).exp()).log()

    def _corner_losses(self) -> Tensor:
        """Losses `[K, S]` of every domain alone."""
        if self.coreset is None:
            return torch.zeros(0, dtype=torch.float64)
        return self.coreset.losses(torch.eye(len(self.coreset.domains), dtype=torch.float64))

    def _standards(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Over reference mixtures, centre and spread `[S]` of the MDE losses, spread `[4, S]` of
        the terms, and correlation `[S, S]` of the MDE losses."""
        if self.coreset is None:
            empty = torch.zeros(0, dtype=torch.float64)
            return empty, empty, empty, empty.reshape(0, 0)
        rng = np.random.default_rng(0)
        older = 0 if self._shares is None else len(self._shares)
        references = reference_mixtures(_REFERENCES, len(self.coreset.domains) - older, rng)
        mde, terms = self._mde(nn.functional.pad(torch.from_numpy(references), (0, older)))
        scale, unit = (v.std(dim=0).clamp_min(1e-6) for v in (mde, terms))
        centre = mde.mean(dim=0)
        standard = (mde - centre) / scale
        return centre, scale, unit, standard.mT @ standard / (len(references) - 1)

    def _per_output(self, values: Tensor, otherwise: Tensor | None = None) -> Tensor:
        """Columns `[..., S]` of sets to columns `[..., M]` of outputs."""
        if otherwise is None:
            otherwise = values.new_full((*values.shape[:-1], 1), float("nan"))
        return torch.cat([values, otherwise], dim=-1)[..., self._own]
