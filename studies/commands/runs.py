"""Commands on single runs: train one, evaluate finished ones downstream."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from optuna_mde_studies.commands.shared import fail

RunsArgument = Annotated[
    list[Path], typer.Argument(metavar="RUN…", help="Folders of finished runs.")
]

TERMINATED = 143  # 128 + SIGTERM, as shells have it


def train(
    spec: Annotated[Path, typer.Argument(metavar="SPEC.json", help="A run's spec.")],
    runs: Annotated[
        Path, typer.Option(help="Where the run's folder goes, named by the spec's hash.")
    ] = Path("runs"),
) -> None:
    """Performs one run from its spec; a finished one is not trained again."""
    from optuna_mde_studies.runner.warned import heard
    from optuna_mde_studies.terminal import progress
    from optuna_mde_trainers.run import train as perform
    from optuna_mde_trainers.spec import RunSpec

    try:
        asked = RunSpec.read(spec)
    except OSError as error:
        fail(f"{spec}: cannot be read ({(error.strerror or str(error)).lower()})")
    try:
        with progress.Progress(spec.name, progress.console()) as display, heard(display.line):
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
