"""Prompt/target sets, against transformers and one sequence at a time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from optuna_mde_trainers.corpus.blocks import Corpus
from optuna_mde_trainers.run import train
from optuna_mde_trainers.scoring import logprobs
from optuna_mde_trainers.scoring.sets import score_sets
from optuna_mde_trainers.spec import DecoderConfig
from optuna_mde_trainers.training.decoder import Decoder
from safetensors.numpy import load_file

from optuna_mde.mde.logprobs import load_logprobs
from tests.trainers.scoring.conftest import SpecOf
from tests.trainers.tasks import ARC

CPU = torch.device("cpu")


def _model(corpus: Corpus) -> Decoder:
    config = DecoderConfig(hidden_size=16, intermediate_size=16, num_attention_heads=2)
    model = Decoder(config, corpus.vocab_size, corpus.block_size, seed=0)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=draw))
    return model


def test_target_tokens_under_transformers(
    corpus_with_tasks: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every choice alone, without padding, from texts: nothing here is of our own code."""
    from transformers import LlamaConfig, LlamaForCausalLM

    corpus = corpus_with_tasks
    ours = _model(corpus)
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=corpus.vocab_size,
            **{"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2},
            **{"num_hidden_layers": 2, "tie_word_embeddings": True},
        )
    )
    theirs.load_state_dict(ours.state_dict())
    tokenizer = corpus.tokenizer()
    end_of_text = tokenizer.token_to_id("<|endoftext|>")
    rights, sums, lengths = [], [], []
    for row in ARC:
        prompt = tokenizer.encode(f"Question: {row['question']}\nAnswer:").ids
        for label, text in zip(row["choices"]["label"], row["choices"]["text"], strict=True):
            target = tokenizer.encode(f" {text}").ids
            ids = torch.tensor([[end_of_text, *prompt, *target]])
            with torch.no_grad():
                log_softmax = theirs(ids).logits[0].log_softmax(-1)
            first = 1 + len(prompt)
            values = [float(log_softmax[first + i - 1, token]) for i, token in enumerate(target)]
            sums.append(sum(values))
            lengths.append(len(f" {text}"))
            if label == row["answerKey"]:
                rights.append(values)

    for at_once in (1, 2**24):  # one row a batch, and all of them
        monkeypatch.setattr(logprobs, "LOGITS_AT_ONCE", at_once)
        monkeypatch.setattr(logprobs, "TOKENS_AT_ONCE", at_once)
        score = score_sets(ours, corpus, ["arc"], device=CPU)["arc"]
        assert score.choices is not None
        np.testing.assert_allclose(score.logprobs, np.concatenate(rights), atol=1e-5)
        assert score.loss == pytest.approx(-np.mean(np.concatenate(rights)), abs=1e-5)
        np.testing.assert_allclose(score.choices.logprob, sums, rtol=1e-5)
        by_example = [-np.mean(values) for values in rights]
        np.testing.assert_allclose(score.choices.losses, by_example, rtol=1e-5)
    parts = [slice(0, 3), slice(3, 5)]
    answers = [1, 0]
    best = [int(np.argmax(sums[part])) for part in parts]
    normed = [int(np.argmax((np.array(sums) / lengths)[part])) for part in parts]
    summary = score.choices.summary
    assert summary.examples == 2
    assert summary.example_loss == pytest.approx(np.mean(by_example), rel=1e-5)
    assert summary.accuracy == np.mean([b == a for b, a in zip(best, answers, strict=True)])
    assert summary.accuracy_norm == np.mean([b == a for b, a in zip(normed, answers, strict=True)])


def test_an_expert_leaves_the_tokens_of_the_targets(
    corpus_with_tasks: Corpus, spec_with_tasks: SpecOf, tmp_path: Path
) -> None:
    corpus = corpus_with_tasks
    for domain in corpus.domains:
        spec = spec_with_tasks({domain: 1.0})
        result = train(spec, tmp_path)
        folder = spec.folder(tmp_path)
        arrays, metadata = load_logprobs(folder / "logprobs.safetensors")
        assert set(arrays) == set(corpus.sets)
        for name, values in arrays.items():
            assert len(values) == corpus.sets[name].tokens
            assert -values.mean(dtype=np.float64) == pytest.approx(result.losses[name], abs=1e-6)
        assert json.loads(metadata["sets"]) == result.set_fingerprints
        assert set(result.tasks) == {"arc", "multirc"}
        assert result.tasks["multirc"].examples == 3
        assert result.tasks["multirc"].accuracy is not None
        choices = load_file(folder / "choices.safetensors")
        right = choices["multirc/is_right"]
        assert -choices["multirc/logprob"][right].sum() == pytest.approx(
            result.losses["multirc"] * corpus.sets["multirc"].tokens, rel=1e-5
        )


def test_what_is_scored_later_leaves_the_choices_that_are_there(
    spec_with_tasks: SpecOf, tmp_path: Path
) -> None:
    spec = spec_with_tasks({"one": 0.5, "two": 0.5})
    one = spec.model_copy(update={"score": spec.score.model_copy(update={"sets": ["arc"]})})
    train(one, tmp_path)
    result = train(spec, tmp_path)
    assert set(result.tasks) == {"arc", "multirc"}
    names = {
        name.split("/")[0] for name in load_file(spec.folder(tmp_path) / "choices.safetensors")
    }
    assert names == {"arc", "multirc"}
