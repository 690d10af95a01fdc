"""A study from its definition to its confirmed mixture, gone on with wherever it stopped."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import optuna
from optuna_mde_studies.definition.config import StudyConfig
from optuna_mde_studies.definition.reading import Definition
from optuna_mde_studies.runner import (
    agreement,
    confirm,
    evidence,
    findings,
    plan,
    precedence,
    warm,
)
from optuna_mde_studies.runner.batch import perform
from optuna_mde_studies.runner.changes import changed_fields, discard_empty
from optuna_mde_studies.runner.confirm import Confirmation
from optuna_mde_studies.runner.corpus import changed_text, open_experiment
from optuna_mde_studies.runner.display import Display
from optuna_mde_studies.runner.domains import follow
from optuna_mde_studies.runner.experiment import Experiment
from optuna_mde_studies.runner.folder import (
    StudyError,
    StudyFolder,
    create,
    write_definition,
)
from optuna_mde_studies.runner.messages import (
    Event,
    Exhausted,
    Failed,
    Noted,
    Order,
    RunOrder,
    SearchOrder,
    Told,
)
from optuna_mde_studies.runner.opening import begin, check
from optuna_mde_studies.runner.recovery import MAX_IN_A_ROW, forgive, is_abandoned, settle
from optuna_mde_studies.runner.remote import check_url
from optuna_mde_studies.runner.resources import places
from optuna_mde_studies.runner.sharing.leases import is_held_by
from optuna_mde_studies.runner.showing import show_best, show_trial
from optuna_mde_studies.runner.trials import WANTED_ATTR, num_finished, on_lost_experts
from optuna_mde_studies.runner.workers import Pool
from optuna_mde_studies.wording import count, goals, named

from optuna_mde.answers.tables import label
from optuna_mde.trials.notes import has_objective, stored_objective

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial
    from optuna_mde_trainers.spec import RunResult

    from optuna_mde.answers.answer import Recommendation


@dataclass(frozen=True)
class Outcome:
    """What a study has come to."""

    study: optuna.Study
    recommendation: Recommendation
    confirmation: Confirmation | None


def run(definition: Definition, folder: StudyFolder, progress: Display) -> Outcome:
    """Runs a study to its end: corpus, experts, search, confirmation.

    Raises:
        DefinitionError: if the definition does not fit the study in the folder, or the text.
        StudyError: if it cannot go on; nothing is written if that is known before it starts.
    """
    folder = folder.placed(definition.config, progress.line)
    settled = precedence.settle(folder, definition)
    if check(settled.definition, folder):  # before there is a folder: a refused start writes none
        warm.offers(folder, settled.definition.config)
    create(folder)
    with folder.owned():
        discard_empty(folder)
        is_said = precedence.is_shared if folder.url is not None else lambda path: False
        changed = changed_fields(folder, settled.definition.config, is_said)
        said = [*settled.lines, *(f"changed since the last start: {line}" for line in changed)]
        with Session(settled.definition, folder, progress, said) as session:
            return session.run()


def confirm_again(
    definition: Definition, folder: StudyFolder, progress: Display, n_seeds: int | None
) -> Outcome:
    """Confirms a study's recommendation as it is now, whether or not its search is over."""
    folder = folder.placed(definition.config, progress.line)
    check_url(definition, folder)
    create(folder)
    with folder.owned(), Session(definition, folder, progress) as session:
        if not num_finished(session.study):
            raise StudyError(f"{folder.path}: no trial is finished yet; `optuna-mde run` first")
        if n_seeds is None and not session.config.confirm.seeds:
            raise StudyError("the definition has confirm.seeds 0: say how many with --seeds")
        return session.conclude(n_seeds)


def _experts_first(experts: int, *, is_begun: bool) -> str:
    """Which of the trials that are left are experts, in words."""
    if not experts:
        return ""
    which = "the first" if experts == 1 else f"the first {experts}"
    what = "an expert" if experts == 1 else "experts"
    return f"{which} of {'those left' if is_begun else 'them'} {what}, "


