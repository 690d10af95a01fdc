"""Scores into a run's folder: log-probabilities and choices in their files, figures in the result.

What the files hold of other sets stays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from optuna_mde_trainers.spec import CHOICES_FILE, LOGPROBS_FILE, RunError, RunResult

if TYPE_CHECKING:
    import numpy as np
    from optuna_mde_trainers.scoring.choices import ChoiceScores
    from optuna_mde_trainers.scoring.sets import SetScore


def record(
    result: RunResult,
    scores: Mapping[str, SetScore],
    folder: Path,
    *,
    logprobs: bool,
    tokenizer: str,
) -> RunResult:
    """Keep the scores of some sets.

    Args:
        result: Of the run, so far.
        scores: Validation set -> its score.
        folder: The run's.
        logprobs: Whether the log-probability of every token is kept.
        tokenizer: Fingerprint of the sets' tokenizer.

    Returns:
        The result with the sets; it is not written.
    """
    if logprobs:
        keep_logprobs(result, scores, folder, tokenizer=tokenizer)
    choices = {name: score.choices for name, score in scores.items() if score.choices is not None}
    if choices:
        keep_choices(choices, folder / CHOICES_FILE)
    losses = {name: score.loss for name, score in scores.items()}
    bits = {name: score.bits_per_byte for name, score in scores.items()}
    fingerprints = {name: score.fingerprint for name, score in scores.items()}
    return result.model_copy(
        update={
            "losses": {**result.losses, **losses},
            "bits_per_byte": {**result.bits_per_byte, **bits},
            "set_fingerprints": {**result.set_fingerprints, **fingerprints},
            "tasks": {**result.tasks, **{name: c.summary for name, c in choices.items()}},
            "logprobs": LOGPROBS_FILE if logprobs else result.logprobs,
        }
    )


def keep_logprobs(
    result: RunResult, scores: Mapping[str, SetScore], folder: Path, *, tokenizer: str
) -> None:
    """Write an expert's file, with the sets that it holds already."""
    from optuna_mde.mde.logprobs import save_logprobs

    arrays, fingerprints = kept_logprobs(result, folder)
    save_logprobs(
        folder / LOGPROBS_FILE,
        {**arrays, **{name: score.logprobs for name, score in scores.items()}},
        sets={**fingerprints, **{name: score.fingerprint for name, score in scores.items()}},
        tokenizer=tokenizer,
        tokens=result.tokens,
        run=folder.name,
        **expert_of(result),
    )


def kept_logprobs(result: RunResult, folder: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Log-probabilities that the folder has, and the fingerprints of their sets. A damaged file
    has none: its sets are scored again."""
    if result.logprobs is None:
        return {}, {}
    from optuna_mde.mde.logprobs import load_logprobs

    try:
        arrays, metadata = load_logprobs(folder / result.logprobs)
        fingerprints = json.loads(metadata["sets"])
    except (ValueError, LookupError, TypeError):
        return {}, {}
    return (arrays, fingerprints) if isinstance(fingerprints, dict) else ({}, {})


def keep_choices(choices: Mapping[str, ChoiceScores], path: Path) -> None:
    """Write the choices of prompt/target sets, `<set>/<column>`, beside those that are there."""
    from safetensors import SafetensorError
    from safetensors.numpy import load, save

    from optuna_mde.mde.logprobs import write_whole

    try:
        arrays = load(path.read_bytes()) if path.exists() else {}
    except (SafetensorError, ValueError) as error:
        raise RunError(
            f"{path} is damaged ({error}): put a copy of it back, or delete it"
        ) from None
    for name, scored in choices.items():
        arrays |= {f"{name}/{column}": array for column, array in scored.arrays.items()}
    write_whole(path, save(arrays))


def expert_of(result: RunResult) -> dict[str, str]:
    """The domain, where a run has seen one alone."""
    seen = [name for name, realised in result.realised.items() if realised.tokens]
    return {"domain": seen[0]} if len(seen) == 1 else {}
