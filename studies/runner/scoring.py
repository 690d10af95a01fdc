"""Kept weights of finished runs on sets that they have no loss of, scored by workers."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from optuna_mde_studies.runner import confirm
from optuna_mde_studies.runner.batch import perform
from optuna_mde_studies.runner.confirm import Confirmation
from optuna_mde_studies.runner.experiment import SPEC_ATTR, Experiment
from optuna_mde_studies.runner.launchers import RunFailedError
from optuna_mde_studies.runner.messages import RunOrder
from optuna_mde_studies.runner.resources import places
from optuna_mde_studies.runner.trials import FINISHED
from optuna_mde_studies.runner.workers import Pool
from optuna_mde_studies.wording import count, listed
from optuna_mde_trainers.corpus.blocks import TASKS, VALIDATION, set_folder
from optuna_mde_trainers.spec import RESULT_FILE, WEIGHTS_FILE, RunError

from optuna_mde import add_losses, get_losses
from optuna_mde.trials.notes import has_objective, set_present_objective

if TYPE_CHECKING:
    import optuna
    from optuna_mde_studies.runner.display import Display
    from optuna_mde_trainers.spec import RunResult, RunSpec

MOST_NAMED = 3
"""Runs that could not be scored and are named one by one; the others are counted."""
ADD_SECONDS = 5.0
"""Between two batches of losses: each is an attribute of the study, which every ask reads."""
TRIES = 2
"""Workers that may die of one run, before the others are scored without it."""

THEIRS = "launch.command trained them, and only that trainer reads their weights"


@dataclass(frozen=True)
class _Run:
    """A finished run, and the sets that it has no loss of."""

    name: str
    spec: RunSpec
    sets: frozenset[str]
    number: int | None = None
    """Of its trial; None of a confirmation's run."""


@dataclass
class Scored:
    """What scoring has come to so far; losses of trials are added to the study on the way."""

    study: optuna.Study
    results: dict[str, RunResult] = field(default_factory=dict)
    """By the names of the runs."""
    left: dict[str, str] = field(default_factory=dict)
    """Runs that could not be scored, with the reasons."""
    _new: dict[int, dict[str, float]] = field(default_factory=dict)
    _since: float = field(default_factory=time.monotonic)

    def keep(self, run: _Run, result: RunResult) -> None:
        self.results[run.name] = result
        if run.number is not None:
            self._new[run.number] = {name: result.losses[name] for name in sorted(run.sets)}
        if time.monotonic() - self._since > ADD_SECONDS:
            self.add()

    def add(self) -> None:
        """Adds what is new, but for what another process has added meanwhile."""
        known = get_losses(self.study) if self._new else {}
        new = {
            number: {name: x for name, x in losses.items() if name not in known.get(number, {})}
            for number, losses in self._new.items()
        }
        if any(new.values()):
            add_losses(self.study, {number: losses for number, losses in new.items() if losses})
        self._new.clear()
        self._since = time.monotonic()


def score_missing(experiment: Experiment, study: optuna.Study, display: Display) -> Scored:
    """Scores the kept weights of finished runs on sets of the corpus that they have no loss of, on
    workers as they train the study's runs.

    Losses of trials are added to the study, so that whoever is interrupted goes on; experts'
    log-probabilities are written into their files. Several processes, on several machines, may do
    so at once: each run is scored by one of them.

    Raises:
        StudyError: if workers keep dying.
    """
    _keep_mean(experiment, study)
    scored, folder = Scored(study), experiment.folder
    folder.bring(folder.confirmation)
    confirmation = Confirmation.read(folder.confirmation)
    fresh = [] if confirmation is None else _fresh_runs(experiment, confirmation)
    runs = [*_searched_runs(experiment, study, scored.left), *fresh]
    missing = sorted({name for run in runs for name in run.sets})
    if runs:
        display.stage(
            f"scoring {count(len(runs), 'finished run')} on {listed(missing)}; none is trained"
        )
        try:
            _score(experiment, runs, scored, display)
        finally:
            scored.add()
    if confirmation is not None and fresh and all(run.name in scored.results for run in fresh):
        results = [scored.results[run.name] for run in fresh]
        confirm.gather(confirmation, results).write(folder.confirmation)
        folder.share(folder.confirmation)
    _say(experiment, study, missing, scored.left, display)
    return scored


