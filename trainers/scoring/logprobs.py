"""The log-probability of every token: of blocks of text, and of targets after their prompts.

Always in float32, whatever the run was trained in: the log-probabilities of experts are mixed
token by token, and a bfloat16 keeps three digits. Memory is bounded by the constants below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

if TYPE_CHECKING:
    import datasets

LOGITS_AT_ONCE = 2**24  # 64 MB of float32
TOKENS_AT_ONCE = (
    2**14
)  # of a forward pass, where logits do not limit it: 128 MB at a width of 2,048


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
    found = np.empty((len(table), 0), np.float32)
    start, rows = 0, 1  # the first block alone says how large its logits are
    training = model.training
    model.eval()
    with torch.no_grad():  # not inference_mode: the model may train on
        while start < len(table):
            ids = table[start : start + rows]["input_ids"].to(device)
            inputs, targets = ids[:, :-1], ids[:, 1:]
            nats, width = _nats(model, inputs, targets, torch.ones_like(targets, dtype=torch.bool))
            if start == 0:
                found = np.empty((len(table), len(nats)), np.float32)
            found[start : start + len(ids)] = -nats.view(targets.shape).cpu().numpy()
            start, rows = start + len(ids), _rows(model, targets.shape[1], width)
    model.train(training)
    return found.reshape(-1)


def target_logprobs(
    model: nn.Module, rows: datasets.Dataset, *, device: torch.device
) -> list[np.ndarray]:
    """Natural logarithms of the probabilities of targets, each after its prompt.

    Args:
        model: From token ids `[b, t]` to logits `[b, t, V]`, causal, on `device`.
        rows: Columns `input_ids`, and `target_tokens`: how many of the last ones are the target.
        device: Where the model is.

    Returns:
        For each row `[target_tokens]` float32.
    """
    ids = [torch.tensor(row, dtype=torch.int64) for row in rows.with_format(None)["input_ids"]]
    targets = list(rows.with_format(None)["target_tokens"])
    # The longest first: what does not fit into memory is known at once, and padding is little.
    order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
    found: dict[int, np.ndarray] = {}
    start, batch = 0, 1
    training = model.training
    model.eval()
    with torch.no_grad():
        while start < len(order):
            taken = order[start : start + batch]
            padded = pad_sequence([ids[row] for row in taken], batch_first=True).to(device)
            lengths = torch.tensor([len(ids[row]) for row in taken])[:, None]
            numbers = torch.tensor([targets[row] for row in taken])[:, None]
            place = torch.arange(1, padded.shape[1])  # of the token that is predicted
            scored = ((place < lengths) & (place >= lengths - numbers)).to(device)
            # To the right of a row's end nothing can reach it.
            nats, width = _nats(model, padded[:, :-1], padded[:, 1:], scored)
            parts = (-nats).cpu().split(numbers.flatten().tolist())
            found.update(zip(taken, (part.numpy() for part in parts), strict=True))
            start += len(taken)
            if start < len(order):
                batch = _rows(model, len(ids[order[start]]), width)
    model.train(training)
    return [found[row] for row in range(len(ids))]


def _rows(model: nn.Module, length: int, width: int) -> int:
    """Sequences of a forward pass."""
    at_once = TOKENS_AT_ONCE if _is_linear(model) else LOGITS_AT_ONCE // width
    return max(1, at_once // length)


def _is_linear(model: nn.Module) -> bool:
    return bool(getattr(model, "projects_linearly", False))


def _nats(
    model: nn.Module, ids: torch.Tensor, targets: torch.Tensor, scored: torch.Tensor
) -> tuple[torch.Tensor, int]:
    """`-log p` of the targets where `scored` `[b, t]` says so, in their order, and V.

    Logits are computed where they are needed alone, and in parts, if the model's are a linear
    function of what its output projection sees.
    """
    wanted = targets[scored]
    if not _is_linear(model):
        logits = model(ids)
        nats = cross_entropy(logits[scored].float(), wanted, reduction="none")
        return nats, logits.shape[-1]
    net = cast(Any, model)
    hidden, width = net.hidden(ids)[scored], net.lm_head.weight.shape[0]
    at_once = max(1, LOGITS_AT_ONCE // width)
    parts = [
        cross_entropy(net.lm_head(states).float(), truth, reduction="none")
        for states, truth in zip(hidden.split(at_once), wanted.split(at_once), strict=True)
    ]
    return torch.cat(parts), width
