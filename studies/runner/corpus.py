"""The text of a study: built once, and the same for all of its runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from optuna_mde_studies.definition.consistency import (
    bounds_problems,
    cap_problems,
    objective_problems,
)
from optuna_mde_studies.definition.reading import DefinitionError
from optuna_mde_studies.runner.experiment import Experiment
from optuna_mde_studies.runner.folder import StudyError, afresh
from optuna_mde_studies.runner.resources import tokenising_count
from optuna_mde_studies.runner.sharing.claims import claimed
from optuna_mde_studies.runner.target import SOURCE_ATTR, TOKENS_ATTR, caps, share, source_tokens
from optuna_mde_studies.runner.trials import num_finished
from optuna_mde_studies.wording import rates
from optuna_mde_trainers.corpus import corpora
from optuna_mde_trainers.corpus.blocks import CORPUS_FILE

if TYPE_CHECKING:
    import optuna
    from optuna_mde_studies.definition.config import StudyConfig
    from optuna_mde_studies.definition.reading import Definition
    from optuna_mde_studies.runner.display import Display
    from optuna_mde_studies.runner.folder import StudyFolder
    from optuna_mde_trainers.corpus.blocks import Corpus


def open_experiment(
    definition: Definition, folder: StudyFolder, study: optuna.Study, progress: Display
) -> Experiment:
    """The experiment on the study's corpus, which is built if there is none yet.

    Raises:
        DefinitionError: if the sources hold too little text for the definition.
        StudyError: if the study has trials on text that is another one today.
    """
    with building(folder, study, progress):
        return _opened(definition, folder, study, progress)


@contextmanager
def building(folder: StudyFolder, study: optuna.Study, progress: Display) -> Iterator[None]:
    """One process builds or extends the corpus, and those that come meanwhile wait for it."""
    folder.files.mkdir(parents=True, exist_ok=True)
    turn = FileLock(folder.files / ".corpus.lock")
    try:
        turn.acquire(timeout=0)
    except Timeout:
        progress.stage("waiting for another process, which builds the corpus")
        turn.acquire()
    try:
        with _carrying(folder, study, progress):
            yield
    finally:
        turn.release()


@contextmanager
def _carrying(folder: StudyFolder, study: optuna.Study, progress: Display) -> Iterator[None]:
    """Where machines share a URL: begins with the corpus that lies there, and leaves its own."""
    if folder.mirror is None:
        yield
        return
    told = ""

    def wait(place: str) -> None:
        nonlocal told
        if place != told:
            progress.stage(f"waiting for {place}, which builds the corpus")
            told = place
        folder.bring(folder.corpus)  # what is there already

    folder.bring(folder.corpus)  # beside others, who would wait for the claim
    with claimed(study, folder.asking, wait):
        folder.bring(folder.corpus)
        if not (folder.corpus / CORPUS_FILE).is_file():  # whoever brought it there was killed
            shutil.rmtree(folder.corpus, ignore_errors=True)
        yield
        folder.share(folder.corpus, removes=True)


def _opened(
    definition: Definition, folder: StudyFolder, study: optuna.Study, progress: Display
) -> Experiment:
    if not folder.corpus.exists():
        progress.stage("building the corpus")
    try:
        corpus = _prepared(definition, folder, progress)
    except corpora.CorpusChangedError as error:
        if study.get_trials(deepcopy=False):
            raise StudyError(_changed(folder, study, error.changes)) from None
        shutil.rmtree(folder.corpus)  # nothing has been trained on it
        corpus = _prepared(definition, folder, progress)
    if problems := fit_problems(definition, corpus):
        raise DefinitionError("\n".join(problems))
    _check_same(folder, study, corpus)
    experiment = Experiment(definition.config, folder, corpus)
    _keep_target(definition, study, corpus, progress)
    if "natural" not in study.user_attrs:
        study.set_user_attr("natural", experiment.natural)
        progress.line(f"natural mixture: {rates(experiment.natural)}")
    return experiment


def standing(config: StudyConfig, folder: StudyFolder) -> Corpus | None:
    """The corpus in a study's folder as `run` would take it; None where it is to be built, or to
    be built anew."""
    from optuna_mde_trainers.corpus.blocks import Corpus

    try:
        corpus = Corpus.load(folder.corpus)
        return None if corpora.changes(corpus, config.corpus, share=share(config)) else corpus
    except corpora.CorpusError:
        return None


def changed_text(definition: Definition, folder: StudyFolder, study: optuna.Study) -> str:
    """What to say of a study whose text would be another one today; nothing if it is the same."""
    if not folder.corpus.exists():
        return ""
    try:
        corpora.prepare(definition.config.corpus, folder.corpus, share=share(definition.config))
    except corpora.CorpusChangedError as error:
        return _changed(folder, study, error.changes)
    return ""


def _prepared(definition: Definition, folder: StudyFolder, progress: Display) -> Corpus:
    try:
        return corpora.prepare(
            definition.config.corpus,
            folder.corpus,
            progress=progress.line,
            processes=tokenising_count(),
            share=share(definition.config),
        )
    except corpora.CorpusChangedError:
        raise
    except corpora.CorpusError as error:
        raise DefinitionError(definition.located(str(error))) from None


def _changed(folder: StudyFolder, study: optuna.Study, changes: list[str]) -> str:
    more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
    if all(change.startswith(("validation.", "tasks.")) for change in changes):
        return (
            f"{folder.path}: runs of this study have been scored on other sets of these names "
            f"({'; '.join(changes[:3])}{more}); give the new ones other names"
        )
    return (
        f"{folder.path}: the text of this study would not be the same today "
        f"({'; '.join(changes[:3])}{more}), so that new runs could not be compared with its "
        f"{num_finished(study)} finished ones. Put the text back as it was, or "
        f"{afresh(folder.url)}"
    )


def fit_problems(definition: Definition, corpus: Corpus) -> list[str]:
    """What a definition asks for and its corpus cannot give, a sentence each with its place: a
    corpus may hold fewer domains and sets than are named, and too little text for `target`. Sets
    that it was never asked for count as held."""
    config = definition.config
    held = [*corpus.sets, *(n for n in config.sets if n not in {*corpus.sets, *corpus.dropped})]
    domains = tuple(corpus.domains)
    problems = [
        *objective_problems(config, held),
        *bounds_problems(config, domains),
        *cap_problems(config, caps(config.target, source_tokens(corpus)), domains),
    ]
    lines = []
    for path, text in problems:
        reason = corpus.dropped.get(str(path[-1]))
        if reason:
            text = f"{path[-1]!r} was left out of the corpus ({reason}); do not aim at it"
        lines.append(f"{definition.place(path)}: {text}")
    return lines


def _keep_target(
    definition: Definition, study: optuna.Study, corpus: Corpus, progress: Display
) -> None:
    """Keeps what says how often the target run would read each domain."""
    target = definition.config.target
    if target is None:
        return
    sources = source_tokens(corpus)
    for key, value in ((TOKENS_ATTR, target.tokens), (SOURCE_ATTR, sources)):
        if study.user_attrs.get(key) != value:
            study.set_user_attr(key, value)
    capped = caps(target, sources)
    if capped:
        told = ", ".join(f"{name} {rate:.3g}" for name, rate in capped.items())
        progress.line(f"highest rates, by target.max_epochs: {told}")


def _check_same(folder: StudyFolder, study: optuna.Study, corpus: Corpus) -> None:
    """Keeps the fingerprints of what is trained on, or checks them."""
    prints = {"corpus": corpus.fingerprint, "tokenizer": corpus.tokenizer_fingerprint}
    known = study.user_attrs
    if any(known.get(key, value) != value for key, value in prints.items()):
        raise StudyError(_changed(folder, study, ["the corpus in its folder was replaced"]))
    for key, value in prints.items():
        if key not in known:
            study.set_user_attr(key, value)
