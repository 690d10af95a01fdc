"""Studies that threads and processes share, on every kind of storage."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import sqlalchemy
from optuna.storages import JournalStorage
from optuna.storages._rdb.models import TrialModel
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from optuna_mde import MDESampler, suggest_mixture
from optuna_mde.trials.records import read_trials
from tests.optuna_mde.toy import DOMAINS, Toy, phases, quietly, rates_of, study_of
from tests.servers import postgresql_server

pytestmark = quietly


def test_threads_share_one_sampler(tmp_path: Path) -> None:
    study = study_of()
    study.optimize(Toy(tmp_path), n_trials=12, n_jobs=4)
    assert sum(phase == "expert" for phase in phases(study)) == 3
    assert len({rates_of(t) for t in study.trials}) == 12
    assert all(t.state == TrialState.COMPLETE for t in study.trials)


def test_asking_at_once_gives_different_spread_mixtures(tmp_path: Path) -> None:
    study = study_of()
    study.optimize(Toy(tmp_path), n_trials=6)
    asked = [study.ask() for _ in range(8)]
    threads = [threading.Thread(target=suggest_mixture, args=(trial, DOMAINS)) for trial in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rates = np.array([rates_of(t) for t in study.trials[6:]])
    distances = np.abs(rates[:, None] - rates[None]).sum(axis=2) + 9.0 * np.eye(8)
    assert distances.min() > 1e-3


def test_what_another_thread_took_meanwhile_is_not_taken_again() -> None:
    """Between the search space and the proposal another thread may have had its own."""
    sampler = MDESampler(seed=0, n_startup_trials=2)
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1) ** 2, n_trials=4)
    first, second = study.ask(), study.ask()
    frozen = study.trials[second.number]
    space = sampler.infer_relative_search_space(study, frozen)
    taken = first.suggest_float("x", 0, 1)
    proposed = sampler.sample_relative(study, frozen, space)
    assert abs(proposed["x"] - taken) > 1e-3


WORKER = """
import sys, warnings, optuna
warnings.simplefilter("ignore")
from optuna_mde import MDESampler, suggest_mixture
optuna.logging.set_verbosity(optuna.logging.ERROR)
study = optuna.load_study(study_name="s", storage=sys.argv[1], sampler=MDESampler(seed=0))
domains = [f"d{i}" for i in range(10)]
print("ready", flush=True)
sys.stdin.readline()
for _ in range(3):
    suggest_mixture(study.ask(), domains)
"""


def test_processes_never_train_the_same_expert(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(study_name="s", storage=url)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.communicate("go\n", timeout=60)
        assert worker.returncode == 0
    taken = [rates_of(trial) for trial in study.trials]
    assert len(taken) == len(set(taken)) == 12
    assert sum(max(rates) == 1.0 for rates in taken) == 10


PROPOSE = """
import sys, warnings, optuna
warnings.simplefilter("ignore")
from optuna_mde import MDESampler, suggest_mixture
optuna.logging.set_verbosity(optuna.logging.ERROR)
study = optuna.load_study(study_name="s", storage=sys.argv[1], sampler=MDESampler(seed=3))
print(list(suggest_mixture(study.ask(), ["web", "code", "books"]).values()))
"""


def test_another_process_proposes_the_same(tmp_path: Path) -> None:
    """From the same history and seed."""
    base = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(study_name="s", storage=base, sampler=MDESampler(seed=3))
    study.optimize(Toy(tmp_path), n_trials=6)
    copied = tmp_path / "copy.db"
    copied.write_bytes((tmp_path / "study.db").read_bytes())
    output = subprocess.run(
        [sys.executable, "-c", PROPOSE, f"sqlite:///{copied}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    here = list(suggest_mixture(study.ask(), DOMAINS).values())
    assert eval(output) == pytest.approx(here, abs=1e-6)


TWO_VALUES = """
import sys, warnings, numpy as np, optuna, torch
warnings.simplefilter("ignore")
from optuna_mde import MDESampler, suggest_mixture
optuna.logging.set_verbosity(optuna.logging.ERROR)
torch.manual_seed(int(sys.argv[1]))  # what training leaves behind
rng, part = np.random.default_rng(2), optuna.distributions.FloatDistribution(0, 1)
lr = optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True)
study = optuna.create_study(directions=["minimize"] * 2, sampler=MDESampler(seed=3))
corners_and_centre = [(1, 0, 0), (0, 1, 0), (1 / 3, 1 / 3, 1 / 3)]
for a, b, c in corners_and_centre + rng.dirichlet(np.ones(3), 9).tolist():
    u = 2 * rng.random()
    params = {"mix/web": a, "mix/code": b, "mix/books": c, "lr": 10 ** (u - 4)}
    values = [(a - .3) ** 2 + (u - 1) ** 2, (b - .5) ** 2 + c * abs(u - 1.5)]
    ranges = dict.fromkeys(params, part) | {"lr": lr}
    study.add_trial(optuna.create_trial(params=params, distributions=ranges, values=values))
