"""A recording as a small folder of tables that `benchmarks.tables.Recording` reads."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import platform
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from optuna_mde_trainers.corpus.builtin.packages import package_folder, package_version
from optuna_mde_trainers.spec import LOGPROBS_FILE, RunResult, write_atomic

from benchmarks.recording.config import RECORDING_FILE
from benchmarks.recording.design import DIGITS, Job
from benchmarks.recording.readme import readme
from benchmarks.recording.runs import Recorder
from benchmarks.tables import (
    ABOUT_FILE,
    EXPERT,
    EXPERTS_FOLDER,
    METRICS_FILE,
    RATIOS_FILE,
    RUN_COLUMNS,
    RUNS_FILE,
    Recording,
    RecordingError,
)
from optuna_mde.mde.logprobs import FORMAT_VERSION, load_logprobs

DEFINITION_FILE = "definition.yaml"
README_FILE = "README.md"
VERSIONS_OF = ("torch", "lightning", "datasets", "tokenizers", "numpy", "optuna-mde")

# Half precision is off by up to .004 in the log-probability of a single token, and by 5e-5 in the
# mean over a set; more than this means that something else is wrong.
MAX_LOSS_ERROR = 1e-3


@dataclass(frozen=True)
class Row:
    """A finished run."""

    index: int
    job: Job
    result: RunResult
    folder: Path


def pack(recorder: Recorder, definition: Path, target: Path) -> Recording:
    """Writes everything that is finished, and reads it back.

    Args:
        recorder: the recording, complete or not.
        definition: the file that it was made from; copied with its `recording.yaml`.
        target: folder of the packed recording; its expert files are replaced.

    Raises:
        RecordingError: nothing is finished, or an expert's log-probabilities are not its losses.
    """
    rows = list(_finished(recorder))
    if not rows:
        raise RecordingError(f"{recorder.folder.path}: no run is finished yet; nothing to pack")
    target.mkdir(parents=True, exist_ok=True)
    for source, name in (
        (definition, DEFINITION_FILE),
        (definition.with_name(RECORDING_FILE), RECORDING_FILE),
    ):
        if source.resolve() != (target / name).resolve():
            shutil.copyfile(source, target / name)
    domains, sets = recorder.experiment.domains, _sets(recorder)
    index = [row.index for row in rows]
    _write_csv(
        target / RATIOS_FILE,
        domains,
        index,
        ([f"{rate:.{DIGITS}f}" if rate else "0" for rate in row.job.rates] for row in rows),
    )
    _write_csv(
        target / METRICS_FILE,
        sets,
        index,
        ([f"{row.result.losses[name]:.6f}" for name in sets] for row in rows),
    )
    _write_csv(
        target / RUNS_FILE,
        RUN_COLUMNS,
        index,
        (
            [row.job.kind, str(row.job.seed), f"{row.job.budget:g}", f"{row.result.seconds:.1f}"]
            for row in rows
        ),
    )
    experts = _write_experts(recorder, rows, target / EXPERTS_FOLDER)
    about = _about(recorder, experts)
    write_atomic(target / ABOUT_FILE, json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    packed = Recording.load(target)
    write_atomic(target / README_FILE, readme(packed))
    return packed


def _finished(recorder: Recorder) -> Iterable[Row]:
    for index, job in enumerate(recorder.jobs):
        result = recorder.finished(job)
        if result is not None:
            folder = recorder.spec(job).folder(recorder.folder.runs)
            yield Row(index, job, result, folder)


def _sets(recorder: Recorder) -> list[str]:
    """Validation sets: the domains' own in their order, then the unseen ones."""
    corpus = recorder.experiment.corpus
    unseen = [name for name, info in corpus.sets.items() if info.domain is None]
    return [*recorder.experiment.domains, *unseen]


def _write_csv(
    path: Path, header: Sequence[str], index: Sequence[int], rows: Iterable[Sequence[str]]
) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["index", *header])
        writer.writerows([str(i), *row] for i, row in zip(index, rows, strict=True))


def _write_experts(recorder: Recorder, rows: Sequence[Row], folder: Path) -> list[dict[str, Any]]:
    """Log-probabilities of every finished expert, and what is to be known of each."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    entries = []
    for row in rows:
        if row.job.kind != EXPERT:
            continue
        domain = recorder.experiment.domains[row.job.rates.index(1.0)]
        name = f"{domain}-{row.job.budget:g}.safetensors"
        _halve(row, folder / name)
        entries.append(
            {
                "domain": domain,
                "budget": row.job.budget,
                "file": name,
                "index": row.index,
                "tokens": row.result.tokens,
                "epochs": round(row.result.realised[domain].epochs, 3),
            }
        )
    return entries


def _halve(row: Row, path: Path) -> None:
    """A run's file of log-probabilities in half precision, with all its metadata.

    `save_logprobs` writes single precision, twice the size; `load_logprobs` reads both.
    """
    from safetensors.numpy import save

    arrays, metadata = load_logprobs(row.folder / LOGPROBS_FILE)
    halves = {name: values.astype(np.float16) for name, values in arrays.items()}
    for name, values in halves.items():
        error = abs(-values.mean(dtype=np.float64) - row.result.losses[name])
        if not error <= MAX_LOSS_ERROR:
            raise RecordingError(
                f"{row.folder}: the log-probabilities on {name} are {error:.4f} nats off its "
                f"loss; delete {row.folder} to train the run again"
            )
    path.write_bytes(save(halves, metadata={**metadata, "format": FORMAT_VERSION}))


def _about(recorder: Recorder, experts: list[dict[str, Any]]) -> dict[str, Any]:
    corpus, study = recorder.experiment.corpus, recorder.experiment.config
    return {
        "name": study.name,
        "domains": list(recorder.experiment.domains),
        "sets": _sets(recorder),
        "natural": dict(recorder.experiment.natural),
        "runs_designed": len(recorder.jobs),
        "max_steps": study.training.max_steps,
        "tokens": study.training.max_steps * study.training.global_batch_size * corpus.block_size,
        "corpus": {
            "fingerprint": corpus.fingerprint,
            "tokenizer": corpus.tokenizer_fingerprint,
            "source": corpus.source,
            "domains": {
                name: {"bytes": info.bytes, "tokens": info.tokens, "fingerprint": info.fingerprint}
                for name, info in corpus.domains.items()
            },
            "sets": {
                name: {"bytes": info.bytes, "tokens": info.tokens, "fingerprint": info.fingerprint}
                for name, info in corpus.sets.items()
            },
            "made_from": {**corpus.made_from, **corpus.held},
        },
        "text_packages": _text_packages(recorder),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in VERSIONS_OF},
        },
        "experts": experts,
    }


def _text_packages(recorder: Recorder) -> dict[str, dict[str, str]]:
    """Versions of the packages that the recording's own texts come from, text by text."""
    return {
        name: {
            package: package_version(package)
            for source in text.sources
            for package in source.packages
            if package_folder(package) is not None
        }
        for name, text in recorder.config.texts.items()
    }
