"""Whether trials, run folders and storage agree, and what each disagreement costs.

Nothing is changed. What a trial says of its run comes out of a storage, so that it is compared
with what lies in the folder, and followed nowhere else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState
from optuna_mde_studies.runner.confirm import Confirmation
from optuna_mde_studies.runner.experiment import RUN_ATTR, SPEC_ATTR
from optuna_mde_studies.runner.expert_files import wrong_lengths
from optuna_mde_studies.runner.folder import StudyError
from optuna_mde_studies.runner.trials import FINISHED
from optuna_mde_trainers.corpus.blocks import TASKS, TOKENIZER_FILE, TRAIN, Corpus, set_folder
from optuna_mde_trainers.corpus.blocks import VALIDATION as TEXTS
from optuna_mde_trainers.corpus.documents import CorpusError
from optuna_mde_trainers.spec import (
    CHOICES_FILE,
    LOGPROBS_FILE,
    RESULT_FILE,
    SCORES_FOLDER,
    SPEC_FILE,
    TOKENIZER_CONFIG_FILE,
    WEIGHTS_FILE,
    LaterScore,
    RunResult,
    RunSpec,
    SpecError,
)

from optuna_mde.mde.logprobs import LogprobFile, UnusableFileError, read_header
from optuna_mde.mde.urls import ALLOW, is_local, is_trusted, local_path
from optuna_mde.trials import notes

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial
    from optuna_mde_studies.definition.config import StudyConfig
    from optuna_mde_studies.runner.folder import StudyFolder
    from optuna_mde_trainers.corpus.blocks import SetInfo

SAME_LOSS = 1e-9
"""Losses of a trial and of its run's file that differ more are not of one run, in nats."""

UNKNOWN_EXPERT = "this expert is unknown to MDE"
NOT_SCORED = "the run cannot be scored on new sets"
NOT_EVALUATED = "the run can be neither scored on new sets nor evaluated"
TRAINED_AGAIN = (
    "the run would be trained again if it were asked for; its trial counts all the same"
)


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be."""

    place: str
    """File or trial."""
    fault: str
    cost: str
    """What it costs, or how it is mended."""
    is_loss: bool = True
    """Whether something is lost; else it mends itself, or is only worth knowing."""

    def __str__(self) -> str:
        return f"{self.place}: {self.fault}: {self.cost}"


def audit(
    folder: StudyFolder, study: optuna.Study, config: StudyConfig | None
) -> Iterator[Finding]:
    """What does not agree, in the order of the trials.

    Args:
        folder: the study's.
        study: the study.
        config: its definition; None if that is damaged.
    """
    confirmation = None
    try:
        confirmation = Confirmation.read(folder.confirmation)
    except StudyError as error:
        yield Finding(str(folder.confirmation), "damaged", _after(str(error), folder.confirmation))
    yield from _corpus(folder, study)
    sets = _sets(folder)
    trials = study.get_trials(deepcopy=False)
    whole = config is None or (
        config.launch.command is None and config.launch.keep_weights != "none"
    )
    named = set()
    for trial in trials:
        if trial.state in FINISHED:
            yield from _trial(folder, trial, whole, sets)
        if (path := _folder_of(folder, trial)) is not None:
            named.add(path.name)
    if not folder.is_running():
        left = [str(t.number) for t in trials if t.state == TrialState.RUNNING]
        if left:
            yield Finding(
                f"trial {', '.join(left)}",
                "running by the storage, and no process runs this study here",
                "the next `optuna-mde run` takes it up; or another machine works on it",
                is_loss=False,
            )
    yield from _others(folder, named, whole, () if confirmation is None else confirmation.seeds)


def of_program(study: optuna.Study) -> Iterator[Finding]:
    """The same of a study that another program has run: losses, and the experts' files."""
    kept = notes.read_notes(study)
    for trial in study.get_trials(deepcopy=False, states=FINISHED):
        who, said = f"trial {trial.number}", trial.user_attrs.get("logprobs")
        if not isinstance(said, str) or "\0" in said:
            continue
        url = kept.resolve(said)
        if not is_trusted(url, kept.roots):
            cost = f"it is not opened, unless {ALLOW} names a folder or URL above it"
            yield Finding(f"{url:.200} ({who})", "outside", cost, is_loss=False)
        elif is_local(url):
            yield from _logprobs(local_path(url), who, UNKNOWN_EXPERT)