for trial in (study.ask(), study.ask()):  # the first is pending when the second asks
    mixture = suggest_mixture(trial, ["web", "code", "books"])
    assert trial.user_attrs["phase"] == "model"
    print(list(mixture.values()), trial.suggest_float("lr", 1e-4, 1e-2, log=True))
"""


def test_fresh_processes_propose_the_same_for_two_plain_values() -> None:
    """From the same history, pending trials and seed."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_VALUES, seed],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        for seed in ("1", "2")
    ]
    outputs = [process.communicate(timeout=100)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0] == outputs[1]


@pytest.fixture
def postgresql() -> Iterator[str]:
    """URL of a PostgreSQL server of our own."""
    with postgresql_server() as url:
        yield url


def test_storages_give_the_same_study(tmp_path: Path, postgresql: str) -> None:
    storages = {
        "memory": None,
        "sqlite": f"sqlite:///{tmp_path}/study.db",
        "journal": JournalStorage(JournalFileBackend(str(tmp_path / "journal"))),
        "postgresql": postgresql,
    }
    told: dict[str, np.ndarray] = {}
    for name, storage in storages.items():
        study = optuna.create_study(sampler=MDESampler(seed=0), storage=storage)
        study.optimize(Toy(tmp_path), n_trials=6)
        again = optuna.load_study(study_name=study.study_name, storage=study._storage)
        told[name] = np.array([rates_of(t) for t in again.trials])
        assert told[name][:3].tolist() == np.eye(3).tolist()
        assert np.abs(told[name].sum(axis=1) - 1.0).max() < 1e-9
        assert told[name] == pytest.approx(told["memory"], abs=1e-6)


def test_grpc_storage(tmp_path: Path, fast: None) -> None:
    pytest.importorskip("grpc")
    from optuna.storages import GrpcStorageProxy, run_grpc_proxy_server

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    backend = optuna.storages.InMemoryStorage()
    options = {"host": "127.0.0.1", "port": port}
    threading.Thread(
        target=run_grpc_proxy_server, args=(backend,), kwargs=options, daemon=True
    ).start()
    storage = GrpcStorageProxy(**options)
    storage.wait_server_ready(timeout=30)
    study = optuna.create_study(sampler=MDESampler(seed=0), storage=storage)
    study.optimize(Toy(tmp_path), n_trials=6)
    assert phases(study) == ["expert"] * 3 + ["uniform"] + ["model"] * 2


def test_a_proposal_is_seen_while_it_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLAlchemy reads a trial's tables in any order, and other processes write in between."""
    url = f"sqlite:///{tmp_path}/study.db"
    sampler = MDESampler(seed=0, mixtures={"mix/": DOMAINS})
    study = optuna.create_study(study_name="s", storage=url, sampler=sampler)
    trial = study.ask()
    mapper = TrialModel.__mapper__
    parameters_last = sorted(mapper._props.values(), key=lambda prop: prop.key == "params")
    monkeypatch.setattr(mapper, "_prop_set", parameters_last)
    reader = optuna.load_study(study_name="s", storage=url)
    written = []

    def write(*event: Any) -> None:
        if "FROM trial_params" in event[2] and not written:
            written.append(trial.suggest_float(f"mix/{DOMAINS[0]}", 0.0, 1.0))

    engine = reader._storage._backend.engine  # type: ignore[attr-defined]
    sqlalchemy.event.listen(engine, "before_cursor_execute", write)
    record = read_trials(reader)[0]
    assert len(record.distributions) == len(written) == 1
    assert record.mixture("mix/") == {"web": 1.0, "code": 0.0, "books": 0.0}


def test_an_ask_and_its_report_take_a_dozen_calls_beside_those_of_optuna(tmp_path: Path) -> None:
    """Counted on SQLite, against the same trial without this package; asks by the model."""

    def calls(objective: Any, sampler: Any, name: str) -> int:
        url = f"sqlite:///{tmp_path / name}.db"
        study = optuna.create_study(storage=url, sampler=sampler)
        study.optimize(objective, n_trials=6)
        made = []
        for method in (
            m for m in dir(study._storage) if m.startswith(("get_", "set_", "create_"))
        ):
            kept = getattr(study._storage, method)
            counted = lambda *a, _kept=kept, **k: made.append(1) or _kept(*a, **k)  # noqa: E731
            setattr(study._storage, method, counted)
        study.optimize(objective, n_trials=1)
        return len(made)

    def plain(trial: optuna.Trial) -> float:
        return sum(trial.suggest_float(f"mix/{domain}", 0.0, 1.0) for domain in DOMAINS)

    toy = Toy(tmp_path)
    ours = calls(toy, MDESampler(seed=0), "ours")
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path / 'ours'}.db")
    assert phases(study)[-1] == "model"
    assert ours - calls(plain, optuna.samplers.RandomSampler(), "plain") <= 12
