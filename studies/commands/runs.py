"""Commands on single runs: train one, score finished ones later, evaluate them downstream."""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from optuna_mde_studies.commands.shared import fail

if TYPE_CHECKING:
    from optuna_mde_trainers.rescoring import Source

RunsArgument = Annotated[
    list[Path], typer.Argument(metavar="RUN…", help="Folders of finished runs.")
]

# Suffixes of files that are a set by themselves.
FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
FORMATS |= {".txt": "text", ".md": "text", ".arrow": "arrow"}

TERMINATED = 143  # 128 + SIGTERM, as shells have it


def train(
    spec: Annotated[Path, typer.Argument(metavar="SPEC.json", help="A run's spec.")],
    runs: Annotated[
        Path, typer.Option(help="Where the run's folder goes, named by the spec's hash.")
    ] = Path("runs"),
) -> None:
    """Performs one run from its spec; a finished one is not trained again."""
    from optuna_mde_studies.terminal import progress
    from optuna_mde_trainers.run import train as perform
    from optuna_mde_trainers.spec import RunSpec

    try:
        asked = RunSpec.read(spec)
    except OSError as error:
        fail(f"{spec}: cannot be read ({(error.strerror or str(error)).lower()})")
    try:
        with progress.Progress(spec.name, progress.console()) as display:
            result = perform(asked, runs, on_step=display.own_steps(asked.training.mixture))
    except SystemExit:  # Lightning's, of code 0: a job script would take the run for finished
        print(
            f"Stopped by SIGTERM, with a checkpoint in {asked.folder(runs)}; "
            "the same command goes on.",
            file=sys.stderr,
        )
        raise SystemExit(TERMINATED) from None
    for name, loss in result.losses.items():
        print(f"{name}: {loss:.4f} nats per token")
    print(asked.folder(runs))


def score(
    runs: RunsArgument,
    set: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="NAME=SOURCE",
            help="A set: a file of text (jsonl, parquet, csv, txt), a template (arc_easy), or a "
            "source as in a definition: '{template: arc_easy, path: json, data_files: a.jsonl}'. "
            "May be repeated.",
        ),
    ],
    validation_tokens: Annotated[
        int, typer.Option(min=1, help="Scored tokens of each set of text.")
    ] = 8192,
    logprobs: Annotated[
        bool,
        typer.Option(help="Keep the log-probability of every token; experts always do."),
    ] = False,
    accelerator: Annotated[str, typer.Option(help="Lightning's accelerator.")] = "auto",
    devices: Annotated[
        int, typer.Option(min=1, help="Devices of this machine that share every set.")
    ] = 1,
) -> None:
    """Scores kept weights on sets that did not exist when they were trained."""
    from optuna_mde_trainers import rescoring

    sets = dict(map(_named_source, set))
    groups = defaultdict(list)
    for run in map(rescoring.FinishedRun.read, runs):
        groups[run.in_tokens].append(run)
    for group in groups.values():
        with tempfile.TemporaryDirectory() as folder:
            corpus = rescoring.prepare_sets(
                group[0],
                sets,
                Path(folder) / "sets",
                validation_tokens=validation_tokens,
                progress=lambda line: print(line, flush=True),
            )
            for run in group:
                found = rescoring.score(
                    run, corpus, accelerator=accelerator, logprobs=logprobs, devices=devices
                )
                for name, scored in found.items():
                    accuracy = None if scored.task is None else scored.task.accuracy
                    shown = "" if accuracy is None else f", accuracy {accuracy:.3f}"
                    print(f"{run.folder}: {name}: {scored.loss:.4f} nats per token{shown}")


def evaluate(
    runs: RunsArgument,
    tasks: Annotated[
        str, typer.Option(metavar="TASK,…", help="Tasks or groups of lm-evaluation-harness.")
    ],
    num_fewshot: Annotated[
        int | None, typer.Option(min=0, help="Examples before each. [default: the task's]")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only so many examples of each task.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences at once.")] = 8,
    include_path: Annotated[
        Path | None, typer.Option(help="Folder with tasks of your own, in the harness's YAML.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Of torch. [default: the GPU if there is one]")
    ] = None,
) -> None:
    """Evaluates runs on downstream tasks of lm-evaluation-harness (extra: eval)."""
    from optuna_mde_trainers.scoring import harness

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    for run in runs:
        for found in harness.evaluate(
            run,
            names,
            num_fewshot=num_fewshot,
            limit=limit,
            batch_size=batch_size,
            include_path=include_path,
            device=device,
        ):
            for task, metrics in found.results.items():
                for metric, value in metrics.items():
                    if isinstance(value, float) and "_stderr" not in metric:
                        error = metrics.get(metric.replace(",", "_stderr,", 1))
                        about = f" ± {error:.4f}" if isinstance(error, float) else ""
                        print(f"{run}: {task}: {metric.split(',')[0]} {value:.4f}{about}")
            print(found.path)


def _named_source(text: str) -> tuple[str, Source]:
    import yaml
    from optuna_mde_trainers.corpus.prompts.source import TEMPLATES, TaskSource
    from optuna_mde_trainers.corpus.sources import DomainSource
    from optuna_mde_trainers.spec import RunError, explain
    from pydantic import ValidationError

    name, _, written = text.partition("=")
    if not name or not written:
        raise RunError(f"--set {text}: write NAME=SOURCE, such as faq=faq.jsonl")
    if written in TEMPLATES:
        fields = {"template": written}
    elif Path(written).suffix in FORMATS:
        fields = {"path": FORMATS[Path(written).suffix], "data_files": written}
    else:
        try:
            fields = yaml.safe_load(written)
        except yaml.YAMLError as error:
            raise RunError(f"--set {name}: {' '.join(str(error).split())}") from error
    if not isinstance(fields, dict):
        known = ", ".join(FORMATS)
        raise RunError(
            f"--set {name}: {written!r} is no file ending in {known}, no template "
            f"({', '.join(TEMPLATES)}), and no source such as {{path: json, data_files: …}}"
        )
    is_task = bool(fields.keys() & {"template", "prompt", "target", "choices"})
    try:
        model = TaskSource if is_task else DomainSource
        return name, model.model_validate(fields)
    except ValidationError as error:
        raise RunError(f"--set {name}: {explain(error)}") from error
