"""What a model makes of a validation set: the log-probability of every token, and its mean.

Always in float32, whatever the run was trained in: the log-probabilities of experts are mixed
token by token, and a bfloat16 keeps three digits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

if TYPE_CHECKING:
    import datasets
    from optuna_mde_trainers.corpus.blocks import Corpus

LOGITS_AT_ONCE = 2**24  # 64 MB of float32


@dataclass(frozen=True)
class SetScore:
    """One validation set under one model."""

    loss: float
    """Nats per token."""
    bits_per_byte: float
    fingerprint: str
    """Of the set."""
    logprobs: np.ndarray
    """`[T]` float32, in the order of the set's tokens."""


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
    scores = {}
    for name in sets:
        info = corpus.sets[name]
        logprobs = token_logprobs(model, corpus.validation_blocks(name), device=device)
        loss = -float(logprobs.mean(dtype=np.float64))
        bits = loss * info.tokens / (info.bytes * math.log(2))
        scores[name] = SetScore(loss, bits, info.fingerprint, logprobs)
    return scores


def token_logprobs(
    model: nn.Module, blocks: datasets.Dataset, *, device: torch.device
) -> np.ndarray:
    """Natural logarithms of the probabilities of a validation set's tokens.

    Args:
        model: From token ids `[b, t]` to logits `[b, t, V]`, on `device`.
        blocks: The set: n blocks of T + 1 tokens in a column `input_ids`.
        device: Where the model is.

    Returns:
        `[n T]` float32, in the order of the blocks and of the tokens in them.
    """
    table = blocks.with_format("torch")
    parts = []
    start, rows = 0, 1  # the first block alone says how large its logits are
    training = model.training
    model.eval()
    with torch.inference_mode():
        while start < len(table):
            ids = table[start : start + rows]["input_ids"].to(device)
            logits = model(ids[:, :-1]).flatten(0, 1).float()
            parts.append(-cross_entropy(logits, ids[:, 1:].flatten(), reduction="none").cpu())
            start, rows = start + len(ids), max(1, LOGITS_AT_ONCE * len(ids) // logits.numel())
    model.train(training)
    return torch.cat(parts).numpy()
