from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from optuna_mde_trainers.corpus.blocks import Corpus
from optuna_mde_trainers.spec import RunSpec

from tests.trainers.tasks import task_corpus

SpecOf = Callable[..., RunSpec]


@pytest.fixture(scope="session")
def corpus_with_tasks(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return task_corpus(tmp_path_factory.mktemp("tasks"))


@pytest.fixture
def spec_with_tasks(corpus_with_tasks: Corpus) -> SpecOf:
    """A run of six steps that keeps log-probabilities."""

    def spec(mixture: dict[str, float], *, logprobs: bool = True) -> RunSpec:
        return RunSpec.model_validate(
            {
                "training": {
                    "mixture": mixture,
                    "corpus": corpus_with_tasks.fingerprint,
                    "tokenizer": corpus_with_tasks.tokenizer_fingerprint,
                    "model": {
                        **{"hidden_size": 16, "intermediate_size": 32},
                        **{"num_attention_heads": 2},
                    },
                    "max_steps": 6,
                    "global_batch_size": 4,
                },
                "launch": {
                    "corpus_folder": str(corpus_with_tasks.folder),
                    "accelerator": "cpu",
                    "num_threads": 1,
                },
                "score": {"logprobs": logprobs},
            }
        )

    return spec


@pytest.fixture
def trained(spec_with_tasks: SpecOf, tmp_path: Path) -> Path:
    """Folder of the expert of `one`."""
    from optuna_mde_trainers.run import train

    spec = spec_with_tasks({"one": 1.0})
    train(spec, tmp_path / "runs")
    return spec.folder(tmp_path / "runs")
