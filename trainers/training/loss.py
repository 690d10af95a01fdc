"""Loss of the next token, without ever holding all logits of a large vocabulary.

8 sequences of 2,048 tokens in a vocabulary of 50,000 have logits of 3.3 GB in float32, and as much
again for their gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from optuna_mde_trainers.training.net import LanguageNet
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

# Logits that are held at once: 512 MB of float32. More are computed in parts.
LOGITS_AT_ONCE = 2**27


def next_token_loss(model: LanguageNet, ids: Tensor, targets: Tensor) -> Tensor:
    """Mean loss, nats per token.

    Args:
        model: From token ids to logits.
        ids: Inputs `[b, t]`.
        targets: Next tokens `[b, t]`.
    """
    head = cast(nn.Linear, model.lm_head)
    rows = max(1, LOGITS_AT_ONCE // head.weight.shape[0])
    if targets.numel() <= rows or not model.projects_linearly:
        return cross_entropy(model(ids).flatten(0, 1), targets.flatten())
    hidden = model.hidden(ids).flatten(0, 1)
    total = _LossInParts.apply(hidden, head.weight, head.bias, targets.flatten(), rows)
    return cast(Tensor, total) / targets.numel()


class _LossInParts(torch.autograd.Function):
    """Σ -log p of targets `[n]` from hidden states `[n, D]`, some rows after the other.

    The gradient is computed on the way, as the logits are there: no part is computed twice.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        rows: int,
    ) -> Tensor:
        needed = any(ctx.needs_input_grad[:3])
        total = hidden.new_zeros((), dtype=torch.float32)
        gradients = (
            torch.zeros_like(hidden),
            torch.zeros_like(weight),
            None if bias is None else torch.zeros_like(bias),
        )
        for part in _parts(len(targets), rows):
            logits = linear(hidden[part], weight, bias)
            probabilities = logits.float().log_softmax(dim=-1)
            total -= probabilities.gather(1, targets[part, None]).sum()
            if needed:
                surplus = probabilities.exp_()  # p - 1 at the target, p elsewhere
                surplus.scatter_add_(
                    1, targets[part, None], surplus.new_full((len(surplus), 1), -1)
                )
                _add_gradients(gradients, surplus.to(logits.dtype), hidden[part], weight, part)
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx: Any, *scales: Tensor) -> Any:
        (scale,) = scales
        hidden, weight, bias = ctx.saved_tensors
        return hidden * scale, weight * scale, None if bias is None else bias * scale, None, None


def _parts(length: int, rows: int) -> Iterator[slice]:
    for start in range(0, length, rows):
        yield slice(start, start + rows)


def _add_gradients(
    gradients: tuple[Tensor, Tensor, Tensor | None],
    surplus: Tensor,
    hidden: Tensor,
    weight: Tensor,
    part: slice,
) -> None:
    of_hidden, of_weight, of_bias = gradients
    of_hidden[part] = surplus @ weight.to(surplus.dtype)
    of_weight += surplus.T @ hidden.to(surplus.dtype)
    if of_bias is not None:
        of_bias += surplus.sum(dim=0)