def _corpus(folder: StudyFolder, study: optuna.Study) -> Iterator[Finding]:
    cost = "no run can be trained or scored until `optuna-mde run` has built the same one again"
    if not folder.corpus.exists():
        if study.get_trials(deepcopy=False):
            yield Finding(str(folder.corpus), "missing", cost)
        return
    try:
        corpus = Corpus.load(folder.corpus)
    except CorpusError as error:
        yield Finding(str(folder.corpus), f"damaged ({error})", cost)
        return
    for attribute, found in (
        ("corpus", corpus.fingerprint),
        ("tokenizer", corpus.tokenizer_fingerprint),
    ):
        if study.user_attrs.get(attribute, found) != found:
            yield Finding(
                str(folder.corpus),
                f"its {attribute} is another one than the study's",
                "new runs could not be compared with the finished ones, and none is trained",
            )
    places = [set_folder(folder.corpus, TRAIN, name) for name in corpus.domains]
    places += [
        set_folder(folder.corpus, TEXTS if info.kind == "text" else TASKS, name)
        for name, info in corpus.sets.items()
    ]
    for path in (*places, folder.corpus / TOKENIZER_FILE):
        if not path.exists():
            yield Finding(str(path), "missing", cost)


def _sets(folder: StudyFolder) -> Mapping[str, SetInfo]:
    """Validation sets of the corpus; none where it cannot be read."""
    try:
        return Corpus.load(folder.corpus).sets
    except CorpusError:
        return {}


def _trial(
    folder: StudyFolder, trial: FrozenTrial, whole: bool, sets: Mapping[str, SetInfo]
) -> Iterator[Finding]:
    """A finished trial and the folder of its run, if our runner has made one."""
    who = f"trial {trial.number}"
    if not isinstance(trial.user_attrs.get("losses"), Mapping):
        yield Finding(who, "no losses", "the model learns nothing from it")
    expert = trial.user_attrs.get("logprobs")
    if RUN_ATTR not in trial.user_attrs:  # taken over from elsewhere
        file = _below(folder.files, expert)
        if file is not None:
            yield from _logprobs(file, who, UNKNOWN_EXPERT)
        return
    path = _folder_of(folder, trial)
    if path is None:
        yield Finding(
            who,
            f"its run {trial.user_attrs[RUN_ATTR]!r:.80} is no folder of {folder.runs}",
            f"it is not opened; {NOT_SCORED}",
        )
    elif not path.is_dir():
        cost = NOT_SCORED if expert is None else f"{UNKNOWN_EXPERT}, {NOT_SCORED}"
        yield Finding(f"{path} ({who})", "missing", f"{cost}; its trial counts all the same")
    else:
        yield from _run(path, who, whole, expert is not None, trial.user_attrs, sets)


def _others(
    folder: StudyFolder, named: set[str], whole: bool, seeds: Sequence[int]
) -> Iterator[Finding]:
    """Folders that no trial names: a confirmation's, by its seeds, and what is left over."""
    for path in sorted(folder.runs.glob("*")):
        if not path.is_dir() or path.name in named:
            continue
        try:
            seed = RunSpec.read(path / SPEC_FILE).training.seed
        except (OSError, SpecError):
            seed = None
        if seed in seeds:
            yield from _run(path, "confirmation", whole, False, {})
        elif (path / RESULT_FILE).is_file():
            yield Finding(
                str(path), "of no trial", "it is kept for a run that is like it", is_loss=False
            )


def _run(
    path: Path,
    who: str,
    whole: bool,
    expert: bool,
    attrs: Mapping[str, Any],
    sets: Mapping[str, SetInfo] = MappingProxyType({}),
) -> Iterator[Finding]:
    """The files of a finished run.

    Args:
        path: its folder.
        who: whose run it is.
        whole: whether our trainer made it, and keeps weights.
        expert: whether its log-probabilities are an expert's.
        attrs: what its trial says; empty where it has none.
        sets: those of the corpus, whose tokens log-probabilities are compared with.
    """
    result = None
    try:
        result = RunResult.read(path / RESULT_FILE)
    except FileNotFoundError:
        yield Finding(f"{path / RESULT_FILE} ({who})", "missing", TRAINED_AGAIN)
    except (OSError, SpecError) as error:
        fault = f"damaged ({_after(str(error), path / RESULT_FILE)})"
        yield Finding(f"{path / RESULT_FILE} ({who})", fault, TRAINED_AGAIN)
    yield from _spec(path, who, attrs)
    if result is not None:
        yield from _same(path, who, result, attrs)
    if expert or (result is not None and result.logprobs):
        file = path / (result.logprobs if result and result.logprobs else LOGPROBS_FILE)
        yield from _logprobs(file, who, UNKNOWN_EXPERT if expert else "they are gone", sets)
    if (result is None or result.diverged is None) and whole:
        for name in (WEIGHTS_FILE, "config.json", TOKENIZER_FILE, TOKENIZER_CONFIG_FILE):
            if not (path / name).is_file():
                yield Finding(f"{path / name} ({who})", "missing", NOT_EVALUATED)
        yield from _tensors(path / WEIGHTS_FILE, who, NOT_EVALUATED)
    yield from _tensors(path / CHOICES_FILE, who, "choices on end tasks are gone")
    for later in sorted((path / SCORES_FOLDER).glob("*.json")):
        try:
            LaterScore.read(later)
        except (OSError, SpecError) as error:
            fault = f"damaged ({_after(str(error), later)})"
            yield Finding(f"{later} ({who})", fault, "delete it, and score the set again")


