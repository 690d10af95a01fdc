"""What a model makes of a validation set: the mean over its tokens, and each of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from optuna_mde_trainers.scoring.choices import ChoiceScores
from optuna_mde_trainers.scoring.logprobs import target_logprobs, token_logprobs
from torch import nn

if TYPE_CHECKING:
    from optuna_mde_trainers.corpus.blocks import Corpus


@dataclass(frozen=True)
class SetScore:
    """One validation set under one model."""

    loss: float
    """Nats per token; of a prompt/target set, per target token of the right choices."""
    bits_per_byte: float
    fingerprint: str
    """Of the set."""
    logprobs: np.ndarray
    """`[T]` float32, in the order of the set's tokens: those that the loss is the mean of."""
    choices: ChoiceScores | None = None
    """Of a prompt/target set."""


def score_sets(
    model: nn.Module, corpus: Corpus, sets: Iterable[str], *, device: torch.device
) -> dict[str, SetScore]:
    """Score validation sets of a corpus.

    Args:
        model: From token ids `[b, t]` to logits `[b, t, V]`, on `device`.
        corpus: Holds the sets.
        sets: Their names.
        device: Where the model is.
    """
    return {name: _score(model, corpus, name, device) for name in sets}


def _score(model: nn.Module, corpus: Corpus, name: str, device: torch.device) -> SetScore:
    info = corpus.sets[name]
    choices = None
    if info.kind == "prompts":
        rows = corpus.prompt_rows(name)
        targets = target_logprobs(model, rows, device=device)
        choices = ChoiceScores.of(rows, targets)
        logprobs = np.concatenate(
            [values for values, right in zip(targets, choices.is_right, strict=True) if right]
        )
    else:
        logprobs = token_logprobs(model, corpus.validation_blocks(name), device=device)
    loss = -float(logprobs.mean(dtype=np.float64))
    bits = loss * info.tokens / (info.bytes * math.log(2))
    return SetScore(loss, bits, info.fingerprint, logprobs, choices)
