"""Files of a run's folder: their names, how they are written, and what is said when they or what
they ask for cannot be used."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ValidationError

SPEC_FILE = "spec.json"
CHECKPOINT_FILE = "last.ckpt"  # while the run is unfinished
UNUSABLE_FILE = "last.unusable"  # a checkpoint that the run could not go on from
WEIGHTS_FILE = "model.safetensors"  # with the names of transformers
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"  # of transformers: end of text, longest sequence
EVALUATIONS_FOLDER = "evaluations"  # what lm-evaluation-harness says of the weights, by task
POINTS_FOLDER = "points"  # scores on the way, by step
SCORES_FOLDER = "scores"  # sets that were scored later, each with its own files
LOGPROBS_FILE = "logprobs.safetensors"  # if they were asked for: an expert's file
CHOICES_FILE = "choices.safetensors"  # of prompt/target sets: the log-probability of each choice
RESULT_FILE = "result.json"  # written last: a folder that has one is finished
LOCK_FILE = "run.lock"  # held by the process that works here


class SpecError(ValueError):
    """A spec or result that cannot be used; the message names the file, the field and the mend."""


class RunError(ValueError):
    """A run that cannot take place as it was asked for; the message says the mend."""


class DivergedError(RuntimeError):
    """The loss of a run is no number any more, or far above where it began. The same spec will
    always diverge.

    Args:
        step: The step, from 0; None if it is not known, or only the scores are not finite.
    """

    def __init__(self, message: str, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step


class CheckpointWarning(UserWarning):
    """A run begins afresh, though it had a checkpoint.

    Args:
        folder: The run's.
        fault: What is wrong with the checkpoint.
    """

    def __init__(self, folder: Path, fault: str) -> None:
        super().__init__(
            f"run {folder.name} begins afresh, as its checkpoint cannot be gone on with "
            f"({fault}): delete {folder / UNUSABLE_FILE}, or put it back as {CHECKPOINT_FILE} for "
            "the version that wrote it"
        )


def explain(error: ValidationError) -> str:
    """One line for the first fault that pydantic found: field, fault, and what it got."""
    fault = error.errors(include_url=False, include_context=False)[0]
    field = f"{'.'.join(map(str, fault['loc'])):.200}"
    message = fault["msg"].removeprefix("Value error, ")
    silent = fault["type"] == "json_invalid" or isinstance(fault["input"], (dict, list, BaseModel))
    got = "" if silent else f" (got {fault['input']!r:.80})"
    return f"{field}: {message}{got}" if field else f"{message}{got}"


def write_atomic(path: Path, text: str, mode: int | None = None) -> None:
    """Write a file that a reader, or a killed writer, never leaves half-done.

    Args:
        path: the file.
        text: what it is to hold.
        mode: who may read it, before anything stands in it. None: as the process's umask says.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("w", encoding="utf-8") as file:
        if mode is not None:
            beside.chmod(mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