def _spec(path: Path, who: str, attrs: Mapping[str, Any]) -> Iterator[Finding]:
    place = f"{path / SPEC_FILE} ({who})"
    try:
        spec = RunSpec.read(path / SPEC_FILE)
    except FileNotFoundError:
        yield Finding(place, "missing", NOT_SCORED)
        return
    except (OSError, SpecError) as error:
        yield Finding(place, f"damaged ({_after(str(error), path / SPEC_FILE)})", NOT_SCORED)
        return
    known = attrs.get(SPEC_ATTR)
    training = known.get("training") if isinstance(known, Mapping) else None
    theirs = training.get("mixture") if isinstance(training, Mapping) else None
    named = spec.folder(path.parent).name == path.name
    if not named or (isinstance(theirs, Mapping) and theirs != dict(spec.training.mixture)):
        yield Finding(
            place,
            f"of another run ({spec.folder_name})",
            "the folder was misplaced or overwritten: put the right one back, for what this one "
            "holds is taken for the trial's",
        )


def _same(path: Path, who: str, result: RunResult, attrs: Mapping[str, Any]) -> Iterator[Finding]:
    """What the file and the trial say of one run."""
    told = attrs.get("losses")
    if not isinstance(told, Mapping):
        return
    place = f"{path / RESULT_FILE} ({who})"
    if result.diverged is not None:
        yield Finding(place, f"diverged ({result.diverged})", "its trial has losses all the same")
        return
    differing = sorted(
        name
        for name in told.keys() & result.losses.keys()
        if not _is_same(told[name], result.losses[name])
    )
    if differing:
        name = differing[0]
        yield Finding(
            place,
            f"its loss of {name} is {result.losses[name]:.4f}, and the trial was told "
            f"{told[name]!r:.20}",
            "the trial's losses count; the file is of another run, or was changed",
        )


def _is_same(one: object, other: float) -> bool:
    return isinstance(one, int | float) and abs(one - other) <= SAME_LOSS


def _logprobs(
    path: Path, who: str, cost: str, sets: Mapping[str, SetInfo] = MappingProxyType({})
) -> Iterator[Finding]:
    if not path.is_file():
        yield Finding(f"{path} ({who})", "missing", cost)
        return
    try:
        for fault in wrong_lengths(LogprobFile.open(str(path)), sets):
            mend = "MDE losses of the set are those of other tokens: write all, in their order"
            yield Finding(f"{path} ({who})", fault, mend)
    except UnusableFileError as error:
        yield Finding(f"{path} ({who})", f"damaged ({_after(str(error), path)})", cost)


def _tensors(path: Path, who: str, cost: str) -> Iterator[Finding]:
    """A safetensors file, by its header and length; one that is missing is none of ours."""
    if not path.is_file():
        return
    try:
        with path.open("rb") as stream:
            header = read_header(stream)
            ends = [
                int(entry["data_offsets"][1])
                for name, entry in json.loads(header).items()
                if name != "__metadata__"
            ]
            if stream.seek(0, 2) != 8 + len(header) + max(ends, default=0):
                raise ValueError("its end is missing")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        yield Finding(f"{path} ({who})", f"damaged ({error})", cost)


def _below(folder: Path, name: object) -> Path | None:
    """A file that is named from a folder on; None if it lies elsewhere."""
    if not isinstance(name, str) or "\0" in name or "://" in name:
        return None
    path = folder / name
    inside = os.path.abspath(path).startswith(os.path.abspath(folder) + os.sep)
    return path if inside else None


def _folder_of(folder: StudyFolder, trial: FrozenTrial) -> Path | None:
    """Where a trial says that its run lies; None if that is no folder among the study's runs."""
    said = trial.user_attrs.get(RUN_ATTR)
    parts = Path(said).parts if isinstance(said, str) and "\0" not in said else ()
    if len(parts) != 2 or parts[0] != folder.runs.name or parts[1] in ("..", "."):
        return None
    return folder.runs / parts[1]


def _after(message: str, path: Path) -> str:
    """A message without the file's name, which stands before it already."""
    return message.removeprefix(f"{path}: ").removeprefix(f"{path} ")
