"""A trainer that is not ours, in plain PyTorch. A study starts it for each of its runs:

    launch:
      command: python examples/pytorch_trainer.py {spec} {out}

It reads the run's spec, trains a small GRU on the blocks of the corpus, and leaves `result.json`
in the run's folder, for an expert with `logprobs.safetensors` beside it. The weights are kept for
questions that come later: `score_trainer.py`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from optuna_mde_trainers.corpus.blocks import Corpus
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from optuna_mde import save_logprobs


class Model(nn.Module):
    """A recurrent model: token ids `[n, L]` to logits `[n, L, V]`."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.recurrent = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        hidden, _ = self.recurrent(self.embedding(ids))
        logits: Tensor = self.head(hidden)
        return logits


def sequences(corpus: Corpus, mixture: dict[str, float], number: int, seed: int) -> Tensor:
    """The sequences of a whole run, `[number, L + 1]`: exact counts of every domain, shuffled.

    A domain's blocks come in the same order for every mixture, and again when they are used up.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for domain, rate in sorted(mixture.items()):
        blocks = corpus.train_blocks(domain)
        order = torch.randperm(len(blocks), generator=generator)
        places = order[torch.arange(round(rate * number)) % len(blocks)]
        if len(places):
            parts.append(blocks[places.tolist()]["input_ids"])
    rows = torch.cat(parts)
    return rows[torch.randperm(len(rows), generator=generator)]


def train(training: dict[str, Any], corpus: Corpus) -> Model:
    torch.manual_seed(training["seed"])
    model = Model(corpus.vocab_size, training["model"]["hidden_size"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=training["optimizer"]["lr"])
    size = training["global_batch_size"]
    rows = sequences(corpus, training["mixture"], training["max_steps"] * size, training["seed"])
    for batch in rows.split(size):
        optimizer.zero_grad()
        loss = cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
    return model


@torch.no_grad()
def score(model: Model, corpus: Corpus, name: str) -> Tensor:
    """Log-probability of every token of a validation set, `[T]`, in the order of its blocks."""
    rows: Tensor = corpus.validation_blocks(name)[:]["input_ids"]
    parts = [
        -cross_entropy(
            model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten(), reduction="none"
        )
        for batch in rows.split(64)
    ]
    return torch.cat(parts)


def main(spec_file: str, out: str) -> None:
    spec = json.loads(Path(spec_file).read_text(encoding="utf-8"))
    corpus = Corpus.load(spec["launch"]["corpus_folder"])
    model = train(spec["training"], corpus)
    logprobs = {name: score(model, corpus, name) for name in corpus.sets}
    result: dict[str, Any] = {
        "losses": {name: -values.mean().item() for name, values in logprobs.items()},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    if spec["score"]["logprobs"]:  # an expert
        result["logprobs"] = "logprobs.safetensors"
        fingerprints = {name: info.fingerprint for name, info in corpus.sets.items()}
        save_logprobs(Path(out) / result["logprobs"], logprobs, sets=fingerprints)
    torch.save(model.state_dict(), Path(out) / "weights.pt")
    (Path(out) / "result.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
