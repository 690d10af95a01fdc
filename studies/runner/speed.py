"""How fast this machine trains a study's model: a few steps on text that is made up."""

from __future__ import annotations

import json
import random
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from optuna_mde_studies.runner.experiment import Experiment
from optuna_mde_studies.runner.folder import StudyFolder
from optuna_mde_studies.runner.plan import vocabulary
from optuna_mde_trainers.spec import ScoreSpec

if TYPE_CHECKING:
    from optuna_mde_studies.definition.config import StudyConfig

STEPS = (2, 8)
"""Steps of two runs: their difference has no start-up, and no compiling, in it."""


OURS: dict[str, Any] = {
    "logger": {},
    "callbacks": [],
    "launcher": "in_process",
    "command": None,
    "time_limit": None,
}
"""Settings of a launch that measures: our trainer, in this process, without company."""


def measure(config: StudyConfig) -> float:
    """Tokens a second that one run trains here, alone on the machine.

    Raises:
        RunError: if this machine cannot train it.
    """
    from optuna_mde_trainers.corpus import corpora

    with TemporaryDirectory() as place:
        small = _on_made_up_text(config, Path(place))
        corpus = corpora.prepare(small.corpus, Path(place) / "corpus")
        experiment = Experiment(small, StudyFolder(Path(place)), corpus)
        mixture = {name: 1 / len(corpus.domains) for name in corpus.domains}
        results = []
        for steps in STEPS:
            training = experiment.training(mixture, seed=0, max_steps=steps)
            spec = experiment.launched(training, ScoreSpec(sets=["one"]))
            results.append(experiment.train(spec, lambda step, total: None))
        first, second = results
        seconds = second.seconds - first.seconds
        if seconds <= 0:  # steps too short for the clock
            return second.tokens / second.seconds
        return (second.tokens - first.tokens) / seconds


def _on_made_up_text(config: StudyConfig, place: Path) -> StudyConfig:
    """The study with two domains of random letters, one token a byte, and its own vocabulary."""
    corpus = config.corpus
    rng = random.Random(0)
    domains = {}
    for name in ("one", "two"):
        path = place / f"{name}.jsonl"
        size = 2 * corpus.block_size
        rows = ("".join(rng.choices("abcdefgh ", k=size)) for _ in range(40))
        path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
        domains[name] = {"path": "json", "data_files": str(path)}
    changed = {
        "domains": domains,
        "tokenizer": {"type": "bytes"},
        "block_size": corpus.block_size,
        "validation_tokens": corpus.block_size,
    }
    model = config.model
    if model.pretrained_config is None:
        tokens = max(vocabulary(config), model.vocab_size or 0)
        model = model.model_copy(update={"vocab_size": tokens})
    return config.model_copy(
        update={
            "corpus": type(corpus).model_validate(changed),
            "model": model,
            "launch": config.launch.model_copy(update=OURS),
        }
    )
