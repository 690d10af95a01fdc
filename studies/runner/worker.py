"""The worker's loop: takes a trial, trains it, tells it, until enough are finished.

Any number of processes may do so at once, on any machines. Under the study's lock each first
brings to an end what nobody works on any more, and then takes a trial only if finished ones and
held ones are fewer than are wanted: so that as many are finished in the end as were asked for.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, TextIO

import optuna
from optuna.trial import TrialState
from optuna_mde_studies.runner import recovery
from optuna_mde_studies.runner.experiment import Experiment
from optuna_mde_studies.runner.folder import StudyError
from optuna_mde_studies.runner.identity import find
from optuna_mde_studies.runner.messages import (
    Asked,
    Event,
    Exhausted,
    Failed,
    Noted,
    Order,
    RunOrder,
    SearchOrder,
    Step,
    Superseded,
    TakenUp,
    Told,
    Trained,
    Training,
    Waiting,
)
from optuna_mde_studies.runner.precedence import followed
from optuna_mde_studies.runner.sharing.leases import Heart, ask, is_held_by, lease
from optuna_mde_studies.runner.sharing.owners import Owner, forget
from optuna_mde_studies.runner.sharing.patience import impatient, is_away, is_full, patiently
from optuna_mde_studies.runner.trials import WANTED_ATTR, num_finished, num_held
from optuna_mde_studies.runner.warned import heard
from optuna_mde_trainers.spec import DivergedError

from optuna_mde import MDESampler

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial
    from optuna_mde_trainers.spec import RunResult, RunSpec

STEP_SECONDS = 0.25
"""At most one report of a run's step in this time."""
IDLE_SECONDS = 1.0
"""Between two looks for a trial while all are held by others."""


class SupersededError(RuntimeError):
    """The trial that a run belongs to was brought to an end by somebody else."""


