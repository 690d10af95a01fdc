"""Searches for a mixture, each as its users would run it.

A search is a function ``(problem, seed) -> Iterator[Answer]``: it trains what it likes through
`Problem.run`, and says after every checkpoint which mixtures it would recommend (one; for several
goals a set of them). Compute is counted in full runs; cheap experts count by their share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from benchmarks import peers
from benchmarks.emulator import Emulator
from benchmarks.peers import Array, Evidence
from benchmarks.tables import Recording
from optuna_mde import MDESampler, recommend, report_losses, suggest_mixture
from optuna_mde.mde.experts import ExpertTable, load_table
from optuna_mde.mixture import Encoding, Mixture

CHECKPOINTS = (8, 12, 16, 24, 32)
ENCODINGS: tuple[Encoding, ...] = ("weights", "exponential", "sticks")

_GOAL_GRID = 11  # weightings of two goals that one-shot methods answer
_CANDIDATES = 20_000
_REGMIX_TOP = 100  # predicted best candidates that RegMix averages
_KL_SHARE = 0.01  # olmix's pull towards natural, nats of objective a nat of divergence


@dataclass(frozen=True)
class Answer:
    """What a search recommends once it has spent a checkpoint's compute."""

    total: int
    mixtures: Array
    """`[m, K]`; one mixture unless there are several goals."""
    low: float = math.nan
    """Its own 90 % interval for the objective of the mixture, where it gives one."""
    high: float = math.nan


@dataclass
class Problem:
    """A test objective.

    Args:
        recording: the recorded runs behind it.
        emulator: losses of any mixture.
        groups: goals, each a group of weighted sets.
        seed: of the seed noise: the r-th run of a study has the same one whatever is searched.
        workers: runs that are asked for at once.
    """

    recording: Recording
    emulator: Emulator
    groups: dict[str, dict[str, float]]
    seed: int = 0
    workers: int = 1
    runs: int = field(default=0, init=False)

    @property
    def domains(self) -> tuple[str, ...]:
        """The K domains."""
        return self.recording.domains

    @cached_property
    def weights(self) -> Array:
        """Weights `[G, M]` of the goals, rows summing to 1."""
        rows = [[g.get(s, 0.0) for s in self.recording.sets] for g in self.groups.values()]
        W = np.array(rows)
        W /= W.sum(axis=1, keepdims=True)
        return W

    def run(self, rates: Array) -> Array:
        """Losses `[M]` of one full run, with seed noise."""
        self.runs += 1
        return self.emulator.run(rates, np.random.default_rng([self.seed, self.runs]))

    def clean(self, mixtures: Array) -> Array:
        """Noise-free goals `[m, G]`."""
        values: Array = self.emulator.losses(mixtures) @ self.weights.T
        return values

    def table(self, budget: float = 1.0) -> ExpertTable:
        """The recorded experts' log-probabilities."""
        files = {d: str(p) for d, p in self.recording.experts[budget].items()}
        return load_table(self.domains, files)[0]


Search = Callable[[Problem, int], Iterator[Answer]]
Values = float | tuple[float, ...]


def ours(problem: Problem, seed: int, budget: float | None) -> Iterator[Answer]:
    """`MDESampler`, experts trained at a share of a full run, or log-probabilities never kept.

    The experts' losses and log-probabilities are the recorded ones. Without any, the sampler finds
    out by two experts that leave none.
    """
    recording, domains = problem.recording, problem.domains
    rows = recording.expert_rows(budget) if budget else {}
    natural = dict(zip(domains, recording.natural.tolist(), strict=True))
    goals = problem.groups if len(problem.groups) > 1 else next(iter(problem.groups.values()))

    def finish(trial: optuna.Trial, mixture: Mixture) -> Values:
        url = None
        if budget and mixture.is_expert:
            domain = max(mixture, key=mixture.__getitem__)
            losses, url = recording.losses[rows[domain]], recording.experts[budget][domain]
        else:
            losses = problem.run(np.array(list(mixture.values())))
        named = dict(zip(recording.sets, losses.tolist(), strict=True))
        return report_losses(trial, named, objective=goals, logprobs=url, budget=mixture.budget)

    study = optuna.create_study(
        sampler=MDESampler(seed=seed, expert_budget=budget),
        directions=["minimize"] * len(problem.groups),
    )
    spent, experts_left = 0.0, len(rows)
    for total in CHECKPOINTS:
        while True:
            cost = budget if budget and experts_left else 1.0
            batch = min(problem.workers, int((total - spent) / cost + 1e-9))
            if experts_left:
                batch = min(batch, experts_left)
                experts_left -= batch
            if batch == 0:
                break
            _run_batch(
                study, batch, partial(suggest_mixture, domains=domains, natural=natural), finish
            )
            spent += batch * cost
        yield _recommended(study, total, domains)


