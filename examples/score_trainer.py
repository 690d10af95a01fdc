"""Scores the weights that `pytorch_trainer.py` has kept, on sets that its study has gained since:

    optuna-mde score my.yaml --set proverbs=data/proverbs.jsonl   # prepares the set
    python examples/score_trainer.py runs/my
    optuna-mde score my.yaml                                      # takes the losses over

Losses go into each run's `result.json`, log-probabilities of the experts into their files.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from optuna_mde_trainers.corpus.blocks import Corpus
from pytorch_trainer import Model, score

from optuna_mde import save_logprobs
from optuna_mde.mde.logprobs import load_logprobs


def score_run(run: Path, corpus: Corpus) -> None:
    """Adds what a finished run lacks; `result.json` comes last, for it says that all is there."""
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    missing = [name for name in corpus.sets if name not in result["losses"]]
    if not missing:
        return
    spec = json.loads((run / "spec.json").read_text(encoding="utf-8"))
    model = Model(corpus.vocab_size, spec["training"]["model"]["hidden_size"])
    model.load_state_dict(torch.load(run / "weights.pt", weights_only=True))
    new = {name: score(model, corpus, name) for name in missing}
    if result["logprobs"]:  # an expert; null for all others
        known, metadata = load_logprobs(run / result["logprobs"])
        metadata["sets"] = {name: info.fingerprint for name, info in corpus.sets.items()}
        save_logprobs(run / result["logprobs"], {**known, **new}, **metadata)
    result["losses"] |= {name: -values.mean().item() for name, values in new.items()}
    (run / "result.json").write_text(json.dumps(result), encoding="utf-8")
    print(run, {name: result["losses"][name] for name in missing})


def main(study: str) -> None:
    corpus = Corpus.load(Path(study) / "corpus")
    for weights in sorted(Path(study).glob("runs/*/weights.pt")):
        score_run(weights.parent, corpus)


if __name__ == "__main__":
    main(*sys.argv[1:])
