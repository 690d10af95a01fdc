"""Kept weights on sets that did not exist when they were trained: of a study, or single runs."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from optuna_mde_studies.commands.shared import (
    OutOption,
    fail,
    orderly,
    quiet,
    resolve,
    resolve_existing,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from optuna_mde_studies.runner.scoring import Scored
    from optuna_mde_trainers.rescoring import Source

# Suffixes of files that are a set by themselves.
FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
FORMATS |= {".txt": "text", ".md": "text", ".arrow": "arrow"}

VALIDATION_TOKENS = 8192
"""Scored tokens of each set of text, where nobody says another number."""


def score(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="STUDY|RUN…",
            help="A study that has begun, as for `run`: all of its finished runs are scored, and "
            "its trials gain the losses. Or folders of finished runs.",
        ),
    ],
    set: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=SOURCE",
            help="A set: a file of text (jsonl, parquet, csv, txt), a template (arc_easy), or a "
            "source as in a definition: '{template: arc_easy, path: json, data_files: a.jsonl}'. "
            "May be repeated.",
        ),
    ] = None,
    validation_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Scored tokens of each set of text. [default: the study's, or 8192]"
        ),
    ] = None,
    logprobs: Annotated[
        bool,
        typer.Option(help="Keep the log-probability of every token; experts always do."),
    ] = False,
    accelerator: Annotated[
        str | None, typer.Option(help="Lightning's accelerator. [default: the study's, or auto]")
    ] = None,
    devices: Annotated[
        int, typer.Option(min=1, help="Devices of this machine that share every set of a run.")
    ] = 1,
    out: OutOption = None,
) -> None:
    """Scores kept weights on sets that did not exist when they were trained."""
    sets = dict(map(_named_source, set or ()))
    if not all(_is_run(Path(given)) for given in what):
        if len(what) > 1 or logprobs or devices > 1:
            fail(
                f"{' '.join(what)}: give one study, which takes neither --logprobs nor --devices, "
                "or folders of finished runs"
            )
        _score_study(what[0], out, sets, validation_tokens, accelerator)
        return
    if not sets:
        fail("--set is missing: NAME=SOURCE, such as faq=faq.jsonl")
    tokens = validation_tokens or VALIDATION_TOKENS
    _score_runs(list(map(Path, what)), sets, tokens, logprobs, accelerator or "auto", devices)


def _is_run(folder: Path) -> bool:
    """Whether an argument means a run; a folder that holds nothing is taken for one, and named."""
    from optuna_mde_studies.runner.folder import StudyFolder

    return folder.is_dir() and not StudyFolder(folder).definition.is_file()


def _score_study(
    study: str,
    out: Path | None,
    sets: Mapping[str, Source],
    validation_tokens: int | None,
    accelerator: str | None,
) -> None:
    from optuna_mde_studies.runner import evidence
    from optuna_mde_studies.runner.corpus import building
    from optuna_mde_studies.runner.opening import open_study
    from optuna_mde_studies.runner.scoring import score_missing
    from optuna_mde_studies.terminal import progress

    launch = resolve(study, out)[0].config.launch  # as it is now: of this machine, these workers
    definition, folder = resolve_existing(study, out)
    quiet()
    if accelerator is not None:
        launch = launch.model_copy(update={"accelerator": accelerator})
    config = definition.config.model_copy(update={"launch": launch})
    with orderly(folder), progress.Progress(config.name, progress.console()) as display:
        opened = open_study(folder, definition.config)
        with building(folder, opened, display):
            experiment = evidence.with_sets(config, folder, sets, validation_tokens, display.line)
        scored = score_missing(experiment, opened, display)
    _say_next(scored, sets, study)


def _say_next(scored: Scored, sets: Mapping[str, Source], study: str) -> None:
    if scored.results:
        name = next(iter(sets), "SET")
        print(
            f"What the study minimises is as before. `optuna-mde recommend {study} --objective "
            f"{name}` asks for another goal at once; `objective` in the definition changes it."
        )
    elif not scored.left:
        print("Every finished run has a loss of every set already.")
    else:
        raise SystemExit(1)


def _score_runs(
    runs: list[Path],
    sets: Mapping[str, Source],
    validation_tokens: int,
    logprobs: bool,
    accelerator: str,
    devices: int,
) -> None:
    from optuna_mde_trainers import rescoring

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
