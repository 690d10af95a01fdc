"""lm-evaluation-harness on a run, with tasks from local files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from optuna_mde_trainers.scoring.harness import evaluate
from optuna_mde_trainers.spec import RunError
from transformers import AutoModelForCausalLM, AutoTokenizer

pytest.importorskip("lm_eval")

ROWS = [
    {"question": "one", "choices": ["red", "blue"], "answer": 0},
    {"question": "two", "choices": ["big", "small"], "answer": 1},
    {"question": "six", "choices": ["old", "new"], "answer": 1},
]


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    task = {
        "task": "colours",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test",
        "fewshot_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}:",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}],
        "metadata": {"version": 1},
    }
    (folder / "colours.yaml").write_text(yaml.safe_dump(task))
    return folder


def test_accuracy_of_a_local_task(trained: Path, tasks: Path) -> None:
    """Against the weights themselves, read by transformers."""
    before = {path.name for path in trained.iterdir()}
    (found,) = evaluate(trained, ["colours"], num_fewshot=0, include_path=tasks, device="cpu")
    model, tokenizer = (
        kind.from_pretrained(trained) for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    right = 0
    for row in ROWS:
        sums = []
        for choice in row["choices"]:  # type: ignore[attr-defined]
            context = tokenizer(f"{row['question']}:")["input_ids"]
            ids = tokenizer(f"{row['question']}: {choice}")["input_ids"]
            with torch.no_grad():
                log_softmax = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            places = range(len(context), len(ids))
            sums.append(sum(float(log_softmax[place - 1, ids[place]]) for place in places))
        right += max(range(2), key=lambda i, sums=sums: sums[i]) == row["answer"]
    assert found.results["colours"]["acc,none"] == pytest.approx(right / 3)

    assert {path.name for path in trained.iterdir()} - before == {"evaluations"}
    assert found.path == trained / "evaluations" / "colours-0shot.json"
    written = json.loads(found.path.read_text())
    assert written["results"]["colours"]["acc,none"] == pytest.approx(right / 3)
    assert written["n-shot"] == {"colours": 0}

    (shots,) = evaluate(trained, ["colours"], num_fewshot=1, include_path=tasks, device="cpu")
    assert shots.path.name == "colours-1shot.json"
    assert math.isfinite(shots.results["colours"]["acc,none"])


def test_unknown_tasks_and_folders_are_named(trained: Path, tasks: Path) -> None:
    with pytest.raises(RunError, match="no task called 'colors'"):
        list(evaluate(trained, ["colors"], include_path=tasks))
    (trained / "model.safetensors").unlink()
    with pytest.raises(RunError, match=r"has no model\.safetensors"):
        list(evaluate(trained, ["colours"], include_path=tasks))
