"""Numbers of weights and of floating-point operations, from the settings alone: without torch.

Symbols: D width, I width of the SwiGLU, L layers, d head dimension, h query heads, k key and value
heads, V vocabulary, T tokens of a block. A multiplication and an addition count as two.

    weights of the layers   N_l = L (D d (2 h + 2 k) + 3 D I + 2 D) + D
    weights                 N = N_l + V D, or N_l + 2 V D if the output is not tied
    6ND                     6 N a token, the rule of [K]_: the embedding counted once
    matrix products         F_m = 2 (L (D d (2 h + 2 k) + 3 D I) + V D)
    attention               F_a = 2 L h d (T + 1): Q·K and its product with V, over the (T + 1) / 2
                            positions that a causal mask leaves on average
    exact                   3 (F_m + F_a) a token: the backward pass costs twice the forward pass

Norms, rotations, softmax and the optimizer are left out, as is what activation checkpointing
computes again, so that MFU counts useful work. Counting attention in full, as some do, gives more:
2 L h d T in place of L h d (T + 1) for each of the two products.

.. [K] J. Kaplan et al., Scaling laws for neural language models. arXiv 2001.08361 (2020).
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from optuna_mde_trainers.spec import ModelConfig


class Size(NamedTuple):
    """What a model holds and costs."""

    parameters: int
    """Weights, a shared one counted once."""
    rule: int
    """FLOPs of training one token by the rule 6 N."""
    exact: int
    """FLOPs of training one token: matrix products and causal attention."""


def size(config: ModelConfig, *, vocab_size: int, block_size: int) -> Size:
    """Size of a run's model.

    Args:
        config: The model's part of the spec. One of transformers is built without its weights,
            which takes seconds and needs its extra.
        vocab_size: Size of the tokenizer's vocabulary.
        block_size: Tokens of a block, T.

    Raises:
        ValueError: If the model does not fit the tokenizer or the length of a block.
    """
    if config.pretrained_config is not None:
        return _pretrained_size(config.pretrained_config, vocab_size, block_size)
    rows = config.vocab_size or vocab_size
    width, layers = config.hidden_size, config.num_hidden_layers
    head = width // config.num_attention_heads
    matrices = layers * (
        width * head * 2 * (config.num_attention_heads + config.key_value_heads)
        + 3 * width * config.intermediate_size
    )
    gains = (2 * layers + 1) * width
    embeddings = rows * width * (1 if config.tie_word_embeddings else 2)
    parameters = matrices + gains + embeddings
    forward = 2 * (matrices + rows * width) + attention_flops(layers, width, block_size)
    return Size(parameters, 6 * parameters, 3 * forward)


def attention_flops(layers: int, width: int, block_size: int) -> int:
    """FLOPs of causal attention a token, forward; `width` is that of all heads together."""
    return 2 * layers * width * (block_size + 1)


def _pretrained_size(source: str | dict[str, Any], vocab_size: int, block_size: int) -> Size:
    """The same for a model of transformers, all of whose matrices are taken to be products: of a
    mixture of experts, all experts count."""
    import torch
    from optuna_mde_trainers.training.pretrained import build_pretrained
    from torch import nn

    with torch.device("meta"):
        model = build_pretrained(
            source,
            vocab_size=vocab_size,
            max_positions=block_size,
            seed=0,
            end_of_text=None,
        )
    net = model.net
    head = cast(nn.Linear, model.lm_head).weight
    tables = {id(m.weight) for m in net.modules() if isinstance(m, nn.Embedding)}
    products = sum(w.numel() for w in net.parameters() if w.ndim >= 2 and id(w) not in tables)
    if id(head) in tables:  # tied: a product as well as a table
        products += head.numel()
    config = net.config.get_text_config()
    forward = 2 * products + attention_flops(
        config.num_hidden_layers, config.hidden_size, block_size
    )
    parameters = sum(w.numel() for w in net.parameters())
    return Size(parameters, 6 * parameters, 3 * forward)
