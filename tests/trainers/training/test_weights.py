from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna_mde_trainers.corpus.blocks import Corpus
from optuna_mde_trainers.run import train
from optuna_mde_trainers.spec import RunError, RunSpec
from optuna_mde_trainers.training.models import build, transformers_part
from optuna_mde_trainers.training.weights import read_weights
from safetensors.torch import load_file

MakeSpec = Callable[..., RunSpec]

SHAPES: dict[str, dict[str, Any]] = {
    "tied": {"hidden_size": 16, "num_attention_heads": 2},
    "grouped-untied": {
        **{"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2},
        **{"rope_theta": 300.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": False},
        **{"vocab_size": 320, "num_hidden_layers": 3},
    },
    "gpt2": {
        "pretrained_config": {
            **{"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2},
            "n_positions": 16,
        }
    },
}


def _ours(spec: RunSpec, corpus: Corpus, folder: Path) -> torch.nn.Module:
    vocab_size, positions = corpus.vocab_size, corpus.block_size
    model = build(spec.training.model, vocab_size=vocab_size, max_positions=positions, seed=5)
    read_weights(transformers_part(model), folder)
    return model.eval()


@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_reads_a_run(
    tiny_corpus: Corpus, make_spec: MakeSpec, tmp_path: Path, shape: str
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = make_spec(model=SHAPES[shape])
    train(spec, tmp_path)
    folder = spec.folder(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    ids = tiny_corpus.validation_blocks("digits")[:4]["input_ids"]
    with torch.no_grad():
        logits = _ours(spec, tiny_corpus, folder)(ids[:, :-1])
        torch.testing.assert_close(theirs(ids[:, :-1]).logits, logits, rtol=0, atol=1e-5)
    assert theirs.config.max_position_embeddings == tiny_corpus.block_size

    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "abc 123 Tür"
    assert tokenizer(text)["input_ids"] == tiny_corpus.tokenizer().encode(text).ids
    assert tokenizer.eos_token_id == theirs.config.eos_token_id == tiny_corpus.end_of_text
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_all_files_have_the_mode_of_new_files(make_spec: MakeSpec, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        spec = make_spec(score={"logprobs": True}, max_steps=2)
        train(spec, tmp_path)
    finally:
        os.umask(before)
    files = [path for path in spec.folder(tmp_path).iterdir() if path.suffix != ".lock"]
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in files} == {
        path.name: "0o644" for path in files
    }
    assert len(files) == 7


def test_weights_may_be_kept_in_half_the_bytes(
    tiny_corpus: Corpus, make_spec: MakeSpec, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    whole, half = make_spec(), make_spec({"keep_weights": "bfloat16"})
    first, second = train(whole, tmp_path / "whole"), train(half, tmp_path / "half")
    assert second.losses == first.losses  # scored as they were trained
    kept = load_file(half.folder(tmp_path / "half") / "model.safetensors")
    for name, weight in load_file(whole.folder(tmp_path / "whole") / "model.safetensors").items():
        assert torch.equal(kept[name], weight.bfloat16())
    config = json.loads((half.folder(tmp_path / "half") / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    theirs = AutoModelForCausalLM.from_pretrained(half.folder(tmp_path / "half"))
    assert theirs.dtype == torch.bfloat16
    weights = _ours(half, tiny_corpus, half.folder(tmp_path / "half")).parameters()
    assert {weight.dtype for weight in weights} == {torch.float32}


def test_weights_may_be_left_out(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec({"keep_weights": "none"}, {"sets": ["mixed"]})
    result = train(spec, tmp_path)
    assert list(result.losses) == ["mixed"]
    assert {path.name for path in spec.folder(tmp_path).iterdir()} >= {"spec.json", "result.json"}
    assert not list(spec.folder(tmp_path).glob("*.safetensors"))
    with pytest.raises(RunError, match=r"not kept \(launch\.keep_weights\)"):
        train(make_spec(), tmp_path)
