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
from optuna_mde_trainers.scoring.sharding import Shard
from torch import nn

if TYPE_CHECKING:
    from optuna_mde_trainers.corpus.blocks import Corpus

ALONE = Shard()


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
    model: nn.Module,
    corpus: Corpus,
    sets: Iterable[str],
    *,
    device: torch.device,
    shard: Shard = ALONE,
) -> dict[str, SetScore]:
    """Score validation sets of a corpus.

    Args:
        model: From token ids `[b, t]` to logits `[b, t, V]`, on `device`.
        corpus: Holds the sets.
        sets: Their names.
        device: Where the model is.
        shard: This process's part of every set, where several have the model.

    Returns:
        Set -> its score; nothing on processes other than the first.
    """
    scores = {}
    for name in sets:
        kind = corpus.sets[name].kind
        scored = (_text if kind == "text" else _prompts)(model, corpus, name, device, shard)
        if scored is not None:
            scores[name] = scored
    return scores


def _text(
    model: nn.Module, corpus: Corpus, name: str, device: torch.device, shard: Shard
) -> SetScore | None:
    blocks = corpus.validation_blocks(name)
    part = token_logprobs(model, blocks.select(shard.rows(len(blocks))), device=device)
    logprobs = shard.together(part)
    return None if logprobs is None else _score(corpus, name, logprobs)


def _prompts(
    model: nn.Module, corpus: Corpus, name: str, device: torch.device, shard: Shard
) -> SetScore | None:
    rows = corpus.prompt_rows(name)
    part = target_logprobs(model, rows.select(shard.rows(len(rows))), device=device)
    together = shard.together(np.concatenate([np.zeros(0, np.float32), *part]))
    if together is None:
        return None
    ends = np.cumsum(rows.with_format("numpy")["target_tokens"])
    targets = np.split(together, ends[:-1])
    choices = ChoiceScores.of(rows, targets)
    right = [values for values, right in zip(targets, choices.is_right, strict=True) if right]
    return _score(corpus, name, np.concatenate(right), choices)


def _score(
    corpus: Corpus, name: str, logprobs: np.ndarray, choices: ChoiceScores | None = None
) -> SetScore:
    info = corpus.sets[name]
    loss = -float(logprobs.mean(dtype=np.float64))
    bits = loss * info.tokens / (info.bytes * math.log(2))
    return SetScore(loss, bits, info.fingerprint, logprobs, choices)
