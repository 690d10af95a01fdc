from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from optuna_mde_trainers.corpus.blocks import Corpus
from optuna_mde_trainers.scoring import logprobs
from optuna_mde_trainers.scoring.logprobs import token_logprobs
from optuna_mde_trainers.scoring.sets import score_sets
from optuna_mde_trainers.spec import DecoderConfig
from optuna_mde_trainers.training.decoder import Decoder

CPU = torch.device("cpu")


class LogitsAlone(torch.nn.Module):
    """A model of which nothing but the logits is known."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.net(ids)


@pytest.fixture
def model(tiny_corpus: Corpus) -> Decoder:
    config = DecoderConfig(hidden_size=16, intermediate_size=16, num_attention_heads=2)
    return Decoder(config, tiny_corpus.vocab_size, tiny_corpus.block_size, seed=0)


def test_every_token_in_its_place(
    tiny_corpus: Corpus, model: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a softmax of one token at a time, in batches that do not divide the set."""
    monkeypatch.setattr(logprobs, "TOKENS_AT_ONCE", 4 * 16 + 5)
    blocks = tiny_corpus.validation_blocks("mixed")
    scored = token_logprobs(model, blocks, device=CPU)
    expected = []
    for block in blocks[:]["input_ids"]:
        with torch.no_grad():
            probabilities = model(block[None, :-1])[0].softmax(dim=-1)
        expected += [
            math.log(float(p[target])) for p, target in zip(probabilities, block[1:], strict=True)
        ]
    assert scored.dtype == np.float32
    assert scored.shape == (tiny_corpus.sets["mixed"].tokens,)
    np.testing.assert_allclose(scored, expected, atol=1e-5)


@pytest.mark.parametrize("at_once", [1, 257, 5_000, 2**24])
def test_logits_in_parts_are_the_logits(
    tiny_corpus: Corpus, model: Decoder, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """However few logits are held at once, and if they can be had in one piece alone."""
    blocks = tiny_corpus.validation_blocks("digits")
    whole = token_logprobs(LogitsAlone(model), blocks, device=CPU)
    monkeypatch.setattr(logprobs, "LOGITS_AT_ONCE", at_once)
    np.testing.assert_allclose(
        token_logprobs(LogitsAlone(model), blocks, device=CPU), whole, atol=2e-6
    )
    np.testing.assert_allclose(token_logprobs(model, blocks, device=CPU), whole, atol=2e-6)


def test_losses_are_means_of_the_log_probabilities(tiny_corpus: Corpus, model: Decoder) -> None:
    scores = score_sets(model, tiny_corpus, ["digits", "mixed"], device=CPU)
    assert list(scores) == ["digits", "mixed"]
    for name, score in scores.items():
        info = tiny_corpus.sets[name]
        assert score.loss == -score.logprobs.astype(np.float64).mean()
        nats = -score.logprobs.astype(np.float64).sum()
        assert score.bits_per_byte == pytest.approx(nats / math.log(2) / info.bytes)
        assert score.fingerprint == info.fingerprint


def test_scoring_leaves_the_model_as_it_was(tiny_corpus: Corpus, model: Decoder) -> None:
    model.train()
    token_logprobs(model, tiny_corpus.validation_blocks("mixed"), device=CPU)
    assert model.training
    model.eval()
    token_logprobs(model, tiny_corpus.validation_blocks("mixed"), device=CPU)
    assert not model.training
