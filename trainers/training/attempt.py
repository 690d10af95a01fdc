"""One attempt at training a run: from its spec to written weights and a result without scores."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from optuna_mde_trainers.spec import (
    DivergedError,
    Ledger,
    Realised,
    RunError,
    RunResult,
    RunSpec,
    TrainPoint,
)
from optuna_mde_trainers.training.checks import micro_batch_size
from optuna_mde_trainers.training.ranks import Rank
from optuna_mde_trainers.training.schedule import Schedule

if TYPE_CHECKING:
    import torch
    from lightning.pytorch.loggers import Logger
    from optuna_mde_trainers.corpus.blocks import Corpus
    from optuna_mde_trainers.training.checkpoints import OnStep, Pauses
    from optuna_mde_trainers.training.fit import Fitted
    from optuna_mde_trainers.training.net import LanguageNet


@dataclass(frozen=True)
class Trained:
    """What an attempt ends with, on each rank."""

    model: LanguageNet
    result: RunResult
    """Without scores."""
    device: torch.device | None = None
    """Where this rank trained; None where the run has diverged."""
    is_whole: bool = True
    """Whether every rank has all weights, and not rank 0 alone."""
    loggers: Sequence[Logger] = ()
    """On rank 0, for the scores."""


def trained(
    spec: RunSpec,
    corpus: Corpus,
    folder: Path,
    *,
    rank: Rank,
    on_step: OnStep | None = None,
    pauses: Pauses | None = None,
) -> Trained:
    """The finished model, its weights written by rank 0, and a result without scores.

    A run that diverges has such a result too, which says so, and no weights.

    Raises:
        RunError: If the corpus is not the spec's, or the spec asks for what there is not.
    """
    started = time.monotonic()
    _check(spec, corpus)
    schedule = schedule_of(spec, corpus)

    from optuna_mde_trainers.training.data import BlockDataModule
    from optuna_mde_trainers.training.fit import fit
    from optuna_mde_trainers.training.module import LanguageModel

    training = spec.training
    model = build_model(spec, corpus)
    module = LanguageModel(model, training.optimizer, training.max_steps, seed=training.seed)
    data = BlockDataModule(
        {name: corpus.train_blocks(name) for name, count in schedule.counts.items() if count},
        schedule,
        fingerprint=corpus.fingerprint,
        micro_batch_size=micro_batch_size(training, rank.world_size),
        num_workers=spec.launch.num_workers,
    )
    try:
        fitted = fit(module, data, spec, folder, on_step, rank=rank, pauses=pauses)
    except DivergedError as error:
        steps = 0 if error.step is None else error.step + 1
        result = _result(spec, corpus, schedule, model, steps=steps)
        update = {"diverged": str(error), "seconds": time.monotonic() - started}
        return Trained(model, result.model_copy(update=update))
    if fitted.weights is not None and rank.writes:  # of a sharded model
        model = build_model(spec, corpus)
        prefix = "model."
        model.load_state_dict({k.removeprefix(prefix): v for k, v in fitted.weights.items()})
    if rank.writes:
        _write_weights(model, spec, corpus, folder)
    result = _result(spec, corpus, schedule, model, steps=training.max_steps)
    wall_seconds = time.monotonic() - started + fitted.earlier_seconds
    per_step = training.global_batch_size * corpus.block_size
    result = result.model_copy(
        update={
            "train_loss": module.final_train_loss(),
            "train_curve": [
                TrainPoint(step=step, tokens=step * per_step, loss=loss)
                for step, loss in module.train_curve()
            ],
            "seconds": fitted.seconds,
            "ledger": _ledger(spec, corpus, fitted, result.tokens, wall_seconds),
        }
    )
    is_whole = fitted.weights is None
    return Trained(model, result, fitted.device, is_whole=is_whole, loggers=fitted.loggers)


def schedule_of(spec: RunSpec, corpus: Corpus) -> Schedule:
    """The order of a run's blocks.

    Raises:
        RunError: If a domain of its mixture holds none.
    """
    try:
        return Schedule(
            spec.training.mixture,
            {name: info.blocks for name, info in corpus.domains.items()},
            steps=spec.training.max_steps,
            batch_size=spec.training.global_batch_size,
            seed=spec.training.seed,
        )
    except ValueError as error:
        raise RunError(f"training.mixture: {error}") from error


def build_model(spec: RunSpec, corpus: Corpus) -> LanguageNet:
    """The model of a run with its initial weights.

    Raises:
        RunError: If it does not fit the corpus.
    """
    from optuna_mde_trainers.training.models import build

    if spec.training.mask_documents and corpus.end_of_text is None:
        raise RunError(
            f"training.mask_documents: {corpus.folder} does not say which token ends a document: "
            "prepare it anew"
        )
    try:
        return build(
            spec.training.model,
            vocab_size=corpus.vocab_size,
            max_positions=corpus.block_size,
            seed=spec.training.seed,
            end_of_text=corpus.end_of_text if spec.training.mask_documents else None,
        )
    except ValueError as error:
        raise RunError(f"training.model.{error}") from error


def _check(spec: RunSpec, corpus: Corpus) -> None:
    if spec.unknown_fields:
        raise RunError(
            f"{', '.join(spec.unknown_fields)}: fields of a newer version, of which this one does "
            "not know what they change: update optuna-mde to train this run"
        )
    for field, asked, held in (
        ("corpus", spec.training.corpus, corpus.fingerprint),
        ("tokenizer", spec.training.tokenizer, corpus.tokenizer_fingerprint),
    ):
        if asked != held:
            raise RunError(
                f"training.{field} is {asked}, but {corpus.folder} holds {held}: train on the "
                "corpus that the spec was made for, or make the spec anew"
            )


def _write_weights(model: LanguageNet, spec: RunSpec, corpus: Corpus, folder: Path) -> None:
    from optuna_mde_trainers.training.models import transformers_config, transformers_part
    from optuna_mde_trainers.training.weights import write_checkpoint

    config = transformers_config(model, spec.training.model, vocab_size=corpus.vocab_size)
    write_checkpoint(transformers_part(model), config, corpus, folder, spec.launch.keep_weights)


def _result(
    spec: RunSpec, corpus: Corpus, schedule: Schedule, model: LanguageNet, *, steps: int
) -> RunResult:
    """What is known before a run is scored."""
    from optuna_mde_trainers.training.models import count_parameters

    sequences = steps * spec.training.global_batch_size
    return RunResult(
        losses={},
        bits_per_byte={},
        set_fingerprints={},
        train_loss=None,
        tokens=sequences * corpus.block_size,
        parameters=count_parameters(model),
        realised={
            name: Realised(
                rate=count / sequences if sequences else 0.0,
                tokens=count * corpus.block_size,
                epochs=count / schedule.blocks[name] if count else 0.0,
            )
            for name, count in schedule.counts_until(steps).items()
        },
        seconds=0.0,
    )


def _ledger(
    spec: RunSpec, corpus: Corpus, fitted: Fitted, tokens: int, wall_seconds: float
) -> Ledger:
    from optuna_mde_trainers.training.flops import size
    from optuna_mde_trainers.training.ledger import ledger

    sized = size(spec.training.model, vocab_size=corpus.vocab_size, block_size=corpus.block_size)
    return ledger(spec, fitted, sized, tokens=tokens, wall_seconds=wall_seconds)
