"""The tiny study's experiment, on a corpus that is made up."""

from __future__ import annotations

from pathlib import Path

from optuna_mde_studies.definition import reading
from optuna_mde_studies.runner.experiment import Experiment
from optuna_mde_studies.runner.folder import StudyFolder
from optuna_mde_trainers.corpus.blocks import Corpus, DomainInfo

TOKENS = {"code": 100_000, "prose": 100_000, "numbers": 1000}
PER_STEP = 4 * 32  # tokens: sequences of the tiny study's definition x its block size


def experiment(*overrides: str) -> Experiment:
    """The tiny study's, on a corpus with one scarce domain."""
    held = {name: DomainInfo(name, n, n, n // 32, 1 / 3, name) for name, n in TOKENS.items()}
    corpus = Corpus(
        folder=Path("corpus"),
        fingerprint="text",
        tokenizer_fingerprint="bytes",
        vocab_size=257,
        block_size=32,
        domains=held,
        sets={},
        dropped={},
        source="",
        made_from={},
    )
    config = reading.read("tiny.yaml", overrides).config
    return Experiment(config, StudyFolder(Path("runs/tiny")), corpus)