def foreign(
    problem: Problem, seed: int, make: Callable[[int], BaseSampler], encoding: Encoding
) -> Iterator[Answer]:
    """Another Optuna sampler on an encoding of the simplex; its answer is the best run."""
    rows: dict[int, Array] = {}

    def finish(trial: optuna.Trial, mixture: Mixture) -> Values:
        rows[trial.number] = np.array(list(mixture.values()))
        values = (problem.weights @ problem.run(rows[trial.number])).tolist()
        return values[0] if len(values) == 1 else tuple(values)

    study = optuna.create_study(sampler=make(seed), directions=["minimize"] * len(problem.groups))
    propose = partial(suggest_mixture, domains=problem.domains, encoding=encoding)
    for total in CHECKPOINTS:
        while len(rows) < total:
            _run_batch(study, min(problem.workers, total - len(rows)), propose, finish)
        yield Answer(total, np.array([rows[t.number] for t in study.best_trials]))


def regmix(problem: Problem, seed: int) -> Iterator[Answer]:
    """RegMix's procedure: random runs, LightGBM, the average of the best simulated mixtures."""
    X, Y = _random_runs(problem, seed)
    candidates = np.random.default_rng(seed).dirichlet(np.ones(len(problem.domains)), _CANDIDATES)
    for total in CHECKPOINTS:
        evidence = Evidence(X[:total], Y[:total], np.zeros(total, dtype=bool))
        predicted = peers.regmix(evidence, candidates, _scalarised(problem)).mean
        best = np.argsort(predicted, axis=0)[:_REGMIX_TOP]
        yield Answer(total, np.array([candidates[b].mean(axis=0) for b in best.T]))


