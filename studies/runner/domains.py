"""Domains that change in a begun study: its text, its older runs, and what waits to be run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna.trial import TrialState
from optuna_mde_studies.definition.reading import DefinitionError
from optuna_mde_studies.runner import agreement
from optuna_mde_studies.runner.corpus import building
from optuna_mde_studies.runner.experiment import SPEC_ATTR
from optuna_mde_studies.runner.folder import StudyError
from optuna_mde_studies.runner.resources import tokenising_count
from optuna_mde_studies.runner.target import share
from optuna_mde_studies.wording import listed, rates

from optuna_mde import revise_domains

if TYPE_CHECKING:
    import optuna
    from optuna_mde_studies.definition.reading import Definition
    from optuna_mde_studies.runner.display import Display
    from optuna_mde_studies.runner.folder import StudyFolder


def follow(
    definition: Definition, folder: StudyFolder, study: optuna.Study, progress: Display
) -> None:
    """Gives a begun study the domains of its definition; does nothing where it has them.

    May be killed and called again: the corpus is revised as a whole, and what is written on the
    study is written once.

    Raises:
        DefinitionError: if the new text cannot be read, or is too little.
        StudyError: if the text of a domain that stays is another one today.
    """
    from optuna_mde_trainers.corpus.blocks import Corpus
    from optuna_mde_trainers.corpus.corpora import CorpusChangedError, CorpusError
    from optuna_mde_trainers.corpus.revising import revise

    known = study.user_attrs.get("corpus")
    if known is None:  # nothing was trained
        return
    config = definition.config
    new, gone = new_and_gone(definition, folder)
    if new or gone:
        progress.stage(f"revising the corpus: {listed(new) or 'no domain'} added")
        try:
            with building(folder, study, progress):
                revise(
                    config.corpus,
                    folder.corpus,
                    progress=progress.line,
                    processes=tokenising_count(),
                    share=share(config),
                )
        except CorpusChangedError as error:
            raise StudyError(
                f"{folder.path}: with the domains, something else has changed "
                f"({'; '.join(error.changes[:3])}); undo that, and change the domains alone"
            ) from None
        except CorpusError as error:
            raise DefinitionError(definition.located(str(error))) from None
    corpus = Corpus.load(folder.corpus)
    if known == corpus.fingerprint or known not in corpus.revised_from:
        return
    for revision in config.revisions:
        revise_domains(study, revision)
    _give_up_waiting(study, corpus.fingerprint)
    study.set_user_attr("corpus", corpus.fingerprint)


def planned(definition: Definition, folder: StudyFolder) -> str:
    """What other domains mean for a begun study; nothing where they are as before.

    Raises:
        DefinitionError: if the definition is none of the study any more.
        StudyError: if the study's storage cannot be opened.
    """
    agreement.check(folder, definition)
    new, gone = new_and_gone(definition, folder)
    if not new and not gone:
        return ""
    changes = definition.config.former_domains
    parts = [f"{name} counts as {rates(changes[name].became)}" for name in gone if name in changes]
    if new:
        one = len(new) == 1
        need = "is new, and needs an expert" if one else "are new, and need an expert each"
        parts.append(f"{listed(new)} {need}")
    return f"The runs of the study in {folder.path} stay: {'; '.join(parts)}"


def new_and_gone(definition: Definition, folder: StudyFolder) -> tuple[list[str], list[str]]:
    """Domains that the definition has and the study's corpus has not, and the other way round."""
    from optuna_mde_trainers.corpus.blocks import Corpus
    from optuna_mde_trainers.corpus.corpora import CorpusError

    try:
        corpus = Corpus.load(folder.corpus)
    except CorpusError:  # none, or one that is named elsewhere
        return [], []
    held, asked = {**corpus.domains, **corpus.dropped}, definition.config.corpus
    new = [name for name in asked.domains if name not in held]
    return new, [name for name in corpus.domains if name not in asked.domains]


def _give_up_waiting(study: optuna.Study, corpus: str) -> None:
    """Ends trials that wait to take up a run on the text of before."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        spec = trial.user_attrs.get(SPEC_ATTR)
        if spec is not None and spec["training"]["corpus"] != corpus:
            study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
