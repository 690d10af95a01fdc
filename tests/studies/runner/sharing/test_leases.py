"""Trials that are held: by whom, for how long, and what becomes of those that are left."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from optuna_mde_studies.runner import recovery
from optuna_mde_studies.runner.sharing import leases, owners
from optuna_mde_studies.runner.sharing.leases import Heart, Watch, ask, lease
from optuna_mde_studies.runner.sharing.owners import Owner, has_died, owner
from optuna_mde_studies.runner.sharing.storages import open_storage

HERE = Owner("0" * 32, "here:1")


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of Optuna's proxy before a journal."""
    pytest.importorskip("grpc")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = tmp_path_factory.mktemp("journal") / "log"
    backend = open_storage(f"journal:{path}", path.parent)
    options = {"host": "127.0.0.1", "port": port}
    serve = optuna.storages.run_grpc_proxy_server
    threading.Thread(target=serve, args=(backend,), kwargs=options, daemon=True).start()
    return f"grpc://127.0.0.1:{port}"


@pytest.fixture(params=["sqlite", "journal", "grpc"])
def study(request: pytest.FixtureRequest, tmp_path: Path) -> optuna.Study:
    if request.param == "grpc":
        url = request.getfixturevalue("proxy")
    else:
        url = {"sqlite": f"sqlite:///{tmp_path}/s.db", "journal": f"journal:{tmp_path}/log"}[
            request.param
        ]
    return optuna.create_study(storage=open_storage(url, tmp_path), study_name=tmp_path.name)


def abandoned(study: optuna.Study, **attrs: Any) -> optuna.Trial:
    """A trial of a process that is gone, with a spec."""
    trial = ask(study, HERE)
    trial.suggest_float("x", 0, 1)
    trial.set_user_attr("spec", {"of": trial.number})
    for key, value in attrs.items():
        trial.set_user_attr(key, value)
    return trial


class Results:
    """An experiment of which some trials' runs are finished."""

    def __init__(self, *finished: int) -> None:
        self._finished = finished

    def spec(self, attrs: dict[str, Any]) -> int:
        return int(attrs["spec"]["of"])

    def finished(self, spec: int) -> SimpleNamespace | None:
        return SimpleNamespace(value=float(spec)) if spec in self._finished else None

    def report(self, trial: optuna.Trial, spec: int, result: SimpleNamespace) -> float:
        return float(result.value)


def settle(study: optuna.Study, *finished: int) -> list[int]:
    found: Any = Results(*finished)
    return [t.number for t in recovery.settle(study, lambda: found, recovery.is_ours)]


def test_a_trial_is_held_from_its_first_moment(study: optuna.Study) -> None:
    study.enqueue_trial({"x": 0.25})
    asked = [ask(study, HERE) for _ in range(2)]
    assert [trial.number for trial in asked] == [0, 1]
    assert asked[0].suggest_float("x", 0, 1) == 0.25
    for frozen in study.get_trials():
        assert frozen.state == TrialState.RUNNING
        assert lease(frozen) == {"owner": HERE.id, "place": "here:1", "beat": 0}
        assert frozen.datetime_start is not None


def test_a_lease_lapses_when_it_is_seen_unchanged_for_long_enough(study: optuna.Study) -> None:
    times = iter([*range(0, 121, 20), 121, 122])
    watch = Watch(clock=lambda: next(times))
    ask(study, HERE)

    def lapsed() -> bool:
        (trial,) = study.get_trials(states=(TrialState.RUNNING,))
        watch.look([trial])
        return watch.has_lapsed(trial)

    assert [lapsed() for _ in range(8)] == [False] * 7 + [True]
    (trial,) = study.get_trials()
    text = {"owner": HERE.id, "place": HERE.place, "beat": 1}
    study._storage.set_trial_system_attr(trial._trial_id, leases.LEASE_ATTR, text)
    assert not lapsed()


def test_time_in_which_nobody_could_look_does_not_count(study: optuna.Study) -> None:
    times = iter([0.0, 86_400.0])  # the storage was away for a day
    watch = Watch(clock=lambda: next(times))
    ask(study, HERE)
    for _ in range(2):
        watch.look(study.get_trials())
    assert not watch.has_lapsed(study.get_trials()[0])


def test_a_heart_beats_and_hears_that_its_trial_is_gone(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.02)
    trial = ask(study, HERE)
    with Heart(study._storage, study._study_id, HERE) as heart:
        heart.hold(trial._trial_id)
        wait_for(lambda: (lease(study.get_trials()[0]) or {})["beat"] > 1)
        assert not heart.has_lost
        study.tell(trial, state=TrialState.FAIL)
        wait_for(lambda: heart.has_lost)


DIES = """
import os, signal
from optuna_mde_studies.runner.sharing.owners import owner
with owner() as me:
    print(me.id, flush=True)
    input()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_of_this_machine_is_known_to_be_dead_at_once() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", DIES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    found = process.stdout.readline().strip()
    assert not has_died(found)
    process.communicate("\n")
    assert has_died(found)
    owners.forget(found)
    assert not has_died(found)  # nothing is known of it any more
    assert not has_died("../" * 3 + found)
    with owner() as me:
        assert not has_died(me.id)
    assert not (Path(tempfile.gettempdir()) / me.id).exists()


def test_what_is_left_is_told_or_queued_again_exactly_once(study: optuna.Study) -> None:
    done, begun = abandoned(study, phase="model"), abandoned(study, phase="natural")
    empty = ask(study, HERE)
    theirs = study.ask()  # of somebody who knows nothing of leases
    assert settle(study, done.number) == [0, 1, 2]
    assert settle(study) == []
    trials = study.get_trials()
    states = [trial.state.name for trial in trials]
    assert states == ["COMPLETE", "FAIL", "FAIL", "RUNNING", "WAITING"]
    assert trials[0].value == 0.0
    assert (empty.number, theirs.number) == (2, 3)
    queued = trials[4]
    assert queued.system_attrs["fixed_params"] == begun.params
    assert queued.user_attrs == {"spec": {"of": 1}, "phase": "natural", "continues": 1}


def test_a_death_between_failing_and_queueing_loses_nothing(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    abandoned(study)
    with monkeypatch.context() as patched:
        patched.setattr(recovery, "queue_again", lambda study: None)  # it dies here
        settle(study)
    assert [trial.state.name for trial in study.get_trials()] == ["FAIL"]
    settle(study)
    settle(study)
    assert [trial.state.name for trial in study.get_trials()] == ["FAIL", "WAITING"]


def test_a_run_that_fails_by_itself_is_tried_once_more(study: optuna.Study) -> None:
    said = []
    trial = abandoned(study)
    for _ in range(2):
        said.append(recovery.fail(study, trial, "RunError: no memory", is_final=False))
        if said[-1]:
            settle(study)
            trial = ask(study, HERE)
            trial.suggest_float("x", 0, 1)
    assert said == [True, False]
    failed = study.get_trials()
    assert [trial.state.name for trial in failed] == ["FAIL", "FAIL"]
    assert failed[1].user_attrs["error"] == "RunError: no memory"
    assert failed[0].params == failed[1].params


def test_a_death_by_signal_is_no_failure_of_the_run(study: optuna.Study) -> None:
    for _ in range(5):
        trial = ask(study, HERE)
        trial.suggest_float("x", 0, 1)
        if "spec" not in trial.user_attrs:
            trial.set_user_attr("spec", {"of": 0})
        settle(study)
    assert [trial.state.name for trial in study.get_trials()] == ["FAIL"] * 5 + ["WAITING"]


def wait_for(condition: Any) -> None:
    import time

    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