class Worker:
    """Performs orders, one at a time.

    Args:
        open_experiment: Opens the study's experiment; called at the first order.
        owner: This process.
        say: Hears what happens.
        log: Gets the tracebacks of runs that fail.
    """

    def __init__(
        self,
        open_experiment: Callable[[], Experiment],
        owner: Owner,
        say: Callable[[Event], None],
        log: TextIO,
    ) -> None:
        self._log = log
        self._open = open_experiment
        self._owner = owner
        self._say = say
        self._experiment: Experiment | None = None
        self._study: optuna.Study | None = None
        self._heart: Heart | None = None
        self._last_step = 0.0

    @property
    def experiment(self) -> Experiment:
        """The study's experiment, from the first order on."""
        if self._experiment is None:
            self._experiment = self._open()
        return self._experiment

    @property
    def study(self) -> optuna.Study:
        """The study, with the sampler that proposes its mixtures."""
        if self._study is None:
            config = self.experiment.config
            sampler = MDESampler(
                seed=config.search.seed,
                objective=config.objective,
                expert_budget=self.experiment.expert_budget,
            )
            self._study = find(self.experiment.folder, config.name, sampler)
            if self._study is None:
                raise StudyError(f"{self.experiment.folder.path}: the study is gone")
        return self._study

    @property
    def heart(self) -> Heart:
        """What renews this process's leases, from the first trial on."""
        if self._heart is None:
            study = self.study
            # A thread of its own, which never speaks: whoever listens hears one thread.
            storage = impatient(study._storage)
            self._heart = Heart(storage, study._study_id, self._owner).__enter__()
        return self._heart

    def perform(self, order: Order) -> None:
        """Performs an order to its end, which is said last."""
        try:
            if isinstance(order, RunOrder):
                self._say(Training(order.name, dict(order.spec.training.mixture)))
                result = self._train(order.spec)
                self._say(Trained(order, result))
            else:
                self._search(order)
        except Exception as error:
            traceback.print_exc(file=self._log)
            self._say(Failed(order, _reason(error)))

    def _search(self, order: SearchOrder) -> None:
        with ExitStack() as turn:
            trial = self._next_trial(turn)
            if trial is None:
                self._say(Exhausted())
                return
            self._say(Asked(trial.number))
            try:
                with self._holding(trial):
                    self._say(self._run(trial, order, turn))
            except SupersededError:
                self._say(Superseded(trial.number))

    def _run(self, trial: optuna.Trial, order: SearchOrder, turn: ExitStack) -> Told | Failed:
        try:
            with turn:
                spec = self.experiment.propose(trial, self.study)
            self._say(Training(_name(trial), dict(spec.training.mixture)))
            result = self._train(spec)
            with self._own(trial):
                try:
                    values = self.experiment.report(trial, spec, result)
                except optuna.TrialPruned:
                    self.study.tell(trial, state=TrialState.PRUNED)
                else:
                    self.study.tell(trial, values)
        except SupersededError:
            raise
        except Exception as error:
            traceback.print_exc(file=self._log)
            final, reason = isinstance(error, DivergedError), _reason(error)
            with self._own(trial):
                again = recovery.fail(self.study, trial, reason, is_final=final)
            return Failed(order, reason, again)
        return Told(trial.number)

    def _train(self, spec: RunSpec) -> RunResult:
        """The run; where the disk is full it waits for space, and goes on from its checkpoint."""

        def note(text: str) -> None:
            self._say(Noted(text))

        with heard(note):
            return patiently(
                lambda: self.experiment.train(spec, self._on_step),
                note,
                is_full,
                ("no space is left for a run", "there is space again"),
            )

    def _next_trial(self, turn: ExitStack) -> optuna.Trial | None:
        """A trial that is this process's now; None when enough are finished.

        Args:
            turn: Gets this process's turn to propose: the trials' order is the proposals'.
        """
        waits = False
        while True:
            self._take_turn(turn)
            with self.experiment.folder.asking():
                self._settle()
                finished, wanted = num_finished(self.study), self.study.user_attrs[WANTED_ATTR]
                self._follow()
                if finished >= wanted:
                    return None
                if finished + num_held(self.study) < wanted:
                    return ask(self.study, self._owner)
            turn.close()
            if not waits:
                self._say(Waiting())
                waits = True
            time.sleep(IDLE_SECONDS)

    def _follow(self) -> None:
        """Goes on with the bounds and the goal that another machine has changed."""
        experiment = self.experiment
        config = followed(experiment.config, self.study, experiment.folder.url)
        if config is not experiment.config:
            self._experiment = replace(experiment, config=config)
            self._study = None  # its sampler has the objective

    def _take_turn(self, turn: ExitStack) -> None:
        try:
            turn.enter_context(self.experiment.folder.turn(self.study._study_id))
        except Exception as error:
            if not is_away(error):  # what takes too long, or has no lock, goes without
                raise

    def _settle(self) -> None:
        settled = recovery.settle(self.study, lambda: self.experiment, self._is_left)
        for trial in settled:
            held = lease(trial)
            self._say(TakenUp(trial.number, "" if held is None else str(held.get("place", ""))))
            if held is not None:
                forget(held["owner"])

    def _is_left(self, trial: FrozenTrial) -> bool:
        """Asked while this process holds none: what it holds by its lease, it has lost sight
        of."""
        if not recovery.is_ours(trial):
            return False
        if lease(trial) is None or is_held_by(trial, [self._owner.id]):
            return True
        return self.heart.watch.has_lapsed(trial)

    @contextmanager
    def _holding(self, trial: optuna.Trial) -> Iterator[None]:
        """Renews the trial's lease; hands the trial back where this process is asked to end."""
        self.heart.hold(trial._trial_id)
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            with self.experiment.folder.asking():
                recovery.hand_back(self.study, trial._trial_id)
            raise
        finally:
            self.heart.hold(None)

    @contextmanager
    def _own(self, trial: optuna.Trial) -> Iterator[None]:
        """The study's lock, with the trial still this process's.

        Raises:
            SupersededError: if somebody else has brought it to an end.
        """
        with self.experiment.folder.asking():
            if trial.storage.get_trial(trial._trial_id).state.is_finished():
                raise SupersededError
            yield

    def _on_step(self, step: int, total: int) -> None:
        if self._heart is not None and self._heart.has_lost:
            raise SupersededError
        now = time.monotonic()
        if step == total or now - self._last_step >= STEP_SECONDS:
            self._last_step = now
            self._say(Step(step, total))


def _name(trial: optuna.Trial) -> str:
    phase = trial.user_attrs.get("phase")
    return f"trial {trial.number}, {phase}" if phase else f"trial {trial.number}"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