@dataclass
class Session:
    """One start of a study, by the process that owns its folder.

    A context manager: at its end no worker is alive and no trial RUNNING.
    """

    definition: Definition
    folder: StudyFolder
    progress: Display
    said: list[str] = field(default_factory=list)
    """Lines on what has changed, for when the start can be refused no more."""
    _stack: ExitStack = field(default_factory=ExitStack)
    _failures: int = 0
    _is_searched: bool = False
    _noted: str = ""

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: Any) -> None:
        if "pool" in self.__dict__:  # it was started
            self._stack.__exit__(*error)
            owners = self.pool.owners
            self._settle(lambda trial: is_abandoned(trial) or is_held_by(trial, owners))

    def _settle(self, is_left: Callable[[FrozenTrial], bool]) -> None:
        study = self.study
        with self.folder.asking():
            settle(study, lambda: self.experiment, is_left)

    @property
    def config(self) -> StudyConfig:
        return self.definition.config

    @cached_property
    def study(self) -> optuna.Study:
        return begin(self.definition, self.folder)

    @cached_property
    def experiment(self) -> Experiment:
        """The experiment on the study's corpus, which is made if there is none yet."""
        return open_experiment(self.definition, self.folder, self.study, self.progress)

    @cached_property
    def pool(self) -> Pool:
        """Worker processes, started when something is to be trained and kept until the end."""
        room = places(self.config.launch, len(self.config.domains))
        self.progress.start_workers(room.workers)
        return self._stack.enter_context(Pool(self.folder, room, self.config))

    def run(self) -> Outcome:
        """Everything that is not done yet."""
        self.search()
        return self.conclude(None)

    def search(self) -> None:
        """Trials until as many are finished as the definition asks for."""
        self.folder.bring(self.folder.corpus)
        follow(self.definition, self.folder, self.study, self.progress)
        self._settle(is_abandoned)
        if num_finished(self.study) < self.config.search.n_trials:
            self._open()  # other text is refused before another goal is written
        evidence.take_up(
            self.config, self.folder, self.study, lambda: self.experiment, self.progress
        )
        if num_finished(self.study) < self.config.search.n_trials:
            self._search()
        else:
            self._keep()
            changed = changed_text(self.definition, self.folder, self.study)
            if changed:
                self.progress.line(changed)

    def _keep(self) -> None:
        """Writes down what this start has changed, once nothing can be refused any more."""
        for line in self.said:
            self.progress.line(line)
        agreement.agree_on_files(self.folder, self.study)
        write_definition(self.folder, self.config)
        precedence.keep(self.folder, self.definition)
        agreement.publish(self.study, self.config)
        wanted = self.config.search.n_trials
        if self.study.user_attrs.get(WANTED_ATTR) != wanted:
            self.study.set_user_attr(WANTED_ATTR, wanted)

    def conclude(self, n_seeds: int | None) -> Outcome:
        """The recommendation and its confirmation; what is there already is kept.

        Args:
            n_seeds: seeds to confirm with. None: at least as many as the definition says, if any.
        """
        while True:  # until the goal at the end is the one that it was all read for
            self._follow()
            goal = stored_objective(self.study)
            found = self._concluded(n_seeds)
            if stored_objective(self.study) == goal:
                return found

    def _concluded(self, n_seeds: int | None) -> Outcome:
        folder = self.folder
        folder.bring(folder.recommendation, folder.confirmation)
        fitting = partial(self.progress.stage, "fitting the recommendation")
        try:
            recommendation = findings.recommend(self.study, folder.recommendation, fitting)
        except ValueError as error:  # no run says anything of the goal
            raise StudyError(f"{folder.path}: {error}") from error
        folder.share(folder.recommendation)
        kept = Confirmation.read(folder.confirmation)
        seeds = self.config.confirm.seeds if n_seeds is None else n_seeds
        confirmation = None
        if kept is not None and self._is_current(kept, n_seeds):
            confirmation = kept
        elif seeds:
            confirmation = self._confirm(recommendation, seeds)
        return Outcome(self.study, recommendation, confirmation)

    def _is_current(self, kept: Confirmation, n_seeds: int | None) -> bool:
        if kept.told != num_finished(self.study):
            return False
        sets = self.config.corpus.set_names
        if has_objective(self.study) and not kept.is_of(stored_objective(self.study), sets):
            return False
        if n_seeds is None:
            return len(kept.seeds) >= self.config.confirm.seeds
        return len(kept.seeds) == n_seeds

    # --- search ---

    def _search(self) -> None:
        pool, experiment = self._open()
        with self.folder.asking():
            warm.start(experiment, self.study, self.progress.line)
            forgive(self.study, self.progress.line)
        self._keep()
        n_trials, done = self.config.search.n_trials, num_finished(self.study)
        self.progress.done = done
        self.progress.total = n_trials + 4 * self.config.confirm.seeds
        self.progress.counting("search", done, n_trials)
        if done:
            verb = "is" if done == 1 else "are"
            self.progress.line(f"going on: {count(done, 'trial')} {verb} finished already")
        self.progress.line(f"to minimise, nats per token: {goals(self.config.goals)}")
        had = plan.finished(self.config, self.study)
        missing = [name for name in experiment.domains if name not in had.experts]
        first = _experts_first(min(len(missing), n_trials - done), is_begun=done > 0)
        workers = count(pool.size, "worker")
        self.progress.stage(f"searching: {count(n_trials, 'trial')}, {first}on {workers}")
        full = self.config.training.max_steps
        steps = {name: n for name, n in experiment.expert_steps.items() if name in missing}
        if min(steps.values(), default=full) < full:
            told = ", ".join(f"{domain} {n}" for domain, n in steps.items())
            self.progress.line(f"steps of the experts, out of {full}: {told}")
        if lost := on_lost_experts(self.study):
            self.progress.line(lost)
        show_best(self.study, self.progress)
        pool.run(self._next_trial, self._on_search)

    def _open(self) -> tuple[Pool, Experiment]:
        pool = self.pool  # they start while the corpus is made
        return pool, self.experiment

    def _follow(self) -> None:
        """Takes what has been changed on another machine meanwhile, and says so."""
        before = self.config
        now = precedence.followed(before, self.study, self.folder.url)
        if now is before:
            return
        self.definition = replace(self.definition, config=now)
        self.__dict__.pop("experiment", None)
        told = "; ".join(precedence.changed(before, now))
        self.progress.line(f"changed on another machine, and counts here from now on: {told}")
        n_trials, done = now.search.n_trials, num_finished(self.study)
        self.progress.total += n_trials - before.search.n_trials
        if not self._is_searched:
            self.progress.counting("search", done, n_trials)

    def _next_trial(self) -> Order | None:
        return None if self._is_searched else SearchOrder()

    def _on_search(self, worker: int, event: Event) -> None:
        self.progress.event(worker, event)
        match event:
            case Exhausted():
                self._is_searched = True
                self._follow()
            case Noted(text):
                self._note(text)
            case Told(number):
                self._failures = 0
                self._follow()
                show_trial(self.study, self.progress, number)
            case Failed(_, message):
                self._failures += 1
                if self._failures >= MAX_IN_A_ROW:
                    raise StudyError(
                        f"{self._failures} runs failed one after the other; the last: {message} "
                        f"(details in {self.folder.logs})"
                    )

    def _note(self, text: str) -> None:
        if text != self._noted:  # every worker says it
            self._noted = text
            self.progress.line(text)

    # --- confirmation ---

    def _confirm(self, recommendation: Recommendation, n_seeds: int) -> Confirmation:
        experiment = self.experiment
        mixtures = {confirm.RECOMMENDED: dict(recommendation.mixture)}
        wanted = ("natural", "uniform", "best expert")
        mixtures |= {
            label(row): dict(row.mixture)
            for row in recommendation.rows
            if row.name.startswith(wanted) and not row.forbidden
        }
        confirmation = Confirmation(
            told=num_finished(self.study),
            objective=stored_objective(self.study),
            seeds=confirm.fresh_seeds(self.config.training.seed, n_seeds),
            mixtures=confirm.distinct(mixtures),
        )
        orders = confirm.orders(experiment, confirmation)
        results = self.train(
            orders, f"confirming: {', '.join(confirmation.mixtures)}, {n_seeds} fresh seeds each"
        )
        confirmation = confirm.gather(confirmation, results)
        confirmation.write(self.folder.confirmation)
        self.folder.share(self.folder.confirmation)
        return confirmation

    def train(self, orders: list[RunOrder], stage: str) -> list[RunResult]:
        """Results of runs, in their order; those that are finished already are taken."""
        experiment = self.experiment
        warm.adopt(experiment, [order.spec for order in orders], self.progress.line)
        results = {order.name: experiment.finished(order.spec) for order in orders}
        waiting = [order for order in orders if results[order.name] is None]
        self.progress.done += len(orders) - len(waiting)
        self.progress.total = self.progress.done + len(waiting)
        self.progress.counting("confirmation", len(orders) - len(waiting), len(orders))

        def keep(order: RunOrder, result: RunResult) -> None:
            results[order.name] = result
            shown = named(experiment.goals.values(result.losses), self.config.goals.names)
            self.progress.finished(f"{order.name}: {shown}")

        def fail(order: RunOrder, message: str) -> None:
            raise StudyError(f"a confirming run failed: {message}")

        if waiting:
            self.progress.stage(stage)
            perform(waiting, experiment, self.pool, self.progress, keep, fail)
        return [result for result in results.values() if result is not None]
