from __future__ import annotations

import pytest
import torch
from optuna_mde_trainers.spec import DecoderConfig, ModelConfig
from optuna_mde_trainers.training.decoder import Decoder
from optuna_mde_trainers.training.models import build, count_parameters
from torch.nn.functional import cross_entropy

SHAPES = [
    DecoderConfig(hidden_size=48, intermediate_size=80, num_hidden_layers=2),
    DecoderConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=2,
        rope_theta=500.0,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
    ),
]


def _perturbed(config: DecoderConfig, vocab_size: int, max_positions: int) -> Decoder:
    """A decoder whose blocks do something: they start as the identity."""
    model = Decoder(config, vocab_size, max_positions, seed=0)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=draw))
    return model


@pytest.mark.parametrize("config", SHAPES, ids=["tied", "grouped-untied"])
def test_same_logits_as_transformers_with_the_same_weights(config: DecoderConfig) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    ours = _perturbed(config, vocab_size=150, max_positions=32)
    settings = config.model_dump(
        exclude={"preset", "vocab_size", "rope_theta", "num_key_value_heads"}
    )
    theirs = LlamaForCausalLM(
        LlamaConfig(
            **settings,
            vocab_size=150,
            num_key_value_heads=config.key_value_heads,
            max_position_embeddings=32,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            attn_implementation="eager",
        )
    )
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert count_parameters(ours) == theirs.num_parameters()
    ids = torch.randint(150, (3, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=1e-4, atol=2e-5)


def test_a_position_does_not_see_later_ones() -> None:
    model = _perturbed(SHAPES[1], vocab_size=50, max_positions=16)
    ids = torch.randint(50, (1, 16), generator=torch.Generator().manual_seed(0))
    changed = ids.clone()
    changed[0, 10] = (ids[0, 10] + 1) % 50
    with torch.no_grad():
        difference = (model(ids) - model(changed)).abs().amax(dim=-1)[0]
    assert difference[:10].max() == 0
    assert difference[10:].min() > 0


def test_shorter_sequences_have_the_same_logits() -> None:
    model = _perturbed(SHAPES[0], vocab_size=50, max_positions=16)
    ids = torch.randint(50, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(ids)[:, :5], model(ids[:, :5]))


def test_blocks_start_as_the_identity_and_learn_at_once() -> None:
    model = Decoder(DecoderConfig(), vocab_size=64, max_positions=8, seed=0)
    ids = torch.randint(64, (4, 8), generator=torch.Generator().manual_seed(0))
    embedded = model.model.embed_tokens(ids)
    logits = model(ids)
    assert torch.equal(logits, model.lm_head(model.model.norm(embedded)))
    cross_entropy(logits.flatten(0, 1), ids.roll(1).flatten()).backward()
    for layer in model.model.layers:
        assert layer.self_attn.o_proj.weight.grad.abs().max() > 0
        assert layer.mlp.down_proj.weight.grad.abs().max() > 0


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    one = Decoder(DecoderConfig(), 100, 8, seed=4)
    state = torch.random.get_rng_state()
    other = Decoder(DecoderConfig(), 100, 8, seed=4)
    third = Decoder(DecoderConfig(), 100, 8, seed=5)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.lm_head.weight, third.lm_head.weight)
    assert torch.equal(before, state)


def test_vocabulary_may_be_padded_but_not_cut() -> None:
    model = build(ModelConfig(vocab_size=128), vocab_size=100, max_positions=8, seed=0)
    assert model(torch.zeros(1, 8, dtype=torch.long)).shape == (1, 8, 128)
    with pytest.raises(ValueError, match=r"vocab_size \(64\).*100"):
        build(ModelConfig(vocab_size=64), vocab_size=100, max_positions=8, seed=0)
