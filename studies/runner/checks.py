"""What can be known to be wrong with a study before anything is built or trained."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from optuna_mde_studies.definition.reading import DefinitionError
from optuna_mde_studies.runner import remote
from optuna_mde_studies.runner.launchers import PLACES, missing
from optuna_mde_studies.runner.plan import plan
from optuna_mde_trainers.spec import RunError

if TYPE_CHECKING:
    from optuna_mde_studies.definition.reading import Definition
    from optuna_mde_trainers.corpus.config import CorpusConfig


_BRACES = re.compile(r"\{[A-Za-z_]+\}")  # of a command: what may be meant for a place


def problems(definition: Definition) -> list[str]:
    """One sentence a mistake, with its place: sources, tokenizer, model, devices, packages."""
    return [definition.located(said) for said in _said(definition)]


def source_problems(definition: Definition) -> list[str]:
    """The same of its sources and its tokenizer alone."""
    from optuna_mde_trainers.corpus import checking

    corpus = definition.config.corpus
    found = [*checking.problems(corpus), *_task_problems(corpus)]
    return [definition.located(said) for said in found]


def check_sources(definition: Definition) -> None:
    """Whether the sources and the tokenizer can be read, as far as their beginnings show it.

    Raises:
        DefinitionError: if not, with all that cannot.
    """
    if said := source_problems(definition):
        raise DefinitionError("\n".join(said))


def check_machine(definition: Definition) -> None:
    """Whether this machine has the devices and packages that runs ask for.

    Raises:
        DefinitionError: if it has not.
    """
    if said := _missing(definition):
        raise DefinitionError(definition.located(said))


def doubts(definition: Definition) -> Iterator[str]:
    """What may be meant as it is, and often is not: a command that is not told its files."""
    command = definition.config.launch.command
    if command is None:
        return
    unknown = sorted({found for found in _BRACES.findall(command) if found not in PLACES})
    said = [f"{name} is none of {', '.join(PLACES)}, and stays as it is" for name in unknown]
    if "{spec}" not in command:
        said.append("without {spec} the program has to read spec.json in {out} by itself")
    if "{out}" not in command:
        said.append("without {out} the program has to leave result.json beside {spec}")
    yield from (f"{definition.place(('launch', 'command'))}: {sentence}" for sentence in said)


def _missing(definition: Definition) -> str:
    from optuna_mde_trainers.training.checks import check_launch

    config = definition.config
    if said := missing(config.launch):
        return said
    if config.launch.command is not None:  # a trainer of the user's, which has needs of its own
        if not config.launch.runs_here:
            return ""
        return _lacking(shlex.split(config.launch.command))
    try:
        check_launch(config.launch, config.training, config.model, is_here=config.launch.runs_here)
    except RunError as error:
        return str(error)
    return ""


def _lacking(command: Sequence[str]) -> str:
    """Which file of a command is not there: its program, or the script that Python is to run."""
    program, *arguments = command
    if shutil.which(program) is None:
        return f"launch.command: there is no program {program!r} here; mend its name or path"
    is_python = PurePath(program).name.startswith("python")
    script = arguments[0] if is_python and arguments else ""
    if script.endswith(".py") and "{" not in script and not Path(script).is_file():
        return f"launch.command: there is no file {script!r} here; mend its name or path"
    return ""


def _task_problems(corpus: CorpusConfig) -> Iterator[str]:
    """End tasks are small: their examples are read, every one."""
    from optuna_mde_trainers.corpus.documents import CorpusError
    from optuna_mde_trainers.corpus.prompts import examples

    for name, task in corpus.tasks.items():
        try:
            examples.read(f"tasks.{name}", task)
        except CorpusError as error:
            yield str(error)


def _said(definition: Definition) -> Iterator[str]:
    from optuna_mde_trainers.corpus import checking
    from optuna_mde_trainers.corpus.documents import CorpusError

    config = definition.config
    found = [*checking.problems(config.corpus), *_task_problems(config.corpus)]
    yield from found
    if wrong := remote.problem(definition):
        yield wrong
    if said := _missing(definition):
        yield said
    if said.startswith("model."):
        return  # without its package it has no size
    try:
        plan(config)
    except CorpusError as error:
        if str(error) not in found:
            yield str(error)
    except ValueError as error:
        yield str(error)
