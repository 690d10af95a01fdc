"""A run's weights on disk: a checkpoint of transformers, with its configuration and tokenizer.

`AutoModelForCausalLM.from_pretrained(run)` reads the folder, and so does whatever builds on it.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna_mde_trainers.spec import (
    RESULT_FILE,
    TOKENIZER_CONFIG_FILE,
    WEIGHTS_FILE,
    DecoderConfig,
    KeepWeights,
    RunError,
    write_atomic,
)

if TYPE_CHECKING:
    from optuna_mde_trainers.corpus.blocks import Corpus
    from torch import Tensor, nn

CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"


def llama_config(config: DecoderConfig, *, vocab_size: int) -> dict[str, Any]:
    """Our decoder as a configuration of `transformers.LlamaForCausalLM`.

    Args:
        config: The shape.
        vocab_size: Size of the tokenizer's vocabulary, for a shape that leaves it open.
    """
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size or vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.key_value_heads,
        "head_dim": config.hidden_size // config.num_attention_heads,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,  # where versions before 5 look
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "tie_word_embeddings": config.tie_word_embeddings,
        "attention_bias": False,
        "mlp_bias": False,
    }


def write_checkpoint(
    net: nn.Module, config: dict[str, Any], corpus: Corpus, folder: Path, keep: KeepWeights
) -> None:
    """Write weights, configuration and tokenizer of a run.

    Args:
        net: Names its weights as transformers does.
        config: What transformers builds the same model from.
        corpus: Has the tokenizer, the longest sequence, and the token that ends a document.
        folder: The run's.
        keep: In which precision. none: nothing is written.
    """
    if keep == "none":
        return
    import torch
    from safetensors.torch import save_file

    ends = corpus.end_of_text
    tokens = {} if ends is None else {"bos_token_id": ends, "eos_token_id": ends}
    lengths = {"max_position_embeddings": corpus.block_size}
    _write_json({**lengths, **config, **tokens, "dtype": keep}, folder / CONFIG_FILE)
    shutil.copyfile(corpus.folder / TOKENIZER_FILE, folder / TOKENIZER_FILE)
    _write_json(_tokenizer_config(corpus), folder / TOKENIZER_CONFIG_FILE)
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[keep]
    beside = folder / f"{WEIGHTS_FILE}.part"
    state = {
        name: weight.detach().to(dtype if weight.is_floating_point() else weight.dtype)
        for name, weight in _unshared(net.state_dict()).items()
    }
    save_file({n: w.contiguous() for n, w in state.items()}, beside, metadata={"format": "pt"})
    shutil.copymode(folder / CONFIG_FILE, beside)  # safetensors lets only the owner read
    os.replace(beside, folder / WEIGHTS_FILE)


def read_weights(net: nn.Module, folder: Path) -> None:
    """Fill a model with the weights of a run, in the model's own precision.

    Raises:
        RunError: If the file is damaged, or of another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    try:
        load_model(net, str(folder / WEIGHTS_FILE))
    except (SafetensorError, RuntimeError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(
            f"{folder / WEIGHTS_FILE} is damaged, or of another model ({reason}): put a copy "
            f"of it back, or delete {RESULT_FILE} beside it to train the run again"
        ) from error


def _unshared(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every weight once. Of tied ones the input embedding's name stays, as transformers has it,
    which comes first in the state of a model."""
    kept: dict[str, Tensor] = {}
    places = set()
    for name, weight in state.items():
        if weight.data_ptr() not in places:
            kept[name] = weight
            places.add(weight.data_ptr())
    return kept


def _tokenizer_config(corpus: Corpus) -> dict[str, Any]:
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": corpus.block_size,
        "clean_up_tokenization_spaces": False,
    }
    if corpus.end_of_text is not None:
        text = corpus.tokenizer().id_to_token(corpus.end_of_text)
        config |= {"bos_token": text, "eos_token": text}
    return config


def _write_json(content: dict[str, Any], path: Path) -> None:
    write_atomic(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
