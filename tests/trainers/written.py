"""Corpora of texts that a test writes itself."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

from optuna_mde_trainers.corpus.corpora import CorpusConfig

Write = Callable[[str, Iterable[str]], dict[str, str]]
"""Writes texts under a name; gives the source that reads them: the fixture `write`."""


def prose(name: str, number: int, words: int = 40) -> list[str]:
    """Documents of a domain's own vocabulary; other names give other documents."""
    generator = random.Random(name)
    vocabulary = [name + "".join(generator.choices("abcdefgh", k=3)) for _ in range(50)]
    return [" ".join(generator.choices(vocabulary, k=words)) for _ in range(number)]


def config(domains: dict[str, Any], **fields: Any) -> CorpusConfig:
    defaults: dict[str, Any] = {
        "tokenizer": {"type": "bytes"},
        "block_size": 16,
        "validation_tokens": 512,
    }
    return CorpusConfig.model_validate({"domains": domains, **defaults, **fields})
