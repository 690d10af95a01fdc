"""One run: from its spec to its folder `runs/<hash of the training part>/`, resumed where it
stopped. What the folder holds is listed in `spec`.

Torch and Lightning are imported when there is something to compute: asking a finished folder for
its result needs neither.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock
from optuna_mde_trainers.corpus.blocks import Corpus
from optuna_mde_trainers.scoring.record import kept_logprobs, record
from optuna_mde_trainers.spec import (
    CHECKPOINT_FILE,
    LOCK_FILE,
    RESULT_FILE,
    SPEC_FILE,
    WEIGHTS_FILE,
    DivergedError,
    Realised,
    RunError,
    RunResult,
    RunSpec,
)
from optuna_mde_trainers.training.schedule import Schedule

if TYPE_CHECKING:
    from optuna_mde_trainers.training.fit import OnStep
    from torch import nn


def train(spec: RunSpec, runs: Path, *, on_step: OnStep | None = None) -> RunResult:
    """Perform a run, or take its result where it is finished already.

    A finished folder is never trained again; when other sets or log-probabilities are asked of it
    than it has, its weights are scored. An unfinished one goes on from its checkpoint, and ends
    with the weights that an uninterrupted run has. While another process works in the folder,
    this one waits.

    Args:
        spec: The run.
        runs: Folder of all runs; this one's is `spec.folder(runs)`.
        on_step: Called after every step with (steps done, steps of the run).

    Raises:
        RunError: If the corpus is not the spec's, a set or domain is unknown, or weights are gone.
        DivergedError: If a loss is no longer a number.
    """
    corpus = Corpus.load(spec.launch.corpus_folder)
    wanted = _wanted_sets(spec, corpus)
    folder = spec.folder(Path(runs))
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / LOCK_FILE):
        path = folder / RESULT_FILE
        result = RunResult.read(path) if path.exists() else None
        missing = _missing_sets(wanted, result, spec, corpus, folder)
        if result is not None and not missing:
            return result
        with _threads(spec.launch.num_threads):
            if result is None:
                spec.write(folder / SPEC_FILE)
                model, result = _trained(spec, corpus, folder, on_step)
            else:
                model = kept_model(spec, corpus, folder)
            result = _scored(model, result, missing, spec, corpus, folder)
        result.write(path)
        (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
        return result


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


def _trained(
    spec: RunSpec, corpus: Corpus, folder: Path, on_step: OnStep | None
) -> tuple[nn.Module, RunResult]:
    """The finished model, its weights written, and a result without scores."""
    training = spec.training
    if spec.unknown_fields:
        raise RunError(
            f"{', '.join(spec.unknown_fields)}: fields of a newer version, of which this one does "
            "not know what they change: update optuna-mde to train this run"
        )
    for field, asked, held in (
        ("corpus", training.corpus, corpus.fingerprint),
        ("tokenizer", training.tokenizer, corpus.tokenizer_fingerprint),
    ):
        if asked != held:
            raise RunError(
                f"training.{field} is {asked}, but {corpus.folder} holds {held}: train on the "
                "corpus that the spec was made for, or make the spec anew"
            )
    schedule = _schedule(spec, corpus)

    from optuna_mde_trainers.training.data import BlockDataModule
    from optuna_mde_trainers.training.decoder import count_parameters
    from optuna_mde_trainers.training.fit import fit
    from optuna_mde_trainers.training.module import LanguageModel
    from optuna_mde_trainers.training.weights import llama_config, write_checkpoint

    model = _build(spec, corpus)
    module = LanguageModel(model, training.optimizer, training.max_steps)
    data = BlockDataModule(
        {name: corpus.train_blocks(name) for name, count in schedule.counts.items() if count},
        schedule,
        fingerprint=corpus.fingerprint,
        micro_batch_size=training.micro_batches,
        num_workers=spec.launch.num_workers,
    )
    seconds = fit(module, data, spec, folder, on_step)
    config = llama_config(training.model, vocab_size=corpus.vocab_size)
    write_checkpoint(model, config, corpus, folder, spec.launch.keep_weights)
    sequences = training.max_steps * training.global_batch_size
    return model, RunResult(
        losses={},
        bits_per_byte={},
        set_fingerprints={},
        train_loss=module.final_train_loss(),
        tokens=sequences * corpus.block_size,
        parameters=count_parameters(model),
        realised={
            name: Realised(
                rate=count / sequences,
                tokens=count * corpus.block_size,
                epochs=schedule.epochs[name],
            )
            for name, count in schedule.counts.items()
        },
        seconds=seconds,
    )


def _schedule(spec: RunSpec, corpus: Corpus) -> Schedule:
    blocks = {name: info.blocks for name, info in corpus.domains.items()}
    try:
        return Schedule(
            spec.training.mixture,
            blocks,
            steps=spec.training.max_steps,
            batch_size=spec.training.global_batch_size,
            seed=spec.training.seed,
        )
    except ValueError as error:
        raise RunError(f"training.mixture: {error}") from error


def _build(spec: RunSpec, corpus: Corpus) -> nn.Module:
    from optuna_mde_trainers.training.decoder import build

    try:
        return build(
            spec.training.model,
            vocab_size=corpus.vocab_size,
            max_positions=corpus.block_size,
            seed=spec.training.seed,
        )
    except ValueError as error:
        raise RunError(f"training.model.{error}") from error


def kept_model(spec: RunSpec, corpus: Corpus, folder: Path) -> nn.Module:
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
    from optuna_mde_trainers.training.weights import read_weights

    model = _build(spec, corpus)
    read_weights(model, folder)
    return model


def _scored(
    model: nn.Module,
    result: RunResult,
    missing: list[str],
    spec: RunSpec,
    corpus: Corpus,
    folder: Path,
) -> RunResult:
    """The result with the missing sets, and their log-probabilities if they are asked for."""
    from optuna_mde_trainers.scoring.sets import score_sets
    from optuna_mde_trainers.training.fit import scoring_device

    device = scoring_device(spec.launch)
    scores = score_sets(model.to(device), corpus, missing, device=device)
    for name, score in scores.items():
        if not math.isfinite(score.loss):
            raise DivergedError(f"the loss on {name} is {score.loss}: the run has diverged")
    return record(
        result,
        scores,
        folder,
        logprobs=spec.score.logprobs,
        tokenizer=spec.training.tokenizer,
    )


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
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
