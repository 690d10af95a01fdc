"""What one ask costs, beside GPSampler and BoTorchSampler on the same trials.

    python -m benchmarks.ask_time [--quick] [--out runs/benchmark-ask-time]

A synthetic study of 7 domains whose trials report 11 validation sets (one of each domain and 4
others), experts' log-probabilities among them, in memory, one thread. After 20, 100, 500 and
1,000 told trials every sampler is asked for the next one. All samplers start from the same trials
and take turns, so that a busy machine slows all of them. Peers model the objective alone,
MDESampler every set. Times are CPU seconds of the process, medians over the repeats:

* ``fit``: a fresh sampler, so that nothing of an earlier fit serves; with experts it reads and
  condenses their files, too;
* ``next``: the ask after one more told trial, by a sampler that has been asked before.

The same without log-probabilities (the rates alone), and with 64 domains after 200 trials. Then,
with 7 domains and 100 trials, what else may be asked for: caps, linear constraints, running
trials, a limit, two goals, a learning rate beside the mixture.

A peer that is not installed is left out (`pip install "optuna-mde[bench]"`). What was measured is
kept in ``ask_time.csv`` and not measured again; ratios are always of times from one round.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from tqdm import tqdm  # type: ignore[import-untyped]

from benchmarks import drawing
from benchmarks.cells import Cells
from benchmarks.threads import on_one_thread
from optuna_mde import MDESampler, report_losses, save_logprobs, suggest_mixture
from optuna_mde.mde.experts import ExpertTable

TOKENS = 4096
OTHER_SETS = 4
NOISE = 0.01  # nats per token
FIT, NEXT = "MDESampler, fit", "MDESampler, next"
KEYS = ("domains", "told", "model", "asked", "sampler")

Makers = Mapping[str, Callable[[int], BaseSampler]]


@dataclass(frozen=True)
class Task:
    """What is asked for beside a mixture.

    Args:
        suggest: arguments of `suggest_mixture`.
        report: arguments of `report_losses`.
        goals: directions of the study.
        running: trials that run while the next one is asked for.
        learning_rate: whether one is suggested beside the mixture.
    """

    suggest: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    goals: int = 1
    running: int = 0
    learning_rate: bool = False


PLAIN = "a mixture"
TASKS = {
    PLAIN: Task(),
    "caps of .3": Task(suggest={"bounds": {f"d{j}": (0.0, 0.3) for j in range(7)}}),
    "two linear constraints": Task(suggest={"constraints": ["d0 >= 2*d1", "d2 + d3 >= 0.1"]}),
    "four running trials": Task(running=4),
    "a limit": Task(report={"limits": {"d1": 4.0}}),
    "two goals": Task(
        report={"objective": {"domains": {"d0": 1, "d1": 1}, "others": {"unseen0": 1}}}, goals=2
    ),
    "a learning rate beside it": Task(learning_rate=True),
}


@dataclass(frozen=True)
class Case:
    """A study that is asked."""

    n_domains: int
    n_told: int
    experts: bool
    repeats: int
    peers: bool = True
    asked: str = PLAIN

    @property
    def key(self) -> tuple[int, int, str, str]:
        """How its rows begin."""
        return self.n_domains, self.n_told, "MDE" if self.experts else "rates only", self.asked

    @property
    def name(self) -> str:
        """The row's name."""
        domains, told, model, asked = self.key
        sets = domains + OTHER_SETS
        return f"{domains} domains, {sets} sets, {told} told, {model}, {asked}"


