"""One run: from its spec to its folder `runs/<hash of the training part>/`, resumed where it
stopped. What the folder holds is listed in `spec`.

Torch and Lightning are imported when there is something to compute: asking a finished folder for
its result needs neither.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock
from optuna_mde_trainers.corpus.blocks import Corpus
from optuna_mde_trainers.scoring.points import keep_point, kept_points, point_steps
from optuna_mde_trainers.scoring.record import kept_logprobs, record
from optuna_mde_trainers.scoring.sharding import Shard
from optuna_mde_trainers.spec import (
    CHECKPOINT_FILE,
    LOCK_FILE,
    RESULT_FILE,
    SPEC_FILE,
    WEIGHTS_FILE,
    DivergedError,
    LaunchSpec,
    RunError,
    RunResult,
    RunSpec,
)
from optuna_mde_trainers.training.attempt import build_model, trained
from optuna_mde_trainers.training.checks import check_launch
from optuna_mde_trainers.training.ranks import (
    Rank,
    end_with_parent,
    other_ranks,
    process_group,
    this_rank,
    told_by_rank_zero,
)

if TYPE_CHECKING:
    import torch
    from optuna_mde_trainers.scoring.sets import SetScore
    from optuna_mde_trainers.training.checkpoints import OnStep, Pauses
    from optuna_mde_trainers.training.net import LanguageNet


# What rank 0 tells the others, who do as they are told: train, score their part of some sets, or
# end (with the result, if ever).
_TRAIN, _SCORE, _END = "train", "score ", ""


def train(spec: RunSpec, runs: Path, *, on_step: OnStep | None = None) -> RunResult:
    """Perform a run, or take its result where it is finished already.

    A finished folder is never trained again; when other sets or log-probabilities are asked of it
    than it has, its weights are scored. An unfinished one goes on from its checkpoint, and ends
    with the weights that an uninterrupted run has. While another process works in the folder,
    this one waits.

    Of a run on several devices this process is one, if `torchrun` or `srun` has started all; else
    it starts the others. One of them writes.

    Args:
        spec: The run.
        runs: Folder of all runs; this one's is `spec.folder(runs)`.
        on_step: Called after every step with (steps done, steps of the run).

    Raises:
        RunError: If the corpus is not the spec's, a set or domain is unknown, weights are gone, or
            this machine lacks what is asked for.
        DivergedError: If a loss is no longer a number, now or when the run was trained.
    """
    if spec.score.at and spec.launch.shards_weights:
        raise RunError(
            f"score.at needs all weights on each device, and launch.strategy is "
            f"{spec.launch.strategy}: take ddp, or score the end alone"
        )
    runs = Path(runs)
    rank = this_rank(spec.launch)
    if rank.is_launched:
        with process_group(rank, spec.launch):
            result = _launched(spec, runs, rank, on_step)
    else:
        result = _performed(spec, runs, rank, on_step)
    if result.diverged is not None:
        raise DivergedError(result.diverged)
    return result


def follow(spec_path: str, runs: str) -> None:
    """Take part as one of the ranks that `train` has started; arguments as on a command line."""
    end_with_parent()
    spec = RunSpec.read(Path(spec_path))
    rank = this_rank(spec.launch)
    with process_group(rank, spec.launch):
        _followed(spec, Path(runs), rank)


def _launched(spec: RunSpec, runs: Path, rank: Rank, on_step: OnStep | None) -> RunResult:
    if rank.writes:
        result = _performed(spec, runs, rank, on_step)
        told_by_rank_zero(rank, result.model_dump_json())
        return result
    return RunResult.model_validate_json(_followed(spec, runs, rank))


def _followed(spec: RunSpec, runs: Path, rank: Rank) -> str:
    """Do as rank 0 says; the last thing that it says."""
    corpus = Corpus.load(spec.launch.corpus_folder)
    pauses = _points(spec, corpus, spec.folder(runs), rank)
    with threads(spec.launch, rank):
        while said := str(told_by_rank_zero(rank, None)):
            if said == _TRAIN:
                done = trained(spec, corpus, spec.folder(runs), rank=rank, pauses=pauses)
            elif said.startswith(_SCORE):
                sets = json.loads(said.removeprefix(_SCORE))
                _scores(done.model, corpus, sets, done.device, rank)
            else:
                break
    return said


def _performed(spec: RunSpec, runs: Path, rank: Rank, on_step: OnStep | None) -> RunResult:
    corpus = Corpus.load(spec.launch.corpus_folder)
    wanted = _wanted_sets(spec, corpus)
    folder = spec.folder(runs)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / LOCK_FILE):
        path = folder / RESULT_FILE
        result = RunResult.read(path) if path.exists() else None
        if result is not None and result.diverged is not None:
            return result
        missing = _missing_sets(wanted, result, spec, corpus, folder)
        if result is not None:
            _check_points(spec, result)
            if not missing:
                return result
        if result is None:
            check_launch(spec.launch, spec.training, spec.training.model)
        with threads(spec.launch, rank):
            if result is None:
                spec.write(folder / SPEC_FILE)
                result = _trained(spec, corpus, runs, missing, rank, on_step)
            else:
                model = kept_model(spec, corpus, folder)
                scores = _scores(model, corpus, missing, _device(spec.launch), Rank())
                result = _recorded(scores, result, spec, folder)
        result.write(path)
        (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
        return result


def _trained(
    spec: RunSpec,
    corpus: Corpus,
    runs: Path,
    sets: list[str],
    rank: Rank,
    on_step: OnStep | None,
) -> RunResult:
    """Train and score, by all ranks; as rank 0."""
    folder = spec.folder(runs)
    pauses = _points(spec, corpus, folder, rank)
    with _together(spec, runs, rank):
        done = trained(spec, corpus, folder, rank=rank, on_step=on_step, pauses=pauses)
        points = kept_points(folder, point_steps(spec))
        result = done.result.model_copy(update={"points": points})
        if result.diverged is not None:
            return result
        if done.is_whole:
            told_by_rank_zero(rank, _SCORE + json.dumps(sets))
        scores = _scores(done.model, corpus, sets, done.device, rank if done.is_whole else Rank())
    result = _recorded(scores, result, spec, folder)
    if done.loggers:
        from optuna_mde_trainers.training.logs import conclude

        conclude(done.loggers, spec, result)
    return result


def _points(spec: RunSpec, corpus: Corpus, folder: Path, rank: Rank) -> Pauses | None:
    """Scoring on the way, if it is asked for."""
    steps = point_steps(spec)
    if not steps:
        return None
    sets = _wanted_sets(spec, corpus)

    def score(model: LanguageNet, step: int) -> None:
        device = next(model.parameters()).device
        scores = _scores(model, corpus, sets, device, rank)
        if rank.writes:
            keep_point(scores, spec, folder, step=step, block_size=corpus.block_size)

    from optuna_mde_trainers.training.checkpoints import Pauses

    return Pauses(frozenset(steps), score)


def _check_points(spec: RunSpec, result: RunResult) -> None:
    """A finished run cannot be scored on the way any more."""
    missing = set(point_steps(spec)) - {point.step for point in result.points}
    if missing and result.diverged is None:
        steps = ", ".join(map(str, sorted(missing)))
        raise RunError(
            f"score.at: the run {spec.folder_name} is finished, and was not scored after step "
            f"{steps}: leave score.at out, or delete its {RESULT_FILE} to train it again"
        )


@contextmanager
def _together(spec: RunSpec, runs: Path, rank: Rank) -> Iterator[None]:
    """All ranks at work; those that this process has started end with it."""
    if rank.is_launched or rank.world_size == 1:
        told_by_rank_zero(rank, _TRAIN)
        yield
        return
    code = "import sys; from optuna_mde_trainers.run import follow; follow(*sys.argv[1:])"
    path = spec.folder(runs) / SPEC_FILE
    with other_ranks(rank, ["-c", code, str(path), str(runs)]), process_group(rank, spec.launch):
        told_by_rank_zero(rank, _TRAIN)
        yield
        told_by_rank_zero(rank, _END)


def _wanted_sets(spec: RunSpec, corpus: Corpus) -> list[str]:
    sets = list(corpus.sets) if spec.score.sets is None else spec.score.sets
    unknown = [name for name in sets if name not in corpus.sets]
    if unknown:
        raise RunError(
            f"score.sets names {', '.join(unknown)}, but the corpus {corpus.folder} has "
            f"{', '.join(corpus.sets)}: add the set to the corpus, or leave it out"
        )
    return sets


def _missing_sets(
    wanted: list[str], result: RunResult | None, spec: RunSpec, corpus: Corpus, folder: Path
) -> list[str]:
    """What is still to be scored; a set whose tokens have changed is."""
    if result is None:
        return wanted
    held = [result.set_fingerprints]
    if spec.score.logprobs:
        held.append(kept_logprobs(result, folder)[1])
    return [
        name
        for name in wanted
        if any(fingerprints.get(name) != corpus.sets[name].fingerprint for fingerprints in held)
    ]


def kept_model(spec: RunSpec, corpus: Corpus, folder: Path) -> LanguageNet:
    """The model of a finished run.

    Raises:
        RunError: If its weights are gone, or the corpus is in other tokens.
    """
    if spec.training.tokenizer != corpus.tokenizer_fingerprint:
        raise RunError(
            f"training.tokenizer is {spec.training.tokenizer}, but the sets of {corpus.folder} "
            f"are in tokens of {corpus.tokenizer_fingerprint}: no model can score them"
        )
    if not (folder / WEIGHTS_FILE).exists():
        raise RunError(
            f"{folder / WEIGHTS_FILE} is gone, or was not kept (launch.keep_weights), so nothing "
            f"new can be scored: delete {RESULT_FILE} beside it to train the run again"
        )
    from optuna_mde_trainers.training.models import transformers_part
    from optuna_mde_trainers.training.weights import read_weights

    model = build_model(spec, corpus)
    read_weights(transformers_part(model), folder)
    return model


def _scores(
    model: LanguageNet, corpus: Corpus, sets: list[str], device: torch.device | None, rank: Rank
) -> dict[str, SetScore]:
    """Scores of some sets, which all ranks share; they are at rank 0."""
    from optuna_mde_trainers.scoring.sets import score_sets

    assert device is not None
    shard = Shard(rank.number, rank.world_size)
    return score_sets(model.to(device), corpus, sets, device=device, shard=shard)


def _recorded(
    scores: dict[str, SetScore], result: RunResult, spec: RunSpec, folder: Path
) -> RunResult:
    """The result with the scores, and their log-probabilities if they are asked for."""
    for name, score in scores.items():
        if not math.isfinite(score.loss):
            said = f"the loss on {name} is {score.loss}: the run has diverged"
            return result.model_copy(update={"diverged": said})
    return record(
        result, scores, folder, logprobs=spec.score.logprobs, tokenizer=spec.training.tokenizer
    )


def _device(launch: LaunchSpec) -> torch.device:
    from optuna_mde_trainers.training.devices import scoring_device

    return scoring_device(launch)


@contextmanager
def threads(launch: LaunchSpec, rank: Rank) -> Iterator[None]:
    """With the threads of the spec; without one there, the cores that are each rank's share."""
    number = launch.num_threads
    if number is None and rank.world_size > 1:
        number = max(1, (os.cpu_count() or 1) // rank.local_size)
    if number is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