def olmix(problem: Problem, seed: int) -> Iterator[Answer]:
    """olmix's procedure: random runs, a log-linear law for each set, the minimum of the mean with
    a pull towards the natural mixture."""
    X, Y = _random_runs(problem, seed)
    K = len(problem.domains)
    rng = np.random.default_rng(seed)
    natural = problem.recording.natural
    around = rng.dirichlet(20 * natural + 0.2, _CANDIDATES // 2)
    candidates = np.concatenate([rng.dirichlet(np.ones(K), _CANDIDATES // 2), around])
    ratio = np.maximum(candidates, 1e-12) / np.maximum(natural, 1e-12)
    divergence = (candidates * np.log(ratio)).sum(axis=1, keepdims=True)
    for total in CHECKPOINTS:
        evidence = Evidence(X[:total], Y[:total], np.zeros(total, dtype=bool))
        predicted = peers.log_linear(evidence, candidates, _scalarised(problem)).mean
        best = np.argmin(predicted + _KL_SHARE * divergence, axis=0)
        yield Answer(total, candidates[best])


def mde_alone(problem: Problem, seed: int, budget: float = 1.0) -> Iterator[Answer]:
    """The minimum of the experts' MDE loss (MixMin): nothing but experts is trained."""
    from optuna_mde.mde.optimum import minimise
    from optuna_mde.simplex.region import Region

    K = len(problem.domains)
    table = problem.table(budget)
    order = [problem.recording.sets.index(name) for name in table.sets]
    region = Region(np.zeros(K), np.ones(K), (slice(0, K),))
    answers = np.array(
        [minimise(table, w[order], region, slice(0, K)) for w in _scalarised(problem)]
    )
    for total in CHECKPOINTS:
        if K * budget <= total:
            yield Answer(total, answers)


def ax(problem: Problem, seed: int) -> Iterator[Answer]:
    """Ax's client with its default strategy, the last rate being what the others leave."""
    from ax.api.client import Client
    from ax.api.configs import RangeParameterConfig

    names = [f"x{j}" for j in range(len(problem.domains) - 1)]
    client = Client(random_seed=seed)
    client.configure_experiment(
        [RangeParameterConfig(name=n, bounds=(0.0, 1.0), parameter_type="float") for n in names],
        parameter_constraints=[" + ".join(names) + " <= 1"],
    )
    client.configure_optimization(objective="-loss")
    done = 0

    def rates_of(parameters: Mapping[str, Any]) -> Array:
        parts = [max(0.0, float(parameters[name])) for name in names]
        rates = np.array([*parts, max(0.0, 1.0 - sum(parts))])
        rates /= rates.sum()
        return rates

    for total in CHECKPOINTS:
        while done < total:
            for index, parameters in client.get_next_trials(1).items():
                loss = float(problem.weights[0] @ problem.run(rates_of(parameters)))
                client.complete_trial(trial_index=index, raw_data={"loss": loss})
                done += 1
        parameters, *_ = client.get_best_parameterization()
        yield Answer(total, rates_of(parameters)[None])


def fixed(problem: Problem, seed: int, kind: str) -> Iterator[Answer]:
    """A mixture that needs no search: natural, uniform, or the best of the experts."""
    K = len(problem.domains)
    mixture = {"natural": problem.recording.natural, "uniform": np.full(K, 1.0 / K)}.get(kind)
    if mixture is None:
        mixture = np.eye(K)[int(problem.clean(np.eye(K)).mean(axis=1).argmin())]
    yield from (Answer(total, mixture[None]) for total in CHECKPOINTS)


def botorch_sampler(seed: int) -> BaseSampler:
    """optuna-integration's BoTorchSampler as it comes."""
    from optuna_integration import BoTorchSampler  # type: ignore[import-untyped]

    sampler: BaseSampler = BoTorchSampler(seed=seed)
    return sampler


def _run_batch(
    study: optuna.Study,
    n: int,
    propose: Callable[[optuna.Trial], Mixture],
    finish: Callable[[optuna.Trial, Mixture], Values],
) -> None:
    """n trials at once: all are proposed before the first is told."""
    asked = [(trial, propose(trial)) for trial in (study.ask() for _ in range(n))]
    for trial, mixture in asked:
        try:
            study.tell(trial, finish(trial, mixture))
        except optuna.TrialPruned:
            study.tell(trial, state=TrialState.PRUNED)


def _recommended(study: optuna.Study, total: int, domains: Sequence[str]) -> Answer:
    found = recommend(study)
    mixtures = [row.mixture for row in found.pareto] or [found.mixture]
    points = np.array([[mixture[d] for d in domains] for mixture in mixtures])
    if found.pareto:
        return Answer(total, points)
    return Answer(total, points, found.objective.low, found.objective.high)


def _random_runs(problem: Problem, seed: int) -> tuple[Array, Array]:
    """Runs of Dirichlet(1) mixtures: what one-shot methods learn from."""
    rng = np.random.default_rng([seed, 1])
    X = rng.dirichlet(np.ones(len(problem.domains)), CHECKPOINTS[-1])
    return X, np.array([problem.run(x) for x in X])


def _scalarised(problem: Problem) -> Array:
    """Weights `[T, M]` that one-shot methods minimise: the goal's, or those between two goals."""
    if len(problem.weights) == 1:
        return problem.weights
    shares = np.linspace(0.0, 1.0, _GOAL_GRID)
    grid: Array = np.stack([shares, 1.0 - shares], axis=1) @ problem.weights
    return grid


SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "TPESampler": lambda seed: TPESampler(seed=seed),
    "GPSampler": lambda seed: GPSampler(seed=seed),
    "BoTorchSampler": botorch_sampler,
}
SEARCHES: dict[str, Search] = {
    "optuna-mde": partial(ours, budget=1.0),
    "optuna-mde, experts at ½": partial(ours, budget=0.5),
    "optuna-mde, experts at ¼": partial(ours, budget=0.25),
    "optuna-mde without experts": partial(ours, budget=None),
    "random": partial(foreign, make=lambda seed: RandomSampler(seed=seed), encoding="exponential"),
    "RegMix": regmix,
    "olmix": olmix,
    "MDE alone (MixMin)": mde_alone,
    "MDE alone, experts at ½": partial(mde_alone, budget=0.5),
    "MDE alone, experts at ¼": partial(mde_alone, budget=0.25),
    "Ax": ax,
    **{kind: partial(fixed, kind=kind) for kind in ("natural", "uniform", "best expert")},
}
