"""The `optuna-mde` command.

Everything heavy is imported inside the commands: `--help` has to answer at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from optuna_mde_studies.commands import (
    authoring,
    checking,
    exchanging,
    listing,
    reading,
    running,
    runs,
    scoring,
    validating,
)
from optuna_mde_studies.commands.shared import fail, say_version

app = typer.Typer(
    name="optuna-mde",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    authoring.init,
    authoring.schema,
    running.run,
    running.work,
    running.confirm,
    reading.dashboard,
    reading.report,
    reading.recommend,
    reading.status,
    listing.list,
    checking.check,
    validating.validate,
    runs.train,
    scoring.score,
    runs.evaluate,
    exchanging.export,
):
    app.command()(command)
app.command("import")(exchanging.import_)


@app.callback()
def optuna_mde(
    version: Annotated[
        bool,
        typer.Option("--version", callback=say_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Searches the data mixture for pre-training a language model."""


def main() -> None:
    """Entry point: a user's mistake is one sentence and exit code 2, never a traceback."""
    try:
        with _plain_warnings():
            app()
    except SystemExit:  # the usual end; what follows would be imported to look at it
        raise
    except _mistakes() as error:
        fail(str(error))
    except _storage_faults() as error:
        reason = " ".join(str(error.__cause__ or error).split("\n[SQL:")[0].split())[:300]
        fail(f"the study's storage cannot be read or written ({reason}); is it there, and whole?")


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings as sentences, without the line of code that gave them."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def _mistakes() -> tuple[type[Exception], ...]:
    """Errors that say what a user can mend. Looked up only when something was raised."""
    from optuna_mde_studies.definition.reading import DefinitionError
    from optuna_mde_studies.exchange.tables import ExchangeError
    from optuna_mde_studies.runner.folder import StudyError
    from optuna_mde_trainers.corpus.documents import CorpusError
    from optuna_mde_trainers.spec import DivergedError, RunError, SpecError

    from optuna_mde.mde.logprobs import ExpertFileError

    of_studies = (DefinitionError, StudyError, ExchangeError)
    return (*of_studies, CorpusError, RunError, SpecError, DivergedError, ExpertFileError)


def _storage_faults() -> tuple[type[Exception], ...]:
    from json import JSONDecodeError  # of attributes: our own files are looked after elsewhere

    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    return StorageInternalError, SQLAlchemyError, JSONDecodeError
