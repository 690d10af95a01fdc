"""Whether an expert's log-probabilities are those of the set's tokens, and of its own losses."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna_mde_trainers.corpus.blocks import SetInfo

    from optuna_mde.mde.logprobs import LogprobFile

PAGE = "docs/formats.md, Expert files"
UNITS = {"base 10": math.log(10.0), "base 2": math.log(2.0)}
"""Logarithms that a trainer may have written in place of natural ones."""


def wrong_lengths(file: LogprobFile, sets: Mapping[str, SetInfo]) -> Iterator[str]:
    """Sets of a file that have another number of log-probabilities than the corpus has tokens."""
    for name, length in file.sets.items():
        if name in sets and length != sets[name].tokens:
            yield f"{name} has {length} log-probabilities, and the set {sets[name].tokens} tokens"


def fault(path: Path, losses: Mapping[str, float], sets: Mapping[str, SetInfo]) -> str:
    """What is wrong with the file that a trainer has left; empty if nothing is.

    Args:
        path: of the file.
        losses: set -> nats per token, that the same run reports.
        sets: those of the corpus.
    """
    from optuna_mde.mde.logprobs import LogprobFile, UnusableFileError

    try:
        file = LogprobFile.open(str(path))
        found = [*wrong_lengths(file, sets)]
        return "; ".join(found) or _contradiction(file, losses)
    except UnusableFileError as error:
        return str(error).removeprefix(f"{path}: ")


def _contradiction(file: LogprobFile, losses: Mapping[str, float]) -> str:
    """Both are of the same tokens: they differ by rounding and by means of unequal batches."""
    from optuna_mde.mde.loading import NATS, SHARE

    wrong, ratios = [], []
    with file.reading() as stream:
        for name, loss in losses.items():
            if name not in file.sets:
                continue
            found = -float(file.read(stream, name, 0, file.sets[name]).mean(dtype="float64"))
            if abs(found - loss) > SHARE * abs(loss) + NATS:
                wrong.append(f"{name} {found:.4f} by the file, {loss:.4f} reported")
                ratios.append(loss / max(found, 1e-9))
    if not wrong:
        return ""
    units = (u for u, r in UNITS.items() if all(abs(x / r - 1) <= SHARE for x in ratios))
    hint = next((f", as logarithms to {unit} would give" for unit in units), "")
    return (
        f"minus the mean of its log-probabilities is not the loss that the run reports "
        f"({'; '.join(wrong)}){hint}; they must be natural logarithms of the same tokens"
    )
