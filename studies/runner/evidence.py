"""A begun study's new sets and new objective: finished runs are scored, and none is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from optuna_mde_studies.runner import confirm
from optuna_mde_studies.runner.confirm import Confirmation
from optuna_mde_studies.runner.experiment import SPEC_ATTR, Experiment, objective_on
from optuna_mde_studies.runner.folder import StudyError
from optuna_mde_studies.runner.launchers import RunFailedError
from optuna_mde_studies.runner.launchers.local import InProcessLauncher
from optuna_mde_studies.runner.trials import FINISHED
from optuna_mde_studies.wording import count, goals, listed
from optuna_mde_trainers.corpus import corpora
from optuna_mde_trainers.corpus.blocks import CORPUS_FILE, Corpus
from optuna_mde_trainers.corpus.corpora import CorpusConfig
from optuna_mde_trainers.corpus.prompts.source import TaskSource
from optuna_mde_trainers.corpus.sources import DomainSource
from optuna_mde_trainers.spec import RESULT_FILE, WEIGHTS_FILE, RunError, explain
from pydantic import ValidationError

from optuna_mde import add_losses, get_losses
from optuna_mde.trials.facts import read_facts
from optuna_mde.trials.notes import has_objective, set_present_objective
from optuna_mde.trials.targets import present_objective

if TYPE_CHECKING:
    import optuna
    from optuna_mde_studies.definition.config import StudyConfig
    from optuna_mde_studies.runner.display import Display
    from optuna_mde_studies.runner.folder import StudyFolder
    from optuna_mde_trainers.spec import RunResult, RunSpec

    from optuna_mde.objective import Objective

MOST_NAMED = 3
"""Runs that could not be scored and are named one by one; the others are counted."""


@dataclass(frozen=True)
class _Run:
    """A finished run, and the sets that it has no loss of."""

    name: str
    spec: RunSpec
    sets: frozenset[str]


def take_up(
    config: StudyConfig,
    folder: StudyFolder,
    study: optuna.Study,
    experiment: Callable[[], Experiment],
    display: Display,
) -> None:
    """Brings a begun study to its definition: sets that are missing, and the objective.

    Args:
        config: the definition.
        folder: the study's.
        study: the study.
        experiment: opens the study's experiment, whose corpus then has all of them; called only
            if something is to be done.
        display: shows how far it is.

    Raises:
        StudyError: if the objective weighs a set of which no run has a loss.
    """
    if not study.get_trials(deepcopy=False, states=FINISHED):
        return
    if not (folder.corpus / CORPUS_FILE).is_file():
        return  # nothing can be scored without its tokens; whoever trains builds it
    corpus = Corpus.load(folder.corpus)
    asked = {*corpus.sets, *corpus.dropped, *corpus.domains}  # a new domain brings no set
    if set(config.corpus.set_names) - asked or any(_unscored(study, corpus.sets)):
        opened = experiment()
        corpus = opened.corpus
        score_missing(opened, study, display)
    wanted = objective_on(config, corpus)
    if _is_aimed_elsewhere(study, wanted):
        _aim(study, wanted, display)


def with_sets(
    config: StudyConfig,
    folder: StudyFolder,
    sets: Mapping[str, DomainSource | TaskSource],
    validation_tokens: int | None,
    progress: Callable[[str], None],
) -> Experiment:
    """A study's experiment, whose corpus has gained sets.

    Args:
        config: the study's definition.
        folder: the study's.
        sets: name -> where it comes from.
        validation_tokens: scored tokens of each set of text. None: as many as the definition says.
        progress: called with short lines.

    Raises:
        RunError: if a set's name is taken, or it holds too little text.
        CorpusError: if a source cannot be read.
    """
    if not (folder.corpus / CORPUS_FILE).is_file():
        raise StudyError(f"{folder.corpus} is gone: the tokenizer of the runs was in it")
    for name in sets:
        if name in config.domains:
            raise RunError(
                f"--set {name}: this is a domain, which has a validation set of its name already; "
                "choose another name"
            )
    try:
        asked = CorpusConfig(
            domains={},
            validation={n: s for n, s in sets.items() if isinstance(s, DomainSource)},
            tasks={n: s for n, s in sets.items() if isinstance(s, TaskSource)},
            tokenizer=config.corpus.tokenizer,
            block_size=config.corpus.block_size,
            validation_tokens=validation_tokens or config.corpus.validation_tokens,
        )
    except ValidationError as error:
        raise RunError(f"--set: {explain(error)}") from None
    try:
        corpus = corpora.add_sets(asked, folder.corpus, progress=progress)
    except corpora.CorpusChangedError as error:
        raise RunError(
            f"--set: the study has another set of this name ({'; '.join(error.changes)}); choose "
            "another name"
        ) from None
    for name in sets:
        if name not in corpus.sets:
            raise RunError(f"--set {name}: {corpus.dropped[name]}")
    return Experiment(config, folder, corpus)


def score_missing(experiment: Experiment, study: optuna.Study, display: Display) -> list[str]:
    """Scores the kept weights of finished runs on sets of the corpus that they have no loss of.

    Losses of trials are added to the study, one run after the other, so that whoever is
    interrupted goes on; experts' log-probabilities are written into their files.

    Returns:
        Names of the runs that could not be scored; they are said, with the reasons.
    """
    _keep_mean(experiment, study)
    numbers = dict(_unscored(study, experiment.corpus.sets))
    left: dict[str, str] = {}
    runs = _searched_runs(experiment, study, numbers, left)
    confirmation = Confirmation.read(experiment.folder.confirmation)
    fresh = [] if confirmation is None else _fresh_runs(experiment, confirmation)
    total = len(runs) + len(fresh)
    if not total:
        _say(study, [], left, display)
        return list(left)
    missing = sorted({name for run in (*runs.values(), *fresh) for name in run.sets})
    display.stage(f"scoring {count(total, 'finished run')} on {listed(missing)}; none is trained")
    display.done, display.total = 0, total
    for number, run in runs.items():
        result = _scored(experiment, run, left)
        if result is not None:
            add_losses(study, {number: {name: result.losses[name] for name in sorted(run.sets)}})
        display.done += 1
    _confirm_again(experiment, confirmation, fresh, left, display)
    _say(study, missing, left, display)
    return list(left)


def _unscored(study: optuna.Study, sets: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Finished trials of ours with the sets that they have no loss of."""
    known = get_losses(study)
    for trial in study.get_trials(deepcopy=False, states=FINISHED):
        lacking = [name for name in sets if name not in known.get(trial.number, {})]
        if lacking and SPEC_ATTR in trial.user_attrs:
            yield trial.number, lacking