def unscored(study: optuna.Study, sets: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Finished trials of ours with the sets that they have no loss of."""
    known = get_losses(study)
    for trial in study.get_trials(deepcopy=False, states=FINISHED):
        lacking = [name for name in sets if name not in known.get(trial.number, {})]
        if lacking and SPEC_ATTR in trial.user_attrs:
            yield trial.number, lacking


def _searched_runs(
    experiment: Experiment, study: optuna.Study, left: dict[str, str]
) -> Iterator[_Run]:
    """The runs of trials; of what is none of this study's, the reason in `left`."""
    attrs = {trial.number: trial.user_attrs for trial in study.get_trials(deepcopy=False)}
    for number, sets in unscored(study, experiment.corpus.sets):
        name = f"trial {number}"
        try:
            spec = experiment.spec(attrs[number])
        except RunFailedError as error:
            left[name] = str(error)
        else:
            yield _Run(name, spec, frozenset(sets), number)


def _fresh_runs(experiment: Experiment, confirmation: Confirmation) -> list[_Run]:
    """All runs of a confirmation, if one of them lacks a set."""
    found = [losses.keys() for runs in confirmation.losses.values() for losses in runs]
    if not found:
        return []
    sets = frozenset(n for n in experiment.corpus.sets if not all(n in losses for losses in found))
    if not sets:
        return []
    return [
        _Run(order.name, order.spec, sets) for order in confirm.orders(experiment, confirmation)
    ]


def _score(experiment: Experiment, runs: Sequence[_Run], scored: Scored, display: Display) -> None:
    """Scores runs; what is there already is taken, and what cannot be scored is left."""
    display.done, display.total = 0, len(runs)
    display.counting("scored", 0, len(runs))
    waiting = {run.name: run for run in runs if not _is_settled(experiment, run, scored)}
    display.done = len(runs) - len(waiting)
    if not waiting:
        return

    def keep(order: RunOrder, result: RunResult) -> None:
        run = waiting[order.name]
        scored.keep(run, result)
        losses = ", ".join(f"{name} {result.losses[name]:.4f}" for name in sorted(run.sets))
        display.finished(f"{run.name}: {losses}")

    def leave(order: RunOrder, message: str) -> None:
        scored.left[order.name] = message
        display.done += 1

    config = experiment.config
    room = places(config.launch, len(config.domains))
    room = replace(room, workers=min(room.workers, len(waiting)))
    display.start_workers(room.workers)
    orders = [RunOrder(run.name, run.spec) for run in waiting.values()]
    with Pool(experiment.folder, room, config, trains=False) as pool:
        perform(orders, experiment, pool, display, keep, leave, TRIES)


def _is_settled(experiment: Experiment, run: _Run, scored: Scored) -> bool:
    """Whether a run is not to be scored: it has been, or it cannot be."""
    try:
        result = _kept(experiment, run)
    except Exception as error:  # damage of any kind: the study goes on without the run
        scored.left[run.name] = str(error) or type(error).__name__
        return True
    if run.sets <= result.losses.keys():
        scored.keep(run, result)
        return True
    return False


def _kept(experiment: Experiment, run: _Run) -> RunResult:
    """What a run has left.

    Raises:
        RunError: if it can be scored no more; a worker would train it again.
    """
    folder = run.spec.folder(experiment.folder.runs)
    result = experiment.launcher.finished(run.spec, experiment.folder.runs)
    if result is None:
        raise RunError(f"{folder} has no {RESULT_FILE} any more")
    if run.sets <= result.losses.keys():
        return result
    if experiment.config.launch.command is not None:
        raise RunError(THEIRS)
    is_here = experiment.folder.mirror is None  # else whoever scores it brings it over
    if is_here and not (folder / WEIGHTS_FILE).is_file():
        raise RunError(f"{folder / WEIGHTS_FILE} is gone")
    return result


def _say(
    experiment: Experiment,
    study: optuna.Study,
    sets: list[str],
    left: dict[str, str],
    display: Display,
) -> None:
    """What was found, and what could not be."""
    known = get_losses(study)
    others = [
        trial
        for trial in study.get_trials(deepcopy=False, states=FINISHED)
        if SPEC_ATTR not in trial.user_attrs and set(sets) - known.get(trial.number, {}).keys()
    ]
    for name in sets:
        values = {number: losses[name] for number, losses in known.items() if name in losses}
        if values:
            best = min(values, key=values.__getitem__)
            display.line(
                f"{name}: {count(len(values), 'trial')} from {values[best]:.4f} (trial {best}) "
                f"to {max(values.values()):.4f} nats per token"
            )
    ours = {run: reason for run, reason in left.items() if reason != THEIRS}
    for run, reason in list(ours.items())[:MOST_NAMED]:
        display.line(f"{run} was not scored: {reason}")
    if len(ours) > MOST_NAMED:
        display.line(f"{len(ours) - MOST_NAMED} more runs were not scored, for such reasons")
    if theirs := len(left) - len(ours):
        way = _their_way(experiment, sets)
        display.line(f"{count(theirs, 'run')} not scored: {THEIRS}. {way}")
    if others:
        display.line(
            f"{count(len(others), 'trial')} taken over from elsewhere left no weights here; losses"
            " that you have are added with optuna_mde.add_losses"
        )


def _their_way(experiment: Experiment, sets: list[str]) -> str:
    """How losses of a trainer of the user's come into a study."""
    folder, held = experiment.folder, experiment.corpus.sets
    kinds = {name: TASKS if held[name].kind == "prompts" else VALIDATION for name in sets}
    tokens = [str(set_folder(folder.corpus, kind, name)) for name, kind in kinds.items()]
    return (
        f"Score them there on the tokens in {listed(tokens)}, add the losses of {listed(sets)} to "
        f"`losses` in {folder.runs}/*/{RESULT_FILE} and experts' log-probabilities to the files "
        "that are named there, and score the study again (docs/new-question.md, "
        "examples/score_trainer.py)"
    )


def _keep_mean(experiment: Experiment, study: optuna.Study) -> None:
    """A mean stays that of the definition's sets, once runs report others beside them."""
    config, corpus = experiment.config, experiment.corpus
    is_mean = any(not weights for _, weights in config.goals.goals)
    if is_mean and set(corpus.sets) - set(config.corpus.set_names) and not has_objective(study):
        set_present_objective(study, experiment.goals.to_json())
