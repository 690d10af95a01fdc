"""Whether any study breaks the sampler: `python -m benchmarks.storm --minutes 5`.

Every seed is a small random study: groups, bounds, constraints, parameters, directions, storages,
values, parallel asks, enqueued and failed trials, swapped and copied samplers. What must hold of
each is asserted; a seed that breaks something is printed with its traceback and can be replayed
alone (`--first SEED --studies 1`). Steps down the sampler's ladder are counted by their cause.
A model takes most of a study's time, so only every eighth study has one (`--modelled 1`: all); in
the others a random point of the region stands for its proposal.
"""

from __future__ import annotations

import argparse
import copy
import logging
import math
import pickle
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from optuna_mde import MDESampler, recommend, report_losses, save_logprobs, suggest_mixture
from optuna_mde.asks import proposal as proposals
from optuna_mde.asks.proposal import Proposal, Proposer
from optuna_mde.objective import ObjectiveError
from optuna_mde.observations import Observations
from optuna_mde.simplex.region import Region, sample

SETS = ("a", "b", "c", "d", "e")
ODD = (math.nan, math.inf, -math.inf, 1e30, -1e30, 1e-30, 0.0, 7.0)
KINDS: tuple[BaseDistribution, ...] = (
    FloatDistribution(-3.0, 5.0),
    FloatDistribution(1e-6, 1e2, log=True),
    FloatDistribution(0.0, 1.0, step=0.3),
    FloatDistribution(2.0, 2.0),
    FloatDistribution(-1e300, 1e300),
    IntDistribution(1, 9, step=2),
    IntDistribution(1, 10**6, log=True),
    IntDistribution(0, 10**15),
    CategoricalDistribution(["x", "y", "z"]),
    CategoricalDistribution([None, True, 0.5, "w"]),
    CategoricalDistribution(["only"]),
)


class Guess(Proposer):
    """Any point of the region, at once."""

    def propose(self, history: Observations, region: Region, *, seed: int) -> Proposal:
        return Proposal(sample(region, 1, np.random.default_rng(seed))[0], "model")


class Mix:
    """One mixture of a study, with bounds and constraints that some mixture meets."""

    def __init__(self, rng: np.random.Generator, prefix: str) -> None:
        self.prefix = prefix
        k = 64 if rng.random() < 0.02 else int(rng.integers(2, 9))
        self.domains = [f"d{i}" for i in range(k)]
        self.change(rng)

    def change(self, rng: np.random.Generator) -> None:
        """Other bounds, constraints and natural shares, sometimes one more domain."""
        if rng.random() < 0.2:
            self.domains = [*self.domains, f"d{len(self.domains)}"]
        k = len(self.domains)
        inside = rng.dirichlet(np.full(k, rng.choice([0.3, 1.0, 10.0])))
        self.bounds: dict[str, tuple[float, float]] = {}
        self.constraints: list[str] = []
        for domain, rate in zip(self.domains, inside.tolist(), strict=True):
            if rng.random() < 0.3:
                low, high = rate * rng.choice([0.0, 0.9, 1.0]), rate + rng.choice([0.0, 0.2, 1.0])
                self.bounds[domain] = (float(low), float(min(1.0, max(low, high))))
        if rng.random() < 0.3:
            i, j = rng.choice(k, 2, replace=False)
            factor = round(float(inside[i] / max(inside[j], 1e-9)) * 0.9, 3)
            self.constraints.append(f"d{i} >= {factor}*d{j}")
        shares = dict(zip(self.domains, rng.random(k).tolist(), strict=True))
        self.natural = shares if rng.random() < 0.5 else None

    def suggest(self, trial: optuna.Trial) -> dict[str, float]:
        return suggest_mixture(
            trial,
            self.domains,
            bounds=self.bounds,
            natural=self.natural,
            prefix=self.prefix,
            constraints=self.constraints,
        )


