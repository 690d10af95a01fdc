"""End-task sets in the columns of published ones, and a small corpus that holds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from optuna_mde_trainers.corpus.blocks import Corpus
from optuna_mde_trainers.corpus.corpora import CorpusConfig, prepare

from tests.trainers.written import prose

Rows = list[dict[str, Any]]

ARC: Rows = [
    {
        "id": "A1",
        "question": "Which of these is hot?",
        "choices": {"text": ["ice", "the sun", "snow"], "label": ["A", "B", "C"]},
        "answerKey": "B",
    },
    {
        "id": "A2",  # some are numbered
        "question": "What do cows eat?",
        "choices": {"text": ["grass", "stones"], "label": ["1", "2"]},
        "answerKey": "1",
    },
]
OPENBOOKQA: Rows = [
    {
        "id": "8-1",
        "question_stem": "A rose needs",
        "choices": {"text": ["oil", "light", "sand", "smoke"], "label": ["A", "B", "C", "D"]},
        "answerKey": "B",
    }
]
MULTIRC: Rows = [
    {"paragraph": "Ann fed a cat.", "question": question, "answer": answer, "label": label}
    for question, answer, label in (
        ("Who fed it?", "Ann", 1),
        ("Who fed it?", "Bob", 0),
        ("Who fed it?", "a girl", 1),
        ("What ate?", "a dog", 0),
        ("What ate?", "a cat", 1),
    )
]


def written(path: Path, rows: Rows, **fields: Any) -> dict[str, Any]:
    """Writes rows as a JSON lines file; gives the source that reads it."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"path": "json", "data_files": str(path), **fields}


def task_corpus(folder: Path, *, tokenizer: str = "bpe") -> Corpus:
    """Two domains of prose, and the tasks `arc` and `multirc`; blocks of 64 tokens."""
    domains = {
        name: written(folder / f"{name}.jsonl", [{"text": text} for text in prose(name, 120)])
        for name in ("one", "two")
    }
    return prepare(
        CorpusConfig.model_validate(
            {
                "domains": domains,
                "tasks": {
                    "arc": written(folder / "arc.jsonl", ARC, template="arc_easy"),
                    "multirc": written(folder / "multirc.jsonl", MULTIRC, template="multirc"),
                },
                "tokenizer": {"type": tokenizer}
                | ({"vocab_size": 300} if tokenizer == "bpe" else {}),
                "block_size": 64,
                "validation_tokens": 256,
            }
        ),
        folder / "corpus",
    )
