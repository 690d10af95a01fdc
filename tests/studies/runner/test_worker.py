"""The worker's loop, with a trainer of the test's: how many trials, and what disks do to them."""

from __future__ import annotations

import dataclasses
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from filelock import Timeout
from optuna.trial import TrialState
from optuna_mde_studies.definition import reading
from optuna_mde_studies.runner import folder as runner_folder
from optuna_mde_studies.runner import opening, recovery, trials
from optuna_mde_studies.runner.experiment import Experiment
from optuna_mde_studies.runner.folder import StudyFolder, create
from optuna_mde_studies.runner.launchers.contract import OnStep
from optuna_mde_studies.runner.messages import Event, Exhausted, Failed, Noted, SearchOrder, Told
from optuna_mde_studies.runner.sharing import leases, owners, patience
from optuna_mde_studies.runner.sharing.owners import Owner, owner
from optuna_mde_studies.runner.trials import WANTED_ATTR
from optuna_mde_studies.runner.worker import Worker
from optuna_mde_trainers.spec import RunResult, RunSpec

from benchmarks import workers


@pytest.fixture
def begun(tmp_path: Path) -> tuple[reading.Definition, StudyFolder]:
    """A study of six trials, begun."""
    (tmp_path / "killed.yaml").write_text(workers.DEFINITION)
    definition = reading.read(str(tmp_path / "killed.yaml"), ["search.n_trials=6"])
    folder = StudyFolder(tmp_path / "study").placed(definition.config)
    create(folder)
    opening.begin(definition, folder).set_user_attr(WANTED_ATTR, 6)
    return definition, folder


def work(
    begun: tuple[reading.Definition, StudyFolder],
    around: Callable[[workers.Toy, RunSpec, Path], None] = lambda toy, spec, runs: None,
) -> list[Event]:
    """What a worker says until the study's end; `around` is called before every run."""
    said = said_of(begun, around, 16)
    assert isinstance(said[-1], Exhausted), said
    return said


def said_of(
    begun: tuple[reading.Definition, StudyFolder],
    around: Callable[[workers.Toy, RunSpec, Path], None],
    n_orders: int,
) -> list[Event]:
    """What a worker says of so many orders, or until the study's end."""
    definition, folder = begun
    said: list[Event] = []

    class Trainer(workers.Toy):
        def run(self, spec: RunSpec, runs: Path, on_step: OnStep) -> RunResult:
            around(self, spec, runs)
            return super().run(spec, runs, on_step)

    waits = dataclasses.replace(folder, say=lambda text: said.append(Noted(text)))
    experiment = workers.experiment(waits, definition.config)
    experiment.__dict__["launcher"] = Trainer()
    with owner() as me:
        worker = Worker(lambda: experiment, me, said.append, sys.stderr)
        for _ in range(n_orders):
            worker.perform(SearchOrder())
            if isinstance(said[-1], Exhausted):
                break
    return said


def finished(begun: tuple[reading.Definition, StudyFolder]) -> int:
    definition, folder = begun
    return trials.num_finished(opening.open_study(folder, definition.config))


def test_a_worker_ends_when_as_many_are_finished_as_are_wanted(begun):
    said = work(begun)
    assert [event.number for event in said if isinstance(event, Told)] == list(range(6))
    assert [type(event) for event in work(begun)] == [Exhausted]
    workers.check(begun[1], begun[0].config)


def is_taken(folder: StudyFolder, study_id: int) -> bool:
    """Whether somebody is at his turn to propose."""
    try:
        with folder.turn(study_id):
            return False
    except Timeout:
        return True


def test_workers_propose_in_turns_and_train_beside_one_another(begun, monkeypatch):
    monkeypatch.setattr(runner_folder, "TURN_SECONDS", 0.0)
    definition, folder = begun
    seen: list[tuple[str, bool]] = []

    class Watched(Experiment):
        def propose(self, trial: optuna.Trial, study: optuna.Study) -> RunSpec:
            seen.append(("propose", is_taken(self.folder, study._study_id)))
            return super().propose(trial, study)

    class Trainer(workers.Toy):
        def run(self, spec: RunSpec, runs: Path, on_step: OnStep) -> RunResult:
            study = opening.open_study(folder, definition.config)
            seen.append(("train", is_taken(folder, study._study_id)))
            return super().run(spec, runs, on_step)

    experiment = workers.experiment(folder, definition.config)
    watched = Watched(experiment.config, experiment.folder, experiment.corpus)
    watched.__dict__["launcher"] = Trainer()
    with owner() as me:
        worker = Worker(lambda: watched, me, lambda event: None, sys.stderr)
        for _ in range(2):
            worker.perform(SearchOrder())
    assert seen == [("propose", True), ("train", False)] * 2


def test_a_turn_that_does_not_come_is_not_waited_for_longer(begun, monkeypatch):
    monkeypatch.setattr(runner_folder, "TURN_SECONDS", 0.05)
    definition, folder = begun
    with folder.turn(opening.open_study(folder, definition.config)._study_id):
        work(begun)
    assert finished(begun) == 6


def test_a_full_disk_is_waited_for(begun, monkeypatch):
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.01)
    full = iter([True] * 3)

    def fill(*_: object) -> None:
        if next(full, False):
            with open("/dev/full", "wb", buffering=0) as file:
                file.write(b"checkpoint")

    said = work(begun, fill)
    assert [event.text for event in said if isinstance(event, Noted)] == [
        "no space is left for a run ([Errno 28] No space left on device); waiting",
        "there is space again",
    ]
    assert not any(isinstance(event, Failed) for event in said)
    assert finished(begun) == 6