class Storm:
    """One random study."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.folder = folder
        self.mixes = [Mix(rng, p) for p in ("mix/", "stage2/")[: rng.choice(3, p=[0.2, 0.6, 0.2])]]
        picked = rng.choice(len(KINDS), int(rng.integers(0 if self.mixes else 1, 5)), False)
        self.params = {f"p{i}": KINDS[i] for i in picked}
        n_goals = int(rng.choice([1, 2, 3, 5], p=[0.7, 0.1, 0.1, 0.1]))
        self.reports = bool(self.mixes) and rng.random() < 0.6
        self.keeps_logprobs = rng.random() < 0.6
        self.oddness = rng.choice([0.0, 0.2, 0.8])
        self.constrained = rng.random() < 0.2
        self.groups = {f"g{i}": {SETS[i]: 1.0} for i in range(n_goals)} if n_goals > 1 else None
        direction: Literal["minimize", "maximize"]
        direction = "minimize" if self.reports or rng.random() < 0.5 else "maximize"
        storage: Any = None
        kind = rng.choice(["memory", "sqlite", "journal"], p=[0.6, 0.2, 0.2])
        if kind == "sqlite":
            storage = f"sqlite:///{folder}/study.db"
        elif kind == "journal":
            storage = JournalStorage(JournalFileBackend(str(folder / "journal")))
        hyperband = n_goals == 1 and rng.random() < 0.15
        self.study = optuna.create_study(
            storage=storage,
            directions=[direction] * n_goals,
            sampler=self.sampler(),
            pruner=optuna.pruners.HyperbandPruner(1, 4, 2) if hyperband else None,
        )

    def sampler(self) -> optuna.samplers.BaseSampler:
        rng = self.rng
        sampler: optuna.samplers.BaseSampler = MDESampler(
            seed=int(rng.integers(3)) if rng.random() < 0.7 else None,
            n_startup_trials=[None, 0, 1, 4][rng.integers(4)],
            expert_budget=0.5 if rng.random() < 0.1 else None,
        )
        if rng.random() < 0.1:
            fixed = {"mix/d0": float(rng.random()), "p0": 1.0}
            sampler = optuna.samplers.PartialFixedSampler(fixed, sampler)
        return sampler

    def run(self, n_trials: int = 14) -> None:
        running: list[optuna.Trial] = []
        for _ in range(n_trials):
            self.interfere()
            asked = [self.study.ask() for _ in range(self.rng.choice([1, 1, 1, 4]))]
            for trial in asked:
                self.suggest(trial)
            running += asked
            self.rng.shuffle(running)  # type: ignore[arg-type]
            while len(running) > self.rng.integers(0, 5):
                self.tell(running.pop())
        told = [t for t in self.study.trials if t.state == TrialState.COMPLETE]
        if told and proposals.Proposer is Proposer and self.rng.random() < 0.5:
            str(recommend(self.study))

    def interfere(self) -> None:
        """What users and other samplers do between two asks."""
        rng, study = self.rng, self.study
        for mix in self.mixes:
            if rng.random() < 0.1:
                mix.change(rng)
        if rng.random() < 0.15:
            study.enqueue_trial(self.enqueued())
        if rng.random() < 0.05:
            study.sampler = copy.deepcopy(study.sampler)
        if rng.random() < 0.05:
            study.sampler = pickle.loads(pickle.dumps(study.sampler))
        if rng.random() < 0.05:
            study.sampler = self.sampler()
        if rng.random() < 0.05:
            ours, study.sampler = study.sampler, optuna.samplers.RandomSampler(seed=0)
            trial = study.ask()
            self.suggest(trial, ours=False)
            self.tell(trial)
            study.sampler = ours

    def enqueued(self) -> dict[str, Any]:
        rng = self.rng
        params: dict[str, Any] = {}
        for mix in self.mixes:
            rates = rng.dirichlet(np.ones(len(mix.domains))) * rng.choice([1.0, 1.0, 3.0])
            for domain, rate in zip(mix.domains, rates.tolist(), strict=True):
                if rng.random() < rng.choice([0.3, 1.0]):
                    params[mix.prefix + domain] = -rate if rng.random() < 0.03 else rate
        for name, distribution in self.params.items():
            if rng.random() < 0.4:
                odd = isinstance(distribution, FloatDistribution) and rng.random() < 0.2
                low = getattr(distribution, "low", None)
                params[name] = 1e9 if odd else distribution.choices[0] if low is None else low  # type: ignore[attr-defined]
        return params

    def suggest(self, trial: optuna.Trial, ours: bool = True) -> None:
        """Suggest everything, in any order, and check what came."""
        rng = self.rng
        steps: list[Any] = [*self.mixes, *self.params]
        if rng.random() < 0.3:
            rng.shuffle(steps)
        enqueued = self.study.trials[trial.number].system_attrs.get("fixed_params", {})
        fixed = getattr(self.study.sampler, "_fixed_params", {})
        for step in steps:
            if isinstance(step, Mix):
                rates = step.suggest(trial)
                assert abs(sum(rates.values()) - 1.0) <= 1e-9, rates
                assert min(rates.values()) >= 0.0, rates
                parts = {step.prefix + d for d in step.domains}
                free = not parts & {*enqueued, *fixed} and max(rates.values()) < 1.0
                if ours and free:
                    self.check_caps(step, rates)
            elif rng.random() < 0.9:
                self.suggest_param(trial, step)
        if ours and self.mixes and not enqueued and not fixed:
            assert "phase" in trial.user_attrs

    def suggest_param(self, trial: optuna.Trial, name: str) -> None:
        d = self.params[name]
        if isinstance(d, FloatDistribution):
            widen = self.rng.choice([0, 0, 1]) if d.step is None and not d.log else 0
            trial.suggest_float(name, d.low, d.high + widen, log=d.log, step=d.step)
        elif isinstance(d, IntDistribution):
            trial.suggest_int(name, d.low, d.high, log=d.log, step=d.step)
        elif isinstance(d, CategoricalDistribution):
            trial.suggest_categorical(name, d.choices)

    def check_caps(self, mix: Mix, rates: dict[str, float]) -> None:
        for domain, (low, high) in mix.bounds.items():
            assert low - 1e-9 <= rates[domain] <= high + 1e-9, (domain, rates[domain], low, high)
        for constraint in mix.constraints:
            left, right = constraint.split(" >= ")
            factor, other = right.split("*")
            assert rates[left] >= float(factor) * rates[other] - 1e-9, (constraint, rates)

    def tell(self, trial: optuna.Trial) -> None:
        rng, study = self.rng, self.study
        fate = rng.random()
        if fate < 0.05:
            study.tell(trial, state=TrialState.FAIL)
        elif fate < 0.1:
            if len(study.directions) == 1:
                trial.report(float(rng.random()), 1)
            study.tell(trial, state=TrialState.PRUNED)
        elif fate >= 0.13:  # else it stays running
            if self.constrained and rng.random() < 0.8:
                trial.set_constraint("c", float(rng.normal()))
            values = self.reported(trial) if self.reports else self.plain()
            if values is not None:
                study.tell(trial, values, skip_if_finished=True)

    def plain(self) -> list[float]:
        return [self.number() for _ in self.study.directions]

    def number(self) -> float:
        odd = self.rng.random() < self.oddness
        return float(self.rng.choice(ODD)) if odd else float(self.rng.normal())

    def reported(self, trial: optuna.Trial) -> Any:
        rng = self.rng
        sets = SETS if self.groups else SETS[: rng.integers(1, 6)]
        losses = {s: abs(self.number()) + 0.1 for s in sets}
        logprobs = None
        rates = trial.user_attrs.get("mixture") or {}
        corner = [n for n, v in trial.params.items() if n.startswith("mix/") and v == 1.0]
        if corner and not rates and self.keeps_logprobs:
            arrays = {s: np.log(rng.uniform(0.01, 1.0, 20)) for s in SETS[: rng.integers(1, 6)]}
            logprobs = save_logprobs(self.folder / f"{trial.number}.st", arrays)
            if rng.random() < 0.8:  # else the file contradicts its trial
                losses |= {s: -float(a.mean()) for s, a in arrays.items() if s in losses}
            logprobs = str(self.folder / "gone.st") if rng.random() < 0.05 else logprobs
        limits: Any = {"a": "natural" if rng.random() < 0.5 else 1.0}
        budget = 0.5 if corner and rng.random() < 0.1 else 1.0

        def report(limits: Any) -> Any:
            return report_losses(
                trial,
                losses,
                objective=self.groups,
                limits=limits,
                logprobs=logprobs,
                budget=budget,
            )

        try:
            try:
                return report(limits if self.constrained else None)
            except ObjectiveError:  # there is no natural mixture
                return report({"a": 1.0})
        except optuna.TrialPruned:
            self.study.tell(trial, state=TrialState.PRUNED)
            return None


class Causes(logging.Handler):
    """Counts what the sampler logs, by its wording."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        self.counts[record.getMessage().split(". ", 1)[-1][:200]] += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--studies", type=int, default=10**9, help="at most so many")
    parser.add_argument("--modelled", type=int, default=8, help="every so many has a model")
    options = parser.parse_args()
    warnings.showwarning = lambda *args, **kwargs: None  # warnings are not what is looked for
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    causes = Causes()
    logger = logging.getLogger("optuna_mde")
    logger.addHandler(causes)
    logger.propagate = False
    end, broken, phases, done = time.monotonic() + 60 * options.minutes, [], Counter[str](), 0
    for seed in range(options.first, options.first + options.studies):
        if time.monotonic() > end:
            break
        proposals.Proposer = Guess if seed % options.modelled else Proposer  # type: ignore[misc]
        with tempfile.TemporaryDirectory() as folder:
            try:
                storm = Storm(seed, Path(folder))
                storm.run()
                phases.update(t.user_attrs.get("phase", "-") for t in storm.study.trials)
            except Exception:
                broken.append(seed)
                print(f"seed {seed}\n{traceback.format_exc()}", flush=True)
        done += 1
    print(f"{done} studies, {sum(phases.values())} trials, {len(broken)} broken {broken}")
    print("phases:", dict(phases.most_common()))
    for cause, count in causes.counts.most_common():
        print(f"{count:5d}  {cause}")


if __name__ == "__main__":
    main()
