"""A run's folder, before its process starts and after it has ended."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna_mde_studies.runner.launchers.contract import RunFailedError
from optuna_mde_trainers.spec import SPEC_FILE, RunResult, RunSpec, explain
from pydantic import ValidationError


def prepared(spec: RunSpec, runs: Path) -> Path:
    """The run's folder, with the spec in it; absolute, because the command may go elsewhere."""
    folder = spec.folder(runs).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    spec.write(folder / SPEC_FILE)
    return folder


PLACES = ("{spec}", "{out}", "{runs}")
"""What stands in a command for the spec's file, the run's folder, and the folder of all runs."""


def filled(command: Sequence[str], folder: Path) -> list[str]:
    places = map(str, (folder / SPEC_FILE, folder, folder.parent))
    values = dict(zip(PLACES, places, strict=True))
    filled = []
    for part in command:
        for name, value in values.items():  # not format(): other braces are the command's
            part = part.replace(name, value)
        filled.append(part)
    return filled


def completed(path: Path, spec: RunSpec, seconds: float, *, write: bool = False) -> RunResult:
    """A result of which only the losses need be given; the rest is what the spec says of it."""
    if not path.is_file():
        raise RunFailedError(f"the command has ended well, but left no {path}")
    training = spec.training
    try:
        found: Any = json.loads(path.read_bytes())
        if not isinstance(found, Mapping):
            raise ValueError("it is no mapping")
        block = _block_size(spec)
        known = {
            "bits_per_byte": {},
            "set_fingerprints": {},
            "train_loss": 0.0,
            "tokens": training.max_steps * training.global_batch_size * block,
            "parameters": 0,
            "realised": {},
            "seconds": seconds,
        }
        result = RunResult.model_validate({**known, **found})
    except ValidationError as error:
        raise RunFailedError(f"{path}: {explain(error)}") from None
    except ValueError as error:
        raise RunFailedError(f"{path} holds no result ({error})") from None
    if write and set(found) != set(result.model_dump()):
        result.write(path)
    return result


def _block_size(spec: RunSpec) -> int:
    from optuna_mde_trainers.corpus.blocks import Corpus

    return Corpus.load(spec.launch.corpus_folder).block_size
