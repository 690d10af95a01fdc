"""The run that a mixture is for: how often it would read each domain, and what that forbids.

A run of D tokens with rate λ_j reads domain j, of U_j tokens, λ_j D / U_j times.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna_mde_studies.definition.config import StudyConfig, TargetConfig
    from optuna_mde_trainers.corpus.blocks import Corpus

TOKENS_ATTR, SOURCE_ATTR = "target_tokens", "source_tokens"
"""Study attributes: tokens of the target run; domain -> tokens of its whole source."""


def source_tokens(corpus: Corpus) -> dict[str, int]:
    """Domain -> tokens U_j of its whole source, not of what was kept for the proxies."""
    return {
        name: info.tokens if info.source_tokens is None else info.source_tokens
        for name, info in corpus.domains.items()
    }


def epochs(
    mixture: Mapping[str, float], tokens: float, sources: Mapping[str, int]
) -> dict[str, float]:
    """Domain -> times that a run of so many tokens reads it."""
    return {name: mixture.get(name, 0.0) * tokens / held for name, held in sources.items() if held}


def caps(target: TargetConfig | None, sources: Mapping[str, int]) -> dict[str, float]:
    """Domain -> highest rate at which the target run reads it `max_epochs` times; where that is
    no limit, the domain is left out."""
    if target is None or target.max_epochs is None:
        return {}
    limits = target.max_epochs
    each = limits if isinstance(limits, dict) else dict.fromkeys(sources, limits)
    found = {
        name: each[name] * held / target.tokens for name, held in sources.items() if name in each
    }
    return {name: rate for name, rate in found.items() if rate < 1.0}


def share(config: StudyConfig) -> float | None:
    """Share of every source that makes the study's runs repeat it as often as the target run: a
    full run's tokens over the target's, whatever the mixture. None where that is not asked."""
    target, training = config.target, config.training
    if target is None or target.repetition is None:
        return None
    tokens = training.max_steps * training.global_batch_size * config.corpus.block_size
    return tokens / target.tokens


def bounds(
    given: Mapping[str, tuple[float, float]], capped: Mapping[str, float]
) -> dict[str, tuple[float, float]]:
    """The definition's bounds with the caps; of two upper ends the lower holds."""
    found = {name: (low, min(high, capped.get(name, 1.0))) for name, (low, high) in given.items()}
    return {**{name: (0.0, cap) for name, cap in capped.items()}, **found}
