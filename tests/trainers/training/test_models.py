"""Models of a run beside our decoder's own tests: transformers' models, documents, the loss in
parts, sizes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna_mde_trainers.run import train
from optuna_mde_trainers.spec import PRESETS, DecoderConfig, ModelConfig, RunError, RunSpec
from optuna_mde_trainers.training import loss as loss_room
from optuna_mde_trainers.training.documents import positions, same_document
from optuna_mde_trainers.training.flops import size
from optuna_mde_trainers.training.loss import next_token_loss
from optuna_mde_trainers.training.models import build, count_parameters
from optuna_mde_trainers.training.net import LanguageNet
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

MakeSpec = Callable[..., RunSpec]
GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2}
LLAMA = {
    **{"model_type": "llama", "hidden_size": 32, "intermediate_size": 48},
    **{"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1},
}
OURS = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
MODELS: dict[str, dict[str, Any]] = {
    "ours": OURS,
    "gpt2": {"pretrained_config": GPT2},
    "llama": {"pretrained_config": LLAMA},
}
END = 0


def _build(model: dict[str, Any], vocab_size: int = 50, **options: Any) -> LanguageNet:
    config = ModelConfig.model_validate(model)
    net = build(config, vocab_size=vocab_size, max_positions=24, seed=0, **options)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():  # our layers start as the identity
        for weight in net.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=draw))
    return net.eval()


def _ids(*shape: int, vocab_size: int = 50) -> torch.Tensor:
    return torch.randint(1, vocab_size, shape, generator=torch.Generator().manual_seed(2))


# -- documents


def test_positions_see_their_own_document() -> None:
    ids = torch.tensor([[7, END, 5, 5, END, 6]])
    assert positions(ids, END).tolist() == [[0, 0, 1, 2, 0, 1]]
    seen = same_document(ids, END)[0, 0]
    assert seen.int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 1],
    ]


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_masked_document_has_the_loss_that_it_has_alone(model: dict[str, Any]) -> None:
    masked, plain = _build(model, end_of_text=END), _build(model)
    first, second = _ids(1, 9), _ids(1, 11).flip(1)
    first[:, 0] = second[:, 0] = END
    both = torch.cat([first, second], dim=1)
    with torch.no_grad():
        alone = torch.cat([plain(first), plain(second)], dim=1)
        torch.testing.assert_close(masked(both), alone, rtol=1e-4, atol=1e-5)
        assert (plain(both) - alone).abs().max() > 1e-2
        torch.testing.assert_close(masked(first), plain(first), rtol=1e-5, atol=1e-6)


def test_masking_is_part_of_a_run(make_spec: MakeSpec, tmp_path: Path) -> None:
    plain, masked = make_spec(), make_spec(mask_documents=True)
    assert plain.folder_name != masked.folder_name
    assert train(plain, tmp_path).losses != train(masked, tmp_path).losses


# -- loss


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("rows", [1, 7, 24])
def test_the_loss_in_parts_is_the_loss(
    model: dict[str, Any], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, ids, targets = _build(model), _ids(3, 16), _ids(3, 16).flip(0)
    plain = cross_entropy(net(ids).flatten(0, 1), targets.flatten())
    expected = torch.autograd.grad(plain, list(net.parameters()))
    monkeypatch.setattr(loss_room, "LOGITS_AT_ONCE", rows * 50)
    assert net.projects_linearly
    monkeypatch.setattr(type(net), "forward", None)  # all logits at once
    parts = next_token_loss(net, ids, targets)
    torch.testing.assert_close(parts, plain)
    found = torch.autograd.grad(3 * parts, list(net.parameters()))
    for gradient, other in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, 3 * other, rtol=1e-4, atol=1e-6)


def test_the_loss_in_parts_serves_mixed_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    net, ids, targets = _build(OURS), _ids(3, 16), _ids(3, 16).flip(0)
    with torch.autocast("cpu", torch.bfloat16):
        plain = cross_entropy(net(ids).flatten(0, 1), targets.flatten())
        monkeypatch.setattr(loss_room, "LOGITS_AT_ONCE", 10 * 50)
        parts = next_token_loss(net, ids, targets)
    torch.testing.assert_close(parts, plain, rtol=1e-3, atol=1e-3)
    weight = net.lm_head.weight
    one, other = (torch.autograd.grad(loss, weight)[0] for loss in (plain, parts))
    assert (other - one).norm() < 0.02 * one.norm()


def test_logits_that_are_capped_are_not_taken_for_linear(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    capped = {
        **{"model_type": "gemma2", "hidden_size": 32, "intermediate_size": 48, "head_dim": 16},
        **{"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1},
        "final_logit_softcapping": 2.0,
    }
    net, ids = _build({"pretrained_config": capped}), _ids(2, 8)
    assert not net.projects_linearly
    plain = cross_entropy(net(ids).flatten(0, 1), ids.flatten())
    monkeypatch.setattr(loss_room, "LOGITS_AT_ONCE", 50)
    torch.testing.assert_close(next_token_loss(net, ids, ids), plain)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_recomputed_activations_change_no_gradient(model: dict[str, Any]) -> None:
    net, other = _build(model), _build(model)
    other.recompute_activations()
    ids = _ids(2, 12)
    for module in (net, other):
        module.train()
        torch.manual_seed(0)  # GPT-2 drops out
        module(ids).logsumexp(-1).mean().backward()
    for one, two in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)


# -- transformers


def test_a_model_of_transformers_starts_as_transformers_starts_it() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    before = torch.random.get_rng_state()
    ours = build(
        ModelConfig(pretrained_config={**GPT2, "initializer_range": 0.3}),
        vocab_size=50,
        max_positions=24,
        seed=5,
    )
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(5)
    fields = {key: value for key, value in GPT2.items() if key != "model_type"}
    theirs = GPT2LMHeadModel(GPT2Config(**fields, vocab_size=50, initializer_range=0.3))
    assert count_parameters(ours) == theirs.num_parameters()
    for name, weight in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[f"net.{name}"], weight)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_model_of_transformers_trains_and_resumes(
    make_spec: MakeSpec, tmp_path: Path, dropout: float
) -> None:
    class StopError(Exception):
        pass

    def stop(step: int, steps: int) -> None:
        if step == 13:
            raise StopError

    drops = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    model = {"pretrained_config": {**GPT2, **drops, "n_positions": 16}}
    spec = make_spec({"checkpoint_every_n_steps": 5}, model=model)
    before = torch.random.get_rng_state()
    straight = train(spec, tmp_path / "straight")
    assert torch.equal(before, torch.random.get_rng_state())
    assert straight.losses["letters"] < 5
    with pytest.raises(StopError):
        train(spec, tmp_path / "killed", on_step=stop)
    torch.manual_seed(77)
    resumed = train(spec, tmp_path / "killed")
    assert resumed.losses == straight.losses
    weights = load_file(spec.folder(tmp_path / "killed") / "model.safetensors")
    assert "transformer.h.0.attn.c_attn.weight" in weights  # as transformers names it


def test_a_folder_with_a_configuration_may_move(tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        origin = {"_name_or_path": name, "transformers_version": "4.0"}
        (tmp_path / name / "config.json").write_text(json.dumps({**GPT2, **origin}))
    here, there = (ModelConfig(pretrained_config=str(tmp_path / n)) for n in ("here", "there"))
    assert here == there == ModelConfig(pretrained_config=GPT2)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({**GPT2, "vocab_size": 40}, r"pretrained_config: its vocab_size \(40\) .* 257"),
        ({**GPT2, "n_positions": 8}, r"max_position_embeddings \(8\) .* block_size 16"),
        ({"model_type": "no_such_model"}, r"training\.model\.pretrained_config: .*no_such_model"),
        (
            {
                "model_type": "bert",
                "hidden_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
            },
            r"training\.model\.pretrained_config: a bert .* set is_decoder: true",
        ),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    make_spec: MakeSpec, tmp_path: Path, config: dict[str, Any], words: str
) -> None:
    with pytest.raises(RunError, match=words):
        train(make_spec(model={"pretrained_config": config}), tmp_path)


# -- sizes


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_sizes_of_their_names(name: str) -> None:
    vocab_size = 1024 if name == "1M" else 50_304
    config = ModelConfig.model_validate({"preset": name})
    assert config == ModelConfig.model_validate(PRESETS[name])
    named = float(name[:-1]) * (1e9 if name.endswith("B") else 1e6)
    parameters = size(config, vocab_size=vocab_size, block_size=2048).parameters
    assert parameters == pytest.approx(named, rel=0.07)
    with torch.device("meta"):
        net = build(config, vocab_size=vocab_size, max_positions=8, seed=0)
    assert count_parameters(net) == parameters


@pytest.mark.parametrize(
    "model",
    [
        OURS,
        {**OURS, "num_key_value_heads": 1, "tie_word_embeddings": False},
        {"pretrained_config": LLAMA},
        {"pretrained_config": {**GPT2, "n_positions": 24}},
    ],
    ids=["ours", "grouped-untied", "llama", "gpt2"],
)
def test_flops_are_those_that_torch_counts(model: dict[str, Any]) -> None:
    """Torch counts attention in full; a causal one leaves (T + 1) / 2 positions of T."""
    t, vocab_size = 24, 50
    net = _build(model, vocab_size)
    with FlopCounterMode(display=False) as counted, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        net(_ids(1, t))
    config = ModelConfig.model_validate(model)
    sized = size(config, vocab_size=vocab_size, block_size=t)
    layers = 2
    attention_in_full = layers * 2 * 2 * t * t * 32
    attention = layers * 2 * 2 * t * (t + 1) / 2 * 32
    forward = counted.get_total_flops() - attention_in_full + attention
    assert sized.exact * t == pytest.approx(3 * forward, rel=1e-12)
    assert sized.rule == 6 * sized.parameters == 6 * count_parameters(net)


def test_a_size_needs_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from optuna_mde_trainers.spec import ModelConfig;"
        "from optuna_mde_trainers.training.flops import size;"
        "size(ModelConfig(preset='1B'), vocab_size=50304, block_size=2048);"
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_what_stands_beside_a_preset_counts_before_it() -> None:
    config = ModelConfig.model_validate({"preset": "70M", "num_hidden_layers": 3})
    assert (config.hidden_size, config.num_hidden_layers) == (640, 3)
    assert isinstance(config, DecoderConfig)
    with pytest.raises(ValueError, match="hidden_size cannot stand beside pretrained_config"):
        ModelConfig(pretrained_config=GPT2, hidden_size=64)
