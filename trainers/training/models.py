"""The model of a run: from token ids `[b, t]` to logits `[b, t, V]`, ours or of transformers."""

from __future__ import annotations

from typing import Any

from optuna_mde_trainers.spec import ModelConfig
from optuna_mde_trainers.training.decoder import Decoder
from optuna_mde_trainers.training.net import LanguageNet
from torch import nn


def build(
    config: ModelConfig,
    *,
    vocab_size: int,
    max_positions: int,
    seed: int,
    end_of_text: int | None = None,
) -> LanguageNet:
    """The model of a run.

    Args:
        config: The model's part of the spec.
        vocab_size: Size of the tokenizer's vocabulary.
        max_positions: Longest sequence.
        seed: Seed of the initial weights.
        end_of_text: The token that opens a document, where positions are to see their own
            document alone. None: they see all before them.

    Raises:
        ValueError: If the model does not fit the tokenizer or the length of a block; the message
            begins with the field.
    """
    if config.pretrained_config is not None:
        from optuna_mde_trainers.training.pretrained import build_pretrained

        return build_pretrained(
            config.pretrained_config,
            vocab_size=vocab_size,
            max_positions=max_positions,
            seed=seed,
            end_of_text=end_of_text,
        )
    rows = config.vocab_size or vocab_size
    if rows < vocab_size:
        raise ValueError(
            f"vocab_size ({rows}) is smaller than the tokenizer's {vocab_size}: "
            "leave it out, or give at least as many"
        )
    return Decoder(config, rows, max_positions, seed=seed, end_of_text=end_of_text)


def transformers_part(model: LanguageNet) -> nn.Module:
    """The module whose state dict has the names that transformers gives the weights."""
    from optuna_mde_trainers.training.pretrained import PretrainedModel

    return model.net if isinstance(model, PretrainedModel) else model


def transformers_config(
    model: LanguageNet, config: ModelConfig, *, vocab_size: int
) -> dict[str, Any]:
    """What transformers builds the same model from: the content of a `config.json`.

    Args:
        model: The model.
        config: Its part of the spec.
        vocab_size: Size of the tokenizer's vocabulary.
    """
    from optuna_mde_trainers.training.pretrained import PretrainedModel
    from optuna_mde_trainers.training.weights import llama_config

    if isinstance(model, PretrainedModel):
        return model.configuration()
    return llama_config(config, vocab_size=vocab_size)


def count_parameters(model: nn.Module) -> int:
    """Number of weights, a shared one counted once."""
    return sum(weight.numel() for weight in model.parameters())