def _searched_runs(
    experiment: Experiment,
    study: optuna.Study,
    numbers: Mapping[int, Iterable[str]],
    left: dict[str, str],
) -> dict[int, _Run]:
    """The runs of trials, by number; of what is none of this study's, the reason in `left`."""
    attrs = {trial.number: trial.user_attrs for trial in study.get_trials(deepcopy=False)}
    runs: dict[int, _Run] = {}
    for number, sets in numbers.items():
        try:
            spec = experiment.spec(attrs[number])
        except RunFailedError as error:
            left[f"trial {number}"] = str(error)
        else:
            runs[number] = _Run(f"trial {number}", spec, frozenset(sets))
    return runs


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


def _confirm_again(
    experiment: Experiment,
    confirmation: Confirmation | None,
    fresh: list[_Run],
    left: dict[str, str],
    display: Display,
) -> None:
    """Keeps the confirmation with the losses on further sets, if all of its runs have them."""
    results = []
    for run in fresh:
        result = _scored(experiment, run, left)
        if result is not None:
            results.append(result)
        display.done += 1
    if confirmation is not None and fresh and len(results) == len(fresh):
        confirm.gather(confirmation, results).write(experiment.folder.confirmation)


def _scored(experiment: Experiment, run: _Run, left: dict[str, str]) -> RunResult | None:
    """The result with the sets; None, and the reason in `left`, where that cannot be."""
    try:
        return _score(experiment, run)
    except Exception as error:  # weights of any kind of damage: the study goes on without the run
        left[run.name] = str(error) or type(error).__name__
        return None


def _score(experiment: Experiment, run: _Run) -> RunResult:
    runs = experiment.folder.runs
    folder = run.spec.folder(runs)
    result = experiment.launcher.finished(run.spec, runs)
    if result is None:
        raise RunError(f"{folder} has no {RESULT_FILE} any more")
    if run.sets <= result.losses.keys():
        return result
    if experiment.config.launch.command is not None:
        raise RunError(
            "launch.command trained it, and only that trainer reads its weights; score it there, "
            "and add the losses with optuna_mde.add_losses"
        )
    if not (folder / WEIGHTS_FILE).is_file():
        raise RunError(f"{folder / WEIGHTS_FILE} is gone")
    return InProcessLauncher().run(run.spec, runs, lambda step, total: None)


def _say(study: optuna.Study, sets: list[str], left: dict[str, str], display: Display) -> None:
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
    for run, reason in list(left.items())[:MOST_NAMED]:
        display.line(f"{run} was not scored: {reason}")
    if len(left) > MOST_NAMED:
        display.line(f"{len(left) - MOST_NAMED} more runs were not scored, for such reasons")
    if others:
        display.line(
            f"{count(len(others), 'trial')} taken over from elsewhere left no weights here; losses"
            " that you have are added with optuna_mde.add_losses"
        )


def _keep_mean(experiment: Experiment, study: optuna.Study) -> None:
    """A mean stays that of the definition's sets, once runs report others beside them."""
    config, corpus = experiment.config, experiment.corpus
    is_mean = any(not weights for _, weights in config.goals.goals)
    if is_mean and set(corpus.sets) - set(config.corpus.set_names) and not has_objective(study):
        set_present_objective(study, experiment.goals.to_json())


def _is_aimed_elsewhere(study: optuna.Study, wanted: Objective) -> bool:
    """Whether the study minimises something else than its definition says."""
    facts = read_facts(study)
    told = present_objective([t for t in facts.trials if t.finished], facts.notes)
    reported = list(dict.fromkeys(name for t in facts.trials for name in t.reported))
    return told is not None and not told.averaging(reported).weighs_as(wanted)


def _aim(study: optuna.Study, objective: Objective, display: Display) -> None:
    known = {name for losses in get_losses(study).values() for name in losses}
    missing = [name for name in objective.sets if name not in known]
    if missing:
        raise StudyError(
            f"objective: no run has a loss of {listed(missing)}, so that nothing can be said of "
            "it; keep the objective as it was, or start afresh with `--out OTHER_FOLDER`"
        )
    set_present_objective(study, objective.to_json())
    display.line(
        f"the objective has changed: what counts from now on is {goals(objective)}, of finished "
        "runs too (Optuna keeps the values that they were told)"
    )
