"""Downstream tasks of lm-evaluation-harness on the weights of a run.

A run's folder is a checkpoint of transformers, which is all that the harness asks for. It is an
extra (`optuna-mde[eval]`), and imported here alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from optuna_mde_trainers.spec import EVALUATIONS_FOLDER, WEIGHTS_FILE, RunError, write_atomic

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager


@dataclass(frozen=True)
class Evaluation:
    """What a run makes of one task or group of tasks."""

    task: str
    path: Path
    """The harness's own results, without samples."""
    results: dict[str, dict[str, Any]]
    """Task of the group -> metric, such as `acc,none`, with its `acc_stderr,none`."""


def evaluate(
    run: Path,
    tasks: Sequence[str],
    *,
    num_fewshot: int | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    include_path: Path | None = None,
    device: str | None = None,
) -> Iterator[Evaluation]:
    """Evaluate one task after the other, each result beside the run when it is there.

    Args:
        run: The run's folder.
        tasks: Names of the harness's tasks or groups.
        num_fewshot: Examples before each question. None: what the task says.
        limit: Only so many of each task's examples.
        batch_size: Sequences at once.
        include_path: Folder with further tasks, in the harness's YAML.
        device: Of torch. None: the GPU if there is one.

    Raises:
        RunError: If the harness is not installed, the folder has no weights or damaged ones, or no
            task is called so.
    """
    if not (run / WEIGHTS_FILE).is_file():
        raise RunError(f"{run} has no {WEIGHTS_FILE}: there is nothing to evaluate")
    if not (run / "config.json").is_file():
        raise RunError(
            f"{run} has weights of release 0.1.0, without config.json and tokenizer: delete its "
            "result.json to train the run again"
        )
    manager = _task_manager(tasks, include_path)
    model = _model(run, batch_size, device)
    for task in tasks:
        yield _evaluated(run, task, model, manager, num_fewshot=num_fewshot, limit=limit)


def _task_manager(tasks: Sequence[str], include_path: Path | None) -> TaskManager:
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise RunError(
            f"evaluation needs lm-evaluation-harness ({error}): pip install 'optuna-mde[eval]'"
        ) from error

    def unknown(manager: TaskManager) -> list[str]:
        return [task for task in tasks if not manager.match_tasks([task])]

    if include_path is not None:  # the harness's own are thousands of files to look through
        manager = TaskManager(include_path=str(include_path), include_defaults=False)
        if not unknown(manager):
            return manager
    manager = TaskManager(include_path=None if include_path is None else str(include_path))
    if names := unknown(manager):
        raise RunError(f"lm-evaluation-harness has no task called {', '.join(map(repr, names))}")
    return manager


def _model(run: Path, batch_size: int, device: str | None) -> LM:
    import torch
    from lm_eval.models.huggingface import HFLM

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return HFLM(
            pretrained=str(run), batch_size=batch_size, device=device, trust_remote_code=False
        )
    except Exception as error:  # of transformers, of safetensors, of tokenizers
        reason = " ".join(str(error).split())[:200]
        raise RunError(f"{run}: transformers cannot read this checkpoint ({reason})") from error


def _evaluated(
    run: Path,
    task: str,
    model: LM,
    manager: TaskManager,
    *,
    num_fewshot: int | None,
    **options: Any,
) -> Evaluation:
    from lm_eval import simple_evaluate

    found = simple_evaluate(
        model,
        tasks=[task],
        num_fewshot=num_fewshot,
        task_manager=manager,
        log_samples=False,
        **options,
    )
    assert found is not None
    shots = "" if num_fewshot is None else f"-{num_fewshot}shot"
    path = run / EVALUATIONS_FOLDER / f"{quote(task, safe='')}{shots}.json"
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, json.dumps(found, indent=2, default=str, ensure_ascii=False) + "\n")
    return Evaluation(task, path, found["results"])
