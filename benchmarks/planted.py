"""Planted worlds: test objectives whose truth is known, and of which MDE is right or wrong.

Notation: K domains, M validation sets of T tokens, rates λ `[n, K]`, losses `[n, M]` in nats per
token. A world gives every expert a file of token log-probabilities, the noise-free loss of any
mixture, and the noise of a run. The loss that an expert's trial reports is the mean of its file,
except where a world says otherwise.

==================  ==============================================================================
exact               the losses are those of MDE
useless             exact at the corners, a random landscape inside
interact            two domains need each other: the optimum is on their edge, far from MDE's
longer              experts .4 nats better than the runs, passed in as files
scaled              experts of a smaller model, passed in: level and slope differ by set
half                MDE is right for the first half of the sets, useless for the others
flat                no mixture matters, and the files promise a dip
alike               MDE is right, of domains nearly alike: noise is most of what there is
scarce              one domain's expert is overtrained: its file is .6 nats worse than the domain
power               a power law in the tokens that serve a set; MDE has the corners alone
wrong file          one file is in base 10, and contradicts the loss that its trial reported
accident            MDE is right, and three runs diverged (+5 nats)
==================  ==============================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from benchmarks.emulator import lowest
from benchmarks.peers import Array

DOMAINS, SETS, TOKENS = 5, 4, 2000
_TYPICAL, _GAP, _ROUGH = -3.5, 1.5, 0.5  # log-probabilities: mean, gain of the own expert, sd


@dataclass(frozen=True)
class World:
    """One planted truth.

    Args:
        name: of the kind of world.
        logprobs: `[K, M, T]` what the experts' files hold.
        losses: noise-free losses `[n, M]` of mixtures `[n, K]`.
        noise: sd of a run's loss on one set, nats per token; sets are independent.
        passed: whether the experts are files that exist, so that no corner is run.
        told: `[K, M]` losses that the experts' trials report.
        diverged: numbers of the runs, beside the experts, that end 5 nats higher.
    """

    name: str
    logprobs: Array
    losses: Callable[[Array], Array]
    noise: float
    passed: bool
    told: Array
    diverged: tuple[int, ...] = ()
    domains: tuple[str, ...] = field(default=())
    sets: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        K, M, _ = self.logprobs.shape
        object.__setattr__(self, "domains", tuple(f"d{j}" for j in range(K)))
        object.__setattr__(self, "sets", tuple(f"s{i}" for i in range(M)))

    def mean(self, rates: Array) -> Array:
        """Noise-free mean of all sets `[n]`."""
        return np.asarray(self.losses(np.atleast_2d(rates)).mean(axis=1))

    def run(self, rates: Array, number: int, seed: int) -> Array:
        """Losses `[M]` of the number-th run of a study, experts not counted."""
        rng = np.random.default_rng([seed, number])
        noise = self.noise * rng.standard_normal(len(self.sets))
        return self.losses(rates[None])[0] + noise + (5.0 if number in self.diverged else 0.0)

    def minimum(self) -> tuple[Array, float]:
        """The mixture with the lowest mean, and that loss."""
        return lowest(self.mean, len(self.domains))


def make(name: str, seed: int) -> World:
    """A world of a kind; another one for every seed."""
    rng = np.random.default_rng([seed, sorted(KINDS).index(name)])
    return KINDS[name](rng)


def _logprobs(rng: np.random.Generator, gap: float = _GAP) -> Array:
    """Every token has a domain that predicts it best; how often which, depends on the set."""
    shape = (DOMAINS, SETS, TOKENS)
    shares = rng.dirichlet(np.full(DOMAINS, 2.0), SETS)
    kind = np.stack([rng.choice(DOMAINS, TOKENS, p=p) for p in shares])  # [M, T]
    own = kind[None] == np.arange(DOMAINS)[:, None, None]
    common = rng.normal(_TYPICAL, 1.0, shape[1:])
    values = common + gap * own + rng.normal(0.0, _ROUGH, shape)
    return np.minimum(values, -1e-3)


def mde(logprobs: Array) -> Callable[[Array], Array]:
    """MDE losses: minus the mean over tokens of ``log Σ_j λ_j p_j``."""
    top = logprobs.max(axis=0)
    ratios = np.exp(logprobs - top)  # [K, M, T]

    def losses(rates: Array) -> Array:
        mixed = np.einsum("nk,kmt->nmt", rates, ratios, optimize=True)
        return np.asarray(-(np.log(np.maximum(mixed, 1e-300)) + top).mean(axis=-1))

    def chunked(rates: Array) -> Array:
        rates = np.atleast_2d(rates)
        return np.concatenate(
            [losses(part) for part in np.array_split(rates, max(len(rates) // 200, 1))]
        )

    return chunked


def _corners(logprobs: Array) -> Array:
    return np.asarray(-logprobs.mean(axis=-1))


def _landscape(rng: np.random.Generator, size: float) -> Callable[[Array], Array]:
    """A smooth random function that vanishes at the corners, `[n, K]` to `[n, M]`."""
    pairs = rng.normal(0.0, size, (SETS, DOMAINS, DOMAINS))
    waves = rng.normal(0.0, 3.0, (SETS, DOMAINS))
    phase = rng.uniform(0.0, 2 * np.pi, SETS)

    def values(rates: Array) -> Array:
        quadratic = np.einsum(
            "nj,mjk,nk->nm",
            rates,
            pairs - np.einsum("mjj->mj", pairs)[:, :, None] * np.eye(DOMAINS),
            rates,
        )
        inside = 1.0 - np.square(rates).sum(axis=1, keepdims=True)
        return np.asarray(2.0 * quadratic + size * inside * np.sin(rates @ waves.T + phase))

    return values


def _exact(rng: np.random.Generator) -> World:
    logprobs = _logprobs(rng)
    return World("exact", logprobs, mde(logprobs), 0.01, False, _corners(logprobs))


def _useless(rng: np.random.Generator) -> World:
    logprobs = _logprobs(rng)
    told, bumps = _corners(logprobs), _landscape(rng, 0.3)
    return World("useless", logprobs, lambda r: r @ told + bumps(r), 0.01, False, told)


def _interact(rng: np.random.Generator) -> World:
    logprobs = _logprobs(rng)
    told, base = _corners(logprobs), mde(logprobs)
    a, b = rng.choice(DOMAINS, 2, replace=False)

    def losses(rates: Array) -> Array:
        together = 4.0 * rates[:, a] * rates[:, b]
        apart = 1.0 - np.square(rates).sum(axis=1)
        return np.asarray(base(rates) + (2.0 * apart - 2.5 * together)[:, None])

    return World("interact", logprobs, losses, 0.01, False, told)


def _longer(rng: np.random.Generator) -> World:
    world = _exact(rng)
    return replace(
        world, name="longer", losses=lambda r: mde(world.logprobs)(r) + 0.4, passed=True
    )


def _scaled(rng: np.random.Generator) -> World:
    world = _exact(rng)
    slope, level = rng.uniform(0.7, 1.3, SETS), rng.uniform(-0.8, -0.3, SETS)
    base = mde(world.logprobs)
    centre = base(np.full((1, DOMAINS), 1.0 / DOMAINS))
    return replace(
        world,
        name="scaled",
        losses=lambda r: centre + level + slope * (base(r) - centre),
        passed=True,
    )


def _half(rng: np.random.Generator) -> World:
    logprobs = _logprobs(rng)
    told, bumps, base = _corners(logprobs), _landscape(rng, 0.3), mde(logprobs)
    right = np.arange(SETS) < SETS // 2
    return World(
        "half",
        logprobs,
        lambda r: np.where(right, base(r), r @ told + bumps(r)),
        0.01,
        False,
        told,
    )


def _flat(rng: np.random.Generator) -> World:
    logprobs = _logprobs(rng)
    # Experts differ on every token and not on a set as a whole: no corner is better.
    logprobs = np.minimum(logprobs - logprobs.mean(axis=-1, keepdims=True) - 3.2, -1e-3)
    logprobs -= logprobs.mean(axis=-1, keepdims=True) + 3.2
    told = _corners(logprobs)
    level = float(told.mean())
    noisy = level + 0.01 * rng.standard_normal(told.shape)
    logprobs = np.minimum(logprobs - (noisy - told)[..., None], -1e-9)
    return World(
        "flat",
        logprobs,
        lambda r: np.full((len(r), SETS), level),
        0.01,
        False,
        _corners(logprobs),
    )


def _alike(rng: np.random.Generator) -> World:
    logprobs = _logprobs(rng, gap=0.6)
    # What each expert has of its own is small as well, else all mixing gains.
    common = logprobs.mean(axis=0, keepdims=True)
    logprobs = np.minimum(common + 0.5 * (logprobs - common), -1e-3)
    return World("alike", logprobs, mde(logprobs), 0.02, False, _corners(logprobs))


def _scarce(rng: np.random.Generator) -> World:
    logprobs = _logprobs(rng)
    base = mde(logprobs)
    spoiled = logprobs.copy()
    spoiled[0] -= 0.6
    return World("scarce", spoiled, base, 0.01, False, _corners(spoiled))


def _power(rng: np.random.Generator) -> World:
    logprobs = _logprobs(rng)
    serves = rng.dirichlet(np.full(DOMAINS, 0.5), SETS)  # [M, K]
    serves /= serves.max(axis=1, keepdims=True)
    exponent = rng.uniform(0.2, 0.5, SETS)

    def losses(rates: Array) -> Array:
        tokens = 0.02 + rates @ serves.T
        return np.asarray(2.0 + 0.5 * tokens**-exponent)

    told = losses(np.eye(DOMAINS))
    # Files whose means are the told losses: right at the corners, and nowhere else.
    logprobs = logprobs - logprobs.mean(axis=-1, keepdims=True) - told[..., None]
    return World("power", np.minimum(logprobs, -1e-9), losses, 0.01, False, told)


def _wrong_file(rng: np.random.Generator) -> World:
    world = _exact(rng)
    spoiled = world.logprobs.copy()
    spoiled[1] /= np.log(10.0)
    return replace(world, name="wrong file", logprobs=spoiled)


def _accident(rng: np.random.Generator) -> World:
    return replace(_exact(rng), name="accident", diverged=(3, 6, 11))


KINDS: dict[str, Callable[[np.random.Generator], World]] = {
    "exact": _exact,
    "useless": _useless,
    "interact": _interact,
    "longer": _longer,
    "scaled": _scaled,
    "half": _half,
    "flat": _flat,
    "alike": _alike,
    "scarce": _scarce,
    "power": _power,
    "wrong file": _wrong_file,
    "accident": _accident,
}
