"""The `optuna-mde` command.

Everything heavy is imported inside the commands: `--help` has to answer at once.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from optuna_mde_studies import run_commands

if TYPE_CHECKING:
    from collections.abc import Iterable

    import optuna
    from optuna_mde_studies.definition.reading import Definition
    from optuna_mde_studies.runner.folder import StudyFolder
    from optuna_mde_studies.runner.session import Outcome
    from optuna_mde_studies.terminal.progress import Progress
    from rich.console import Console, RenderableType

INTERRUPTED, TERMINATED = 130, 143  # 128 + SIGINT and SIGTERM, as shells have it

app = typer.Typer(
    name="optuna-mde",
    help="Searches the data mixture for pre-training a language model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

StudyArgument = Annotated[
    str,
    typer.Argument(
        metavar="STUDY",
        help="A definition (YAML file), a shipped one by its name (demo), a study's folder or its "
        "name in runs/.",
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", help="The study's folder. [default: runs/<name of the study>]"),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Overrides a field of the definition: training.max_steps=200. May be repeated.",
    ),
]


class Format(StrEnum):
    """How a recommendation is printed."""

    text = "text"
    yaml = "yaml"
    json = "json"


@app.command()
def run(study: StudyArgument, out: OutOption = None, set: SetOption = None) -> None:
    """Runs a study to its confirmed mixture; run again, it goes on where it stopped."""
    from optuna_mde_studies.runner import session
    from optuna_mde_studies.terminal import progress

    definition, folder = _resolve(study, out, set)
    console = progress.console()
    _quiet()
    try:
        with progress.Progress(definition.config.name, console) as display:
            outcome = session.run(definition, folder, display)
            _write_report(outcome, folder, display)
    except KeyboardInterrupt:
        _say_interrupted(folder)
    _print_outcome(console, outcome, definition, folder)
    elsewhere = "" if out is None else f" --out {out}"
    console.print(f"\nreport: {folder.report}\nbrowse: optuna-mde dashboard {study}{elsewhere}")


@app.command()
def confirm(
    study: StudyArgument,
    seeds: Annotated[
        int | None, typer.Option(min=2, help="Fresh seeds. [default: the definition's]")
    ] = None,
    out: OutOption = None,
) -> None:
    """Trains the recommended mixture and its rivals with fresh seeds, and compares them."""
    from optuna_mde_studies.runner import session
    from optuna_mde_studies.terminal import progress

    definition, folder = _resolve_existing(study, out)
    console = progress.console()
    _quiet()
    try:
        with progress.Progress(definition.config.name, console) as display:
            outcome = session.confirm_again(definition, folder, display, seeds)
            _write_report(outcome, folder, display)
    except KeyboardInterrupt:
        _say_interrupted(folder)
    _print_outcome(console, outcome, definition, folder)


@app.command()
def dashboard(
    study: StudyArgument,
    out: OutOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8080,
) -> None:
    """Opens Optuna Dashboard on a study, with this package's figures among its graphs."""
    from optuna_mde_studies.report import dashboard as server
    from optuna_mde_studies.runner.confirm import Confirmation

    definition, folder = _resolve_existing(study, out)
    confirmation = Confirmation.read(folder.confirmation)
    server.publish(_open(definition, folder), confirmation=confirmation)
    server.serve(folder.storage_url, host, port)


@app.command()
def report(study: StudyArgument, out: OutOption = None) -> None:
    """Writes the HTML report again, of a running study too."""
    from optuna_mde_studies.report import page
    from optuna_mde_studies.runner.confirm import Confirmation

    definition, folder = _resolve_existing(study, out)
    confirmation = Confirmation.read(folder.confirmation)
    print(page.write(_open(definition, folder), folder.path, confirmation=confirmation))


@app.command()
def recommend(
    study: StudyArgument,
    out: OutOption = None,
    format: Annotated[
        Format, typer.Option(help="text: tables; yaml, json: the rates, for a training config.")
    ] = Format.text,
) -> None:
    """Prints the best mixture by what is known now."""
    from optuna_mde_studies.runner import findings
    from optuna_mde_studies.runner.confirm import Confirmation
    from optuna_mde_studies.terminal import progress, summary

    definition, folder = _resolve_existing(study, out)
    opened = _open(definition, folder)
    try:
        recommendation = findings.recommend(opened, folder.recommendation)
    except ValueError as error:  # nothing to learn from yet
        _fail(f"{folder.path}: {error}")
    if format is Format.text:
        confirmation = Confirmation.read(folder.confirmation)
        parts = [*summary.outcome(recommendation, definition.config.goals)]
        parts += summary.beside(opened, folder, recommendation, confirmation)
        _print(progress.console(), parts)
    else:
        print(summary.rates_as(format.value, recommendation.mixture), end="")


@app.command()
def status(study: StudyArgument, out: OutOption = None) -> None:
    """Says how far a study is."""
    from optuna_mde_studies.runner import trials
    from optuna_mde_studies.terminal import summary

    definition, folder = _resolve_existing(study, out)
    opened = _open(definition, folder)
    running = "running now" if folder.is_running() else "not running"
    for line in summary.status(opened, trials.counts(opened), definition.config.search.n_trials):
        print(line)
    print(f"{folder.path}: {running}")


