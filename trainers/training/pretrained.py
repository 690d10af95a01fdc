"""Any causal language model of transformers, from its configuration: new weights, its own
initialisation.

transformers is an extra (`optuna-mde[hf]`), and imported here alone.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
from optuna_mde_trainers.training.documents import positions
from optuna_mde_trainers.training.net import LanguageNet
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


class PretrainedModel(LanguageNet):
    """From token ids `[b, t]` to logits `[b, t, V]`.

    Args:
        net: A causal language model of transformers.
        end_of_text: The token that opens a document, where positions are to see their own
            document alone. None: they see all before them.
    """

    draws_at_random = True  # dropout, where the configuration has any

    def __init__(self, net: PreTrainedModel, end_of_text: int | None = None) -> None:
        super().__init__()
        self.net = net
        self.end_of_text = end_of_text

    @property
    def lm_head(self) -> nn.Module:  # type: ignore[override]
        """The output projection."""
        return self.net.get_output_embeddings()

    @cached_property
    def projects_linearly(self) -> bool:
        # Some models scale their logits or cap them.
        if type(self.lm_head) is not nn.Linear:
            return False
        training = self.training
        self.eval()
        with torch.inference_mode():
            ids = torch.arange(2, device=self.lm_head.weight.device)[None]
            same = torch.allclose(self(ids), self.lm_head(self.hidden(ids)), rtol=1e-3, atol=1e-3)
        self.train(training)
        return same

    def forward(self, ids: Tensor) -> Tensor:
        return cast(Tensor, self.net(ids, use_cache=False, **self._places(ids)).logits)

    def hidden(self, ids: Tensor) -> Tensor:
        output = self.net.base_model(ids, use_cache=False, **self._places(ids))
        return cast(Tensor, output.last_hidden_state)

    @property
    def backbone(self) -> nn.Module:
        return self.net.base_model

    def recompute_activations(self) -> None:
        newer = "activation_checkpointing_enable"  # the other one goes with transformers 6
        enable = getattr(self.net, newer, None) or self.net.gradient_checkpointing_enable
        enable({"use_reentrant": False})

    def configuration(self) -> dict[str, Any]:
        """The content of the model's `config.json`."""
        config = self.net.config
        content = config.to_dict() | {"architectures": [type(self.net).__name__]}
        longest = getattr(config, "max_position_embeddings", None)
        return content if longest is None else content | {"max_position_embeddings": longest}

    def _places(self, ids: Tensor) -> dict[str, Tensor]:
        # transformers takes positions that start again for documents packed into one row, and
        # masks them from each other.
        if self.end_of_text is None:
            return {}
        return {"position_ids": positions(ids, self.end_of_text)}


def build_pretrained(
    source: str | dict[str, Any],
    *,
    vocab_size: int,
    max_positions: int,
    seed: int,
    end_of_text: int | None,
) -> PretrainedModel:
    """A model with new weights.

    Args:
        source: Name on the hub, folder, or the configuration itself with its `model_type`.
        vocab_size: Size of the tokenizer's vocabulary; the model's where it is inline and silent.
        max_positions: Longest sequence.
        seed: Seed of the initial weights.
        end_of_text: As in `PretrainedModel`.

    Raises:
        ValueError: If there is no such configuration, it does not fit the tokenizer or the length
            of a block, or its model sees what comes after; the message begins with the field.
    """
    from transformers import AutoModelForCausalLM

    config = _configuration(source, vocab_size)
    if config.vocab_size < vocab_size:
        raise ValueError(
            f"pretrained_config: its vocab_size ({config.vocab_size}) is smaller than the "
            f"tokenizer's {vocab_size}: give the configuration inline, with at least as many"
        )
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and longest < max_positions:
        raise ValueError(
            f"pretrained_config: its max_position_embeddings ({longest}) is less than the "
            f"corpus's block_size {max_positions}: give a longer one, or cut shorter blocks"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            net = AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, trust_remote_code=False
            )
        except (ValueError, TypeError) as error:
            raise ValueError(f"pretrained_config: {_first_line(error)}") from error
    model = PretrainedModel(net, end_of_text)
    if net.device.type != "meta" and not _is_causal(model):
        raise ValueError(
            f"pretrained_config: a {config.model_type} of this configuration sees the tokens that "
            "it is to predict: set is_decoder: true in it, or take another model_type"
        )
    return model


def _is_causal(model: PretrainedModel) -> bool:
    """Whether the first logits stay when the last token changes. Encoders' do not."""
    training = model.training
    model.eval()
    with torch.inference_mode():
        logits = model(torch.tensor([[0, 1, 2], [0, 1, 3]], device=model.net.device))
    model.train(training)
    return torch.allclose(logits[0, :2], logits[1, :2], rtol=1e-3, atol=1e-5)


def _configuration(source: str | dict[str, Any], vocab_size: int) -> PreTrainedConfig:
    from transformers import AutoConfig

    try:
        if isinstance(source, str):
            return AutoConfig.from_pretrained(source, trust_remote_code=False)
        fields = {"vocab_size": vocab_size, **source}
        return AutoConfig.for_model(fields.pop("model_type"), **fields)
    except (ValueError, TypeError, OSError, KeyError) as error:
        raise ValueError(f"pretrained_config: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