@dataclass
class World:
    """Experts, and losses that MDE explains up to a smooth remainder."""

    n_domains: int
    folder: Path
    domains: list[str] = field(init=False)
    sets: list[str] = field(init=False)

    def __post_init__(self) -> None:
        K = self.n_domains
        rng = np.random.default_rng(K)
        self.domains = [f"d{j}" for j in range(K)]
        self.sets = [*self.domains, *(f"unseen{i}" for i in range(OTHER_SETS))]
        affinity = rng.normal(0.0, 0.5, (len(self.sets), K))
        affinity[range(K), range(K)] += 1.0
        logprobs: dict[str, dict[str, np.ndarray]] = {d: {} for d in self.domains}
        for i, name in enumerate(self.sets):
            base = rng.normal(-4.0, 1.8, TOKENS)
            for j, domain in enumerate(self.domains):
                values = base + affinity[i, j] + rng.normal(0.0, 1.1, TOKENS)
                logprobs[domain][name] = np.minimum(values, -1e-3).astype(np.float32)
        self.table = ExpertTable(self.domains, logprobs)
        self.files = [
            save_logprobs(self.folder / f"{K}-{d}.safetensors", logprobs[d], domain=d)
            for d in self.domains
        ]
        self._bend = rng.normal(0.0, 0.3, (len(self.sets), K))

    def losses(self, rates: np.ndarray, seed: int) -> dict[str, float]:
        """Noisy losses of a run of the mixture `[K]`; an expert's are its MDE losses."""
        tempered = rates**0.8 / (rates**0.8).sum()
        spread = 1.0 - float((rates**2).sum())
        noise = np.random.default_rng(seed).normal(0.0, NOISE, len(self.sets))
        clean = self.table.losses(tempered) + spread * (self._bend @ rates - 0.2)
        values = clean + np.where(spread > 0, noise, 0.0)
        return dict(zip(self.sets, values.tolist(), strict=True))

    def mixtures(self, n: int) -> np.ndarray:
        """Corners, the uniform one, half anywhere, half near the best: a study under way."""
        K = self.n_domains
        rng = np.random.default_rng(1)
        anywhere = rng.dirichlet(np.ones(K), (n - K) // 2)
        means = [np.mean(list(self.losses(x, 0).values())) for x in anywhere]
        best = anywhere[int(np.argmin(means))]
        near = rng.dirichlet(40.0 * best + 0.1, n - K - 1 - len(anywhere))
        return np.concatenate([np.eye(K), np.full((1, K), 1.0 / K), anywhere, near])


def told_study(world: World, case: Case) -> optuna.Study:
    """A study that has been told ``case.n_told`` runs."""
    study = study_of(optuna.samplers.RandomSampler(seed=0), case)
    for rates in world.mixtures(case.n_told):
        names = (f"mix/{d}" for d in world.domains)
        study.enqueue_trial(dict(zip(names, rates.tolist(), strict=True)))
        run(study, world, case)
    return study


def study_of(sampler: BaseSampler, case: Case) -> optuna.Study:
    """An empty study."""
    directions = [StudyDirection.MINIMIZE] * TASKS[case.asked].goals
    return optuna.create_study(sampler=sampler, directions=directions)


def asked_trial(study: optuna.Study, world: World, case: Case) -> tuple[optuna.Trial, np.ndarray]:
    """The next trial and its mixture `[K]`."""
    task = TASKS[case.asked]
    trial = study.ask()
    mixture = suggest_mixture(trial, world.domains, **task.suggest)
    if task.learning_rate:
        trial.suggest_float("lr", 1e-4, 1e-1, log=True)
    return trial, np.array(list(mixture.values()))


def run(study: optuna.Study, world: World, case: Case) -> float:
    """One trial, from its ask to its tell; returns the CPU seconds of the ask."""
    before = time.process_time()
    trial, rates = asked_trial(study, world, case)
    seconds = time.process_time() - before
    url = world.files[int(rates.argmax())] if case.experts and rates.max() == 1.0 else None
    losses = world.losses(rates, trial.number)
    if "lr" in trial.params:
        away = np.log10(trial.params["lr"]) + 2.5
        losses = {name: loss + 0.1 * away**2 for name, loss in losses.items()}
    study.tell(trial, report_losses(trial, losses, logprobs=url, **TASKS[case.asked].report))
    return seconds


def peers() -> Makers:
    """The other samplers that are installed, by name."""
    found: dict[str, Callable[[int], BaseSampler]] = {
        "GPSampler": lambda seed: optuna.samplers.GPSampler(seed=seed)
    }
    try:
        import greenlet  # type: ignore[import-untyped]  # noqa: F401
    except ImportError:
        print("greenlet is not installed: GPSampler searches one start after another.")
    try:
        from optuna_integration import BoTorchSampler  # type: ignore[import-untyped]
    except ImportError:
        print("BoTorchSampler is left out: optuna-integration is not installed.")
    else:
        found["BoTorchSampler"] = lambda seed: BoTorchSampler(seed=seed)
    return found


def measure(
    case: Case, world: World, others: Makers, tick: Callable[[], object]
) -> dict[str, float]:
    """Median CPU seconds of an ask of every sampler; ``tick`` is called after each ask."""
    told = told_study(world, case).get_trials(deepcopy=False)

    def study_for(sampler: BaseSampler) -> optuna.Study:
        study = study_of(optuna.samplers.RandomSampler(seed=0), case)
        study.add_trials(told)
        for _ in range(TASKS[case.asked].running):
            asked_trial(study, world, case)
        study.sampler = sampler
        return study

    makers: Makers = {NEXT: lambda seed: MDESampler(seed=seed), **(others if case.peers else {})}
    lasting = {name: study_for(make(0)) for name, make in makers.items()}
    seconds: dict[str, list[float]] = {name: [] for name in (FIT, *lasting)}
    for repeat in range(case.repeats + 1):
        for name, study in {FIT: study_for(MDESampler(seed=repeat)), **lasting}.items():
            spent = run(study, world, case)
            if repeat > 0:  # the first round warms everything up
                seconds[name].append(spent)
            tick()
    return {name: statistics.median(values) for name, values in seconds.items()}


def cases(quick: bool) -> list[Case]:
    """What is measured: everything, or what takes a minute or two."""
    found = [
        Case(7, n, experts, 3 if quick or n >= 500 else 7)
        for experts in (True, False)
        for n in ((20, 100) if quick else (20, 100, 500, 1000))
    ]
    if quick:
        return found
    others = [Case(7, 100, True, 5, peers=False, asked=a) for a in TASKS if a != PLAIN]
    return [*found, *others, Case(64, 200, True, 3, peers=False)]


def markdown(cells: Cells, measured: list[Case]) -> str:
    """A table: seconds and, in brackets, how many times those of MDESampler's ask with a fit."""
    names = cells.names("sampler")
    lines = ["| study | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for case in measured:
        row = times(cells, case)
        texts = [f"{row[n]:.2f} ({row[n] / row[FIT]:.2f})" if n in row else "" for n in names]
        lines.append(f"| {case.name} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def times(cells: Cells, case: Case) -> dict[str, float]:
    """CPU seconds of an ask by sampler."""
    parts: dict[str, str | int] = dict(zip(KEYS, case.key, strict=False))
    names = cells.names("sampler", **parts)
    return {n: float(cells.values("cpu_seconds", sampler=n, **parts)[-1]) for n in names}


def draw(cells: Cells, measured: list[Case], path: Path) -> None:
    """Seconds of an ask against the trials told, with experts and without."""
    pyplot = drawing.headless_pyplot()
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for axis, experts in zip(axes, (True, False), strict=True):
        chosen = [c for c in measured if c.peers and c.experts == experts]
        rows = [times(cells, case) for case in chosen]
        for name in rows[0]:
            ours = name in (FIT, NEXT)
            axis.plot(
                [case.n_told for case in chosen],
                [row[name] for row in rows],
                "o-" if ours else "o--",
                linewidth=2.5 if ours else 1.0,
                label=name,
            )
        axis.set(title=chosen[0].key[2], xlabel="trials told", xscale="log", yscale="log")
    axes[0].set_ylabel("CPU seconds of an ask, one thread")
    axes[1].legend(fontsize=8)
    figure.suptitle("7 domains; MDESampler models 11 validation sets, the others the objective")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    """Measure, print the table and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20 and 100 trials only")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-ask-time"))
    options = parser.parse_args()
    on_one_thread("benchmarks.ask_time")
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    cells = Cells(options.out / "ask_time.csv", KEYS, ["cpu_seconds"])
    measured, others = cases(options.quick), peers()
    missing = [case for case in measured if not cells.has(*case.key)]
    steps = sum((c.repeats + 1) * (2 + len(others) * c.peers) for c in missing)
    worlds: dict[int, World] = {}
    with tempfile.TemporaryDirectory() as folder, tqdm(total=steps, unit="ask") as bar:
        for case in missing:
            bar.set_description(case.name)
            if case.n_domains not in worlds:
                worlds[case.n_domains] = World(case.n_domains, Path(folder))
            found = measure(case, worlds[case.n_domains], others, bar.update)
            cells.add({(*case.key, name): [value] for name, value in found.items()})
    draw(cells, measured, options.out / "ask_time.png")
    print(markdown(cells, measured))


if __name__ == "__main__":
    main()