@app.command()
def validate(
    study: StudyArgument,
    set: SetOption = None,
    tokens_per_second: Annotated[
        float | None,
        typer.Option(min=1e-9, help="Training tokens a second of one run, to estimate the time."),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Train a few steps here to find that rate.")
    ] = False,
) -> None:
    """Checks all that can be known without running: fields, sources, devices; prints the plan."""
    from optuna_mde_studies.runner import checks
    from optuna_mde_studies.runner.plan import finished_rate, plan
    from optuna_mde_studies.runner.speed import measure as measured
    from optuna_mde_studies.terminal import progress, summary

    problems: list[str] = []
    definition, folder = _resolve(study, None, set, problems)
    problems += checks.problems(definition)
    if problems:
        _fail("\n".join(problems))
    config, found = definition.config, plan(definition.config)
    print(f"{definition.label}: right. {summary.planned(config, found)}, into {folder.path}")
    rate = tokens_per_second or (measured(config) if measure else finished_rate(folder))
    _print(progress.console(), summary.plan(found, rate))


@app.command()
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
        _fail(f"{spec}: cannot be read ({(error.strerror or str(error)).lower()})")
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


app.command()(run_commands.score)
app.command()(run_commands.evaluate)


def main() -> None:
    """Entry point: a user's mistake is one sentence and exit code 2, never a traceback."""
    try:
        app()
    except _mistakes() as error:
        _fail(str(error))


def _mistakes() -> tuple[type[Exception], ...]:
    """Errors that say what a user can mend. Looked up only when something was raised."""
    from optuna_mde_studies.definition.reading import DefinitionError
    from optuna_mde_studies.runner.folder import StudyError
    from optuna_mde_trainers.corpus.documents import CorpusError
    from optuna_mde_trainers.spec import DivergedError, RunError, SpecError

    return DefinitionError, StudyError, CorpusError, RunError, SpecError, DivergedError


def _fail(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    raise SystemExit(2)


def _say_interrupted(folder: StudyFolder) -> NoReturn:
    print(
        f"\nInterrupted. Every finished run is kept in {folder.path}; the same command goes on.",
        file=sys.stderr,
    )
    raise SystemExit(INTERRUPTED)


def _resolve(
    study: str,
    out: Path | None,
    overrides: list[str] | None = None,
    problems: list[str] | None = None,
) -> tuple[Definition, StudyFolder]:
    """The definition that is meant, and its study's folder; what does not agree in it is added to
    `problems`, or raised."""
    from optuna_mde_studies.definition.reading import DefinitionError, examine, shipped
    from optuna_mde_studies.runner.folder import RUNS, StudyFolder

    folder = StudyFolder(Path(study))
    if not folder.path.exists() and study not in shipped():
        folder = StudyFolder(Path(RUNS) / study)

    def read(name: str) -> Definition:
        definition, found = examine(name, overrides or ())
        if found and problems is None:
            raise DefinitionError("\n".join(found))
        (problems if problems is not None else []).extend(found)
        return definition

    if not folder.path.is_dir():
        definition = read(study)
        return definition, StudyFolder(out or Path(RUNS) / definition.config.name)
    if not folder.definition.is_file():
        raise DefinitionError(
            f"{study}: this folder holds no study (no {folder.definition.name}); "
            "name a study's folder or a definition"
        )
    if out is not None and out.resolve() != folder.path.resolve():
        raise DefinitionError(
            f"--out {out}: {study} is a study's folder already; name its definition instead"
        )
    return read(str(folder.definition)), folder


def _resolve_existing(study: str, out: Path | None) -> tuple[Definition, StudyFolder]:
    """A study that has been started, with the definition that it was started with."""
    from optuna_mde_studies.definition.reading import read
    from optuna_mde_studies.runner.folder import StudyError

    _, folder = _resolve(study, out)
    if not folder.database.is_file():
        raise StudyError(
            f"{folder.path}: there is no study yet; start it with `optuna-mde run {study}`"
        )
    return read(str(folder.definition)), folder


def _open(definition: Definition, folder: StudyFolder) -> optuna.Study:
    from optuna_mde_studies.runner.session import open_study

    _quiet()
    return open_study(folder, definition.config)


def _print(console: Console, parts: Iterable[RenderableType]) -> None:
    for part in parts:
        console.print()
        console.print(part)


def _quiet() -> None:
    """Keeps Optuna's own lines out of ours."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _write_report(outcome: Outcome, folder: StudyFolder, display: Progress) -> None:
    from optuna_mde_studies.report import page

    begin = partial(display.stage, "writing the report")
    page.keep_current(outcome.study, folder, outcome.recommendation, begin)


def _print_outcome(
    console: Console, outcome: Outcome, definition: Definition, folder: StudyFolder
) -> None:
    from optuna_mde_studies.terminal import summary

    goals = definition.config.goals
    parts = [*summary.outcome(outcome.recommendation, goals)]
    if outcome.confirmation is not None:
        parts += summary.confirmed(outcome.confirmation, goals)
    parts += summary.beside(outcome.study, folder, outcome.recommendation, outcome.confirmation)
    _print(console, parts)
