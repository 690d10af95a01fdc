from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from optuna_mde_trainers.corpus.blocks import Corpus
from optuna_mde_trainers.corpus.corpora import CorpusConfig, prepare
from optuna_mde_trainers.spec import RunSpec

from tests.trainers.written import Write

ALPHABETS = {"letters": "abcdefgh", "digits": "01234567", "signs": "+-*/=<>!"}
BLOCK_SIZE = 16


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Three domains of small vocabularies in bytes, `signs` the smallest, and one unseen set."""
    folder = tmp_path_factory.mktemp("tiny")

    def source(name: str, alphabet: str, documents: int) -> dict[str, Any]:
        draw = random.Random(name)
        words = ["".join(draw.choices(alphabet, k=3)) for _ in range(20)]
        lines = [
            json.dumps({"text": " ".join(draw.choices(words, k=8))}) for _ in range(documents)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
        return {"path": "json", "data_files": str(folder / f"{name}.jsonl")}

    sizes = {"letters": 200, "digits": 200, "signs": 40}
    domains = {name: source(name, ALPHABETS[name], size) for name, size in sizes.items()}
    config = CorpusConfig.model_validate(
        {
            "domains": domains,
            "validation": {"mixed": source("mixed", "abc012+-*", 30)},
            "tokenizer": {"type": "bytes"},
            "block_size": BLOCK_SIZE,
            "validation_tokens": 96,
            "held_out": 0.3,
        }
    )
    return prepare(config, folder / "corpus")


@pytest.fixture(scope="session")
def make_spec(tiny_corpus: Corpus) -> Callable[..., RunSpec]:
    """A run of a fifth of a second; keywords change its training part."""

    def make(
        launch: dict[str, Any] | None = None, score: dict[str, Any] | None = None, **training: Any
    ) -> RunSpec:
        return RunSpec.model_validate(
            {
                "training": {
                    "mixture": {"letters": 0.5, "digits": 0.3, "signs": 0.2},
                    "corpus": tiny_corpus.fingerprint,
                    "tokenizer": tiny_corpus.tokenizer_fingerprint,
                    "model": {
                        "hidden_size": 16,
                        "intermediate_size": 32,
                        "num_hidden_layers": 1,
                        "num_attention_heads": 2,
                    },
                    "optimizer": {"lr": 0.01},
                    "max_steps": 24,
                    "global_batch_size": 8,
                    **training,
                },
                "launch": {
                    "corpus_folder": str(tiny_corpus.folder),
                    "accelerator": "cpu",
                    "num_threads": 1,
                    **(launch or {}),
                },
                "score": score or {},
            }
        )

    return make


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes texts into a .jsonl file of the current folder; gives the source that reads it."""
    monkeypatch.setenv("OPTUNA_MDE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def write(name: str, texts: Iterable[str]) -> dict[str, str]:
        lines = (json.dumps({"text": text}) + "\n" for text in texts)
        Path(f"{name}.jsonl").write_text("".join(lines))
        return {"path": "json", "data_files": f"{name}.jsonl"}

    return write
