"""Processes that share a study, and processes that die."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

SCRIPT = """
import sys, time, warnings
import numpy as np, optuna
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna_mde import MDESampler, report_losses, save_logprobs, suggest_mixture

warnings.simplefilter("ignore")
optuna.logging.set_verbosity(optuna.logging.ERROR)
folder, role, seed, n_trials = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
DOMAINS = ["web", "code", "books", "math"]
SHARES = np.full((4, 4), 0.1) + 0.5 * np.eye(4)


def objective(trial):
    mixture = suggest_mixture(trial, DOMAINS)
    rates = np.array(list(mixture.values()))
    losses = dict(zip(DOMAINS, (-np.log(SHARES @ rates)).tolist()))
    if role == "victim" and trial.number == 6:
        report_losses(trial, {"web": 9.0}, tokens=7)
        print("hanging", flush=True)
        time.sleep(600)
    url = None
    if mixture.is_expert:
        arrays = {s: np.full(4, np.log(p)) for s, p in zip(DOMAINS, SHARES[:, rates.argmax()])}
        url = save_logprobs(f"{folder}/{trial.number}.safetensors", arrays)
    return report_losses(trial, losses, logprobs=url)


storage = RDBStorage(
    f"sqlite:///{folder}/study.db",
    heartbeat_interval=1,
    grace_period=3,
    heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
    engine_kwargs={"connect_args": {"timeout": 60}},
)
sampler = MDESampler(seed=None if seed == "none" else int(seed))
study = optuna.create_study(
    study_name="s", storage=storage, sampler=sampler, load_if_exists=True
)
print("ready", flush=True)
sys.stdin.readline()
study.optimize(objective, n_trials=n_trials)
"""

DOMAINS = ["web", "code", "books", "math"]


def start(folder: Path, role: str, seed: str, n_trials: int) -> subprocess.Popen[str]:
    worker = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), role, seed, str(n_trials)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n"
    return worker


def go(worker: subprocess.Popen[str]) -> None:
    assert worker.stdin is not None
    worker.stdin.write("go\n")
    worker.stdin.flush()


def rates_of(trial: FrozenTrial) -> tuple[float, ...]:
    return tuple(trial.params[f"mix/{d}"] for d in DOMAINS)


@pytest.mark.slow
def test_the_trial_of_a_killed_process_is_run_again_with_its_mixture(tmp_path: Path) -> None:
    victim = start(tmp_path, "victim", "0", 10)
    go(victim)
    assert victim.stdout is not None
    assert victim.stdout.readline() == "hanging\n"
    victim.kill()
    victim.wait()
    time.sleep(5)  # longer than the grace period
    heir = start(tmp_path, "heir", "0", 3)
    heir.communicate("go\n", timeout=120)
    assert heir.returncode == 0
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/study.db")
    killed = study.trials[6]
    assert killed.state == TrialState.FAIL
    retried = [t for t in study.trials if t.system_attrs.get("failed_trial") == 6]
    assert len(retried) == 1
    assert rates_of(retried[0]) == rates_of(killed)
    assert retried[0].state == TrialState.COMPLETE
    assert set(retried[0].user_attrs["losses"]) == set(DOMAINS)
    assert retried[0].user_attrs["tokens"] is None
    others = [rates_of(t) for t in study.trials if t.number != 6]
    assert len(set(others)) == len(others) == 9


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["0", "none"])
def test_four_processes_search_one_study(seed: str, tmp_path: Path) -> None:
    """From the experts to the model, with one seed or with none; nothing is run twice."""
    workers = [start(tmp_path, "worker", seed, 5) for _ in range(4)]
    for worker in workers:
        go(worker)
    for worker in workers:
        worker.communicate(timeout=300)
        assert worker.returncode == 0
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/study.db")
    taken = np.array([rates_of(t) for t in study.trials])
    assert all(t.state == TrialState.COMPLETE for t in study.trials)
    assert len({tuple(rates) for rates in taken.tolist()}) == len(taken) == 20
    assert (taken == 1.0).any(axis=1).sum() >= 4
    assert np.abs(taken.sum(axis=1) - 1.0).max() < 1e-9
    phases = [t.user_attrs["phase"] for t in study.trials]
    assert phases.count("expert") == 4
    assert phases.count("model") >= 8
