"""Which runs a recording makes, and in which order.

Rates are rounded to `DIGITS` decimals before anything is trained, so that the table in CSV holds
exactly what was run. The order makes a partial recording useful: full experts, natural, uniform,
a few mixtures, the cheap experts, then mixtures of all kinds with their repeats among them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from benchmarks.recording.config import FaceConfig, RecordingConfig
from benchmarks.tables import DIRICHLET, EXPERT, FACE, NATURAL, REPEAT, UNIFORM

DIGITS = 6
BEFORE_CHEAP_EXPERTS = 12  # mixtures


@dataclass(frozen=True)
class Job:
    """One run of a recording."""

    kind: str
    """One of `benchmarks.tables.KINDS`."""
    rates: tuple[float, ...]
    """`[K]`, in the order of the domains, summing to 1."""
    seed: int
    budget: float = 1.0
    """Share of a full run's steps."""


def design(
    config: RecordingConfig, natural: Mapping[str, float], *, training_seed: int
) -> list[Job]:
    """All runs, in the order in which they are made; a run's index is its place here.

    Args:
        config: what to draw.
        natural: domain -> rate, in the order of the domains.
        training_seed: seed of every run but the repeats, which have the seeds after it.
    """
    num_domains = len(natural)
    corners = [tuple(row) for row in np.eye(num_domains).tolist()]
    reference = [
        Job(NATURAL, rounded(np.array(list(natural.values()))), training_seed),
        Job(UNIFORM, rounded(np.full(num_domains, 1 / num_domains)), training_seed),
    ]
    drawn = [Job(kind, rates, training_seed) for kind, rates in _mixtures(config, num_domains)]
    jobs = [Job(EXPERT, corner, training_seed) for corner in corners] + reference
    cheap = [
        Job(EXPERT, corner, training_seed, budget)
        for budget in config.expert_budgets
        for corner in corners
    ]
    rest = _with_repeats(config, reference, drawn, training_seed)
    return jobs + rest[:BEFORE_CHEAP_EXPERTS] + cheap + rest[BEFORE_CHEAP_EXPERTS:]


def rounded(rates: np.ndarray) -> tuple[float, ...]:
    """Rates `[K]` with `DIGITS` decimals that sum to 1; the largest takes up what is over."""
    units = np.round(rates / rates.sum() * 10**DIGITS).astype(int)
    units[units.argmax()] += 10**DIGITS - units.sum()
    return tuple(float(f"{unit / 10**DIGITS:.{DIGITS}f}") for unit in units)


def _mixtures(
    config: RecordingConfig, num_domains: int
) -> Iterator[tuple[str, tuple[float, ...]]]:
    """Drawn mixtures with their kinds, group by group."""
    generator = np.random.default_rng(config.seed)
    for group in config.dirichlet:
        alpha = np.full(num_domains, group.concentration)
        for row in generator.dirichlet(alpha, group.number):
            yield DIRICHLET, rounded(row)
    for face in config.faces:
        for chosen in _faces(face, num_domains, generator):
            rates = np.zeros(num_domains)
            rates[list(chosen)] = generator.dirichlet(np.ones(face.domains))
            yield FACE, rounded(rates)


def _faces(
    face: FaceConfig, num_domains: int, generator: np.random.Generator
) -> list[tuple[int, ...]]:
    """Faces of one dimension in random order; none comes twice before all have come once."""
    every = list(combinations(range(num_domains), face.domains))
    chosen: list[tuple[int, ...]] = []
    while len(chosen) < face.number:
        chosen += [every[i] for i in generator.permutation(len(every))]
    return chosen[: face.number]


def _with_repeats(
    config: RecordingConfig,
    reference: Sequence[Job],
    drawn: Sequence[Job],
    training_seed: int,
) -> list[Job]:
    """Drawn mixtures in random order, each repeat right behind its first run."""
    # Evenly over the groups, which stand one after the other: every kind is repeated.
    step = len(drawn) / max(config.repeats.mixtures, 1)
    chosen = {int((i + 0.5) * step) for i in range(config.repeats.mixtures)}
    order = np.random.default_rng((config.seed, 1)).permutation(len(drawn))
    seeds = range(training_seed + 1, training_seed + 1 + config.repeats.seeds)
    jobs: list[Job] = []
    for place in order:
        jobs.append(drawn[place])
        if place in chosen:
            jobs += [Job(REPEAT, drawn[place].rates, seed) for seed in seeds]
    again = [
        Job(REPEAT, job.rates, training_seed + 1 + i)
        for i in range(config.repeats.reference_seeds)
        for job in reference
    ]
    gap = len(jobs) // (len(again) + 1)
    for number, job in enumerate(again, 1):
        jobs.insert(number * gap + number - 1, job)
    return jobs
