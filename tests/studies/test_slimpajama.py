"""The paper's study: one dataset of mixed records, 7 + 11 validation sets."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
import zstandard
from optuna_mde_studies.definition import reading
from optuna_mde_studies.runner.plan import plan

from tests.trainers.tasks import ARC, MULTIRC, OPENBOOKQA
from tests.trainers.written import prose

NAMES = {
    "commoncrawl": "RedPajamaCommonCrawl",
    "c4": "RedPajamaC4",
    "github": "RedPajamaGithub",
    "books": "RedPajamaBook",
    "arxiv": "RedPajamaArXiv",
    "wikipedia": "RedPajamaWikipedia",
    "stackexchange": "RedPajamaStackExchange",
}
ROWS = {"arc_easy": ARC, "arc_challenge": ARC, "openbookqa": OPENBOOKQA, "multirc": MULTIRC}
TINY = {
    "corpus.tokenizer": "{type: bpe, vocab_size: 400}",
    "corpus.block_size": "64",
    "corpus.max_train_bytes": "60_000",
    "corpus.validation_tokens": "512",
    "model": "{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, "
    "num_attention_heads: 2}",
    "training": "{max_steps: 12, global_batch_size: 4}",
    "launch": "{accelerator: cpu, workers: 1}",
    "search.n_trials": "11",
    "confirm.seeds": "0",
}


def test_it_is_the_papers_study():
    config = reading.read("slimpajama").config
    assert config.domains == tuple(NAMES)
    filters = {n: list((s.filter or {}).values()) for n, s in config.corpus.domains.items()}
    assert filters == {name: [value] for name, value in NAMES.items()}
    assert len(config.corpus.set_names) == 7 + 11
    found = plan(
        reading.read("slimpajama", ["corpus.tokenizer={type: bpe, vocab_size: 50257}"]).config
    )
    assert found.size.parameters == pytest.approx(280e6, rel=0.01)
    assert found.run_tokens == 10_000 * 256 * 2048


def written(folder: Path) -> dict[str, str]:
    """Records as SlimPajama has them, and end tasks; gives the overrides that read them."""
    overrides = {}
    for split, number in (("train", 60), ("validation", 12)):
        texts = {name: prose(f"{name} {split}", number, words=120) for name in NAMES}
        records = [  # domains take turns, as in SlimPajama's shards
            {"text": texts[name][i], "meta": {"redpajama_set_name": value}}
            for i in range(number)
            for name, value in NAMES.items()
        ]
        data = "".join(json.dumps(record) + "\n" for record in records).encode()
        (folder / f"{split}.jsonl.zst").write_bytes(zstandard.compress(data))
    for name in NAMES:
        overrides[f"corpus.domains.{name}.path"] = "json"
        overrides[f"corpus.domains.{name}.data_files"] = (
            "{train: train.jsonl.zst, validation: validation.jsonl.zst}"
        )
    for name in reading.read("slimpajama").config.corpus.tasks:
        template, _, split = name.rpartition("_")
        path = folder / f"{template}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS[template]))
        overrides[f"corpus.tasks.{name}.path"] = "json"
        overrides[f"corpus.tasks.{name}.data_files"] = f"{{{split}: {path.name}}}"
    return overrides


@pytest.mark.slow
def test_it_runs_in_small_on_local_files_of_the_same_format(tmp_path, command):
    settings = {**written(tmp_path), **TINY}
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    checked = command("validate", "slimpajama", *options, folder=tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert "7 domains, 11 trials" in checked.stdout
    done = command("run", "slimpajama", *options, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    storage = f"sqlite:///{tmp_path}/runs/slimpajama/study.db"
    study = optuna.load_study(study_name="slimpajama", storage=storage)
    names = set(reading.read("slimpajama").config.corpus.set_names)
    for trial in study.trials:
        assert set(trial.user_attrs["losses"]) == names
        assert len(trial.user_attrs["accuracy"]) == 11
    proposed = [trial.params for trial in study.trials[8:]]
    assert all(rates["mix/stackexchange"] <= 0.083 + 1e-9 for rates in proposed)
    assert "accuracy, %" in done.stdout
    page = (tmp_path / "runs/slimpajama/report.html").read_text("utf-8")
    assert "<h2>End tasks</h2>" in page
