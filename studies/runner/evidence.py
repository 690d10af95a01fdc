"""A begun study's new sets and new objective: finished runs are scored, and none is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from optuna_mde_studies.runner.experiment import Experiment, objective_on
from optuna_mde_studies.runner.folder import StudyError, afresh
from optuna_mde_studies.runner.scoring import score_missing, unscored
from optuna_mde_studies.runner.trials import FINISHED
from optuna_mde_studies.wording import goals, listed
from optuna_mde_trainers.corpus import corpora
from optuna_mde_trainers.corpus.blocks import CORPUS_FILE, Corpus
from optuna_mde_trainers.corpus.corpora import CorpusConfig
from optuna_mde_trainers.corpus.prompts.source import TaskSource
from optuna_mde_trainers.corpus.sources import DomainSource
from optuna_mde_trainers.spec import RunError, explain
from pydantic import ValidationError

from optuna_mde import get_losses
from optuna_mde.trials.facts import read_facts
from optuna_mde.trials.notes import set_present_objective
from optuna_mde.trials.targets import present_objective

if TYPE_CHECKING:
    import optuna
    from optuna_mde_studies.definition.config import StudyConfig
    from optuna_mde_studies.runner.display import Display
    from optuna_mde_studies.runner.folder import StudyFolder

    from optuna_mde.objective import Objective


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
    if set(config.corpus.set_names) - asked or any(unscored(study, corpus.sets)):
        opened = experiment()
        corpus = opened.corpus
        score_missing(opened, study, display)
    wanted = objective_on(config, corpus)
    if _is_aimed_elsewhere(study, wanted):
        _aim(study, wanted, folder, display)


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


def _is_aimed_elsewhere(study: optuna.Study, wanted: Objective) -> bool:
    """Whether the study minimises something else than its definition says."""
    facts = read_facts(study)
    told = present_objective([t for t in facts.trials if t.finished], facts.notes)
    reported = list(dict.fromkeys(name for t in facts.trials for name in t.reported))
    return told is not None and not told.averaging(reported).weighs_as(wanted)


def _aim(study: optuna.Study, objective: Objective, folder: StudyFolder, display: Display) -> None:
    known = {name for losses in get_losses(study).values() for name in losses}
    missing = [name for name in objective.sets if name not in known]
    if missing:
        raise StudyError(
            f"objective: no run has a loss of {listed(missing)}, so that nothing can be said of "
            f"it; keep the objective as it was, or {afresh(folder.url)}"
        )
    set_present_objective(study, objective.to_json())
    display.line(
        f"the objective has changed: what counts from now on is {goals(objective)}, of finished "
        "runs too (Optuna keeps the values that they were told)"
    )
