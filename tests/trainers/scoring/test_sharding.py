"""Sets shared by processes, which torch.distributed connects."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import pytest
from optuna_mde_trainers.corpus.blocks import Corpus
from optuna_mde_trainers.scoring.sharding import Shard

PROCESS = """
import json, sys
import numpy as np
import torch, torch.distributed
from optuna_mde_trainers.corpus.blocks import Corpus
from optuna_mde_trainers.scoring.sets import score_sets
from optuna_mde_trainers.scoring.sharding import Shard
from optuna_mde_trainers.spec import DecoderConfig
from optuna_mde_trainers.training.decoder import Decoder

folder, store, number, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(1)
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{store}", rank=number, world_size=size
)
corpus = Corpus.load(folder)
config = DecoderConfig(hidden_size=16, intermediate_size=16, num_attention_heads=2)
model = Decoder(config, corpus.vocab_size, corpus.block_size, seed=0)
scores = score_sets(
    model, corpus, list(corpus.sets), device=torch.device("cpu"), shard=Shard(number, size)
)
print(json.dumps({
    name: [score.loss, score.logprobs.tolist(), score.choices and score.choices.logprob.tolist()]
    for name, score in scores.items()
}))
"""


def test_rows_are_shared_without_gaps() -> None:
    for total, size in itertools.product((0, 1, 5, 12), (1, 2, 3, 7)):
        parts = [Shard(number, size).rows(total) for number in range(size)]
        assert [row for part in parts for row in part] == list(range(total))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_three_processes_score_what_one_does(
    corpus_with_tasks: Corpus, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def scored(size: int) -> list[dict[str, list[object]]]:
        store = tmp_path_factory.mktemp("store") / "store"
        started = [
            subprocess.Popen(
                [sys.executable, "-c", PROCESS, *map(str, arguments)], stdout=subprocess.PIPE
            )
            for arguments in (
                (corpus_with_tasks.folder, store, number, size) for number in range(size)
            )
        ]
        return [json.loads(process.communicate(timeout=120)[0]) for process in started]

    (alone,) = scored(1)
    first, *others = scored(3)
    assert others == [{}, {}]
    assert list(first) == list(alone) == list(corpus_with_tasks.sets)
    for name, (loss, logprobs, choices) in alone.items():
        assert first[name][0] == pytest.approx(loss, abs=1e-6)
        assert first[name][1] == pytest.approx(logprobs, abs=1e-5)
        assert first[name][2] == pytest.approx(choices, abs=1e-4)