def test_a_damaged_result_makes_way_for_its_run(begun):
    damaged: list[Path] = []

    def spoil(toy: workers.Toy, spec: RunSpec, runs: Path) -> None:
        if not damaged:  # as if an earlier attempt had left it; the run fails, and is taken up
            path = spec.folder(runs) / "result.json"
            path.parent.mkdir(parents=True)
            path.write_text('{"losses": ')
            damaged.append(path)
            raise OSError(5, "Input/output error")

    said = work(begun, spoil)
    assert finished(begun) == 6
    assert [event.again for event in said if isinstance(event, Failed)] == [True]
    (noted,) = (event.text for event in said if isinstance(event, Noted))
    assert noted.startswith(str(damaged[0])), noted
    assert noted.endswith("set aside, and the run performed again")
    assert damaged[0].with_suffix(".damaged").read_text() == '{"losses": '
    assert RunResult.read(damaged[0]).losses


def test_a_run_that_fails_twice_is_left_and_the_study_goes_on(begun):
    specs: list[RunSpec] = []

    def fail(toy: workers.Toy, spec: RunSpec, runs: Path) -> None:
        specs.append(spec)
        if spec == specs[0]:
            raise RuntimeError("this mixture cannot be trained")

    said = work(begun, fail)
    failures = [event for event in said if isinstance(event, Failed)]
    assert [event.again for event in failures] == [True, False]
    assert failures[0].message == "RuntimeError: this mixture cannot be trained"
    assert finished(begun) == 6


def broken(*_: object) -> None:
    raise RuntimeError("train.sh: not found")


def test_a_broken_trainer_loses_no_expert(begun):
    """Three starts are stopped by three failures in a row each; the fourth has a good trainer."""
    definition, folder = begun
    study = opening.open_study(folder, definition.config)
    lines: list[str] = []
    for _ in range(3):
        recovery.forgive(study, lines.append)
        said = said_of(begun, broken, 3)
        assert sum(isinstance(event, Failed) for event in said) == 3
    assert not experts(study, *trials.FINISHED)
    assert experts(study, TrialState.FAIL)
    recovery.forgive(study, lines.append)
    work(begun)
    assert finished(begun) == 6
    assert experts(study, TrialState.FAIL) <= experts(study, *trials.FINISHED)
    assert lines
    assert all(line.startswith("TRIED AGAIN: trial") for line in lines)
    lines.clear()
    recovery.forgive(study, lines.append)
    assert not lines, "each run is forgiven once"


def test_a_run_that_failed_by_itself_is_not_forgiven(begun):
    seen: list[RunSpec] = []

    def fail(toy: workers.Toy, spec: RunSpec, runs: Path) -> None:
        seen.append(spec)
        if spec == seen[0]:
            raise RuntimeError("this mixture cannot be trained")

    work(begun, fail)
    study = opening.open_study(begun[1], begun[0].config)
    recovery.forgive(study, lambda line: pytest.fail(line))
    assert not study.get_trials(states=[TrialState.WAITING])


def experts(study: optuna.Study, *states: TrialState) -> set[str]:
    """Domains that trials of these states train alone."""
    found = [trial.params for trial in study.get_trials(states=states)]
    return {max(params, key=params.__getitem__) for params in found if max(params.values()) == 1}


def test_status_names_every_machine_at_work(begun):
    definition, folder = begun
    study = opening.open_study(folder, definition.config)
    for place in ("node3:17", "node3:18", "node7:17"):
        leases.ask(study, Owner(uuid.uuid4().hex, place))
    said = "running now: 3 workers, on node3 and node7"
    assert trials.activity(study, has_runner=True) == said


def test_status_tells_held_trials_from_those_that_were_left(begun):
    definition, folder = begun
    study = opening.open_study(folder, definition.config)
    assert trials.activity(study, has_runner=False) == "not running"
    gone = uuid.uuid4().hex
    leases.ask(study, Owner(gone, "node3:17"))
    assert trials.counts(study) == {"running": 1}
    assert trials.activity(study, has_runner=False) == "running now: 1 worker, on node3"
    place = owners._folder()
    assert place is not None
    dead = place / gone
    dead.touch()  # as a process of this machine leaves it that was killed
    assert trials.counts(study) == {"left by a process that is gone": 1}
    assert trials.activity(study, has_runner=False) == "not running"
    work(begun)
    assert not dead.exists()
    assert trials.counts(study) == {"interrupted": 1, "complete": 6}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "journal", "postgresql"])
def test_killed_workers_lose_and_repeat_nothing(kind, tmp_path):
    """A small form of `python -m benchmarks.workers`, which has the figures."""
    with workers.storage(kind) as url:
        (tmp_path / "killed.yaml").write_text(workers.DEFINITION)
        overrides = ["search.n_trials=9", *([] if url is None else [f"storage='{url}'"])]
        definition = reading.read(str(tmp_path / "killed.yaml"), overrides)
        folder = StudyFolder(tmp_path / "study")
        create(folder)
        workers.warm_up()
        workers.storm(folder, definition, workers=3, every=4.0, seed=1)
        workers.check(folder, definition.config)
