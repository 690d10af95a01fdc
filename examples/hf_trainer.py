"""A trainer that is not ours, on `transformers.Trainer`. A study starts it for each of its runs:

    launch:
      command: python examples/hf_trainer.py {spec} {out}

It reads the run's spec, trains a Llama of the spec's shape on the blocks of the corpus, and leaves
`result.json` in the run's folder, for an expert with `logprobs.safetensors` beside it.

    pip install 'optuna-mde[hf]' accelerate
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from optuna_mde_trainers.corpus.blocks import Corpus
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

from optuna_mde import save_logprobs

SHAPE = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "tie_word_embeddings",
)


def examples(corpus: Corpus, mixture: dict[str, float], number: int) -> list[dict[str, Tensor]]:
    """The sequences of a whole run: exact counts of every domain, blocks used again at need."""
    found = []
    for domain, rate in sorted(mixture.items()):
        blocks = corpus.train_blocks(domain)
        places = [i % len(blocks) for i in range(round(rate * number))]
        if places:
            found += [{"input_ids": row, "labels": row} for row in blocks[places]["input_ids"]]
    return found


def train(training: dict[str, Any], corpus: Corpus) -> LlamaForCausalLM:
    set_seed(training["seed"])
    shape = {name: training["model"][name] for name in SHAPE}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=corpus.vocab_size, **shape))
    optimizer, steps = training["optimizer"], training["max_steps"]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=training["global_batch_size"],  # of one device
            learning_rate=optimizer["lr"],
            weight_decay=optimizer["weight_decay"],
            warmup_steps=round(optimizer["warmup_ratio"] * steps),
            lr_scheduler_type="linear",
            max_grad_norm=training["gradient_clip_val"],
            seed=training["seed"],
            save_strategy="no",
            report_to="none",
            use_cpu=not torch.cuda.is_available(),
        )
        rows = examples(corpus, training["mixture"], steps * training["global_batch_size"])
        Trainer(model, arguments, train_dataset=rows).train()  # which shuffles by the seed
    return model.eval()


@torch.no_grad()
def score(model: LlamaForCausalLM, corpus: Corpus, name: str) -> Tensor:
    """Log-probability of every token of a validation set, `[T]`, in the order of its blocks."""
    rows: Tensor = corpus.validation_blocks(name)[:]["input_ids"].to(model.device)
    parts = [
        -cross_entropy(
            model(input_ids=batch[:, :-1]).logits.flatten(0, 1),
            batch[:, 1:].flatten(),
            reduction="none",
        )
        for batch in rows.split(64)
    ]
    return torch.cat(parts).cpu()


def main(spec_file: str, out: str) -> None:
    spec = json.loads(Path(spec_file).read_text(encoding="utf-8"))
    corpus = Corpus.load(spec["launch"]["corpus_folder"])
    model = train(spec["training"], corpus)
    logprobs = {name: score(model, corpus, name) for name in corpus.sets}
    result: dict[str, Any] = {
        "losses": {name: -values.mean().item() for name, values in logprobs.items()},
        "parameters": model.num_parameters(),
    }
    if spec["score"]["logprobs"]:  # an expert
        result["logprobs"] = "logprobs.safetensors"
        fingerprints = {name: info.fingerprint for name, info in corpus.sets.items()}
        save_logprobs(Path(out) / result["logprobs"], logprobs, sets=fingerprints)
    (Path(out) / "result.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
