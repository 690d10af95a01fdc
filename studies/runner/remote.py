"""Runs of a study whose files lie at a URL: whether it can be used, and how runs get there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from optuna_mde_studies.definition.reading import DefinitionError
from optuna_mde_studies.runner.folder import StudyFolder
from optuna_mde_studies.runner.sharing.mirror import Mirror, RemoteError
from optuna_mde_trainers.corpus.blocks import CORPUS_FILE
from optuna_mde_trainers.spec import EVALUATIONS_FOLDER, RESULT_FILE, SPEC_FILE, DivergedError

if TYPE_CHECKING:
    from optuna_mde_studies.definition.reading import Definition
    from optuna_mde_studies.runner.launchers import Launcher, OnStep
    from optuna_mde_trainers.spec import RunResult, RunSpec


def check_url(definition: Definition, folder: StudyFolder) -> None:
    """Whether the URL of a definition's `runs` can be written to; to be called before anything is.

    Raises:
        DefinitionError: if not.
    """
    if folder.mirror is None:
        return
    try:
        replace(folder.mirror, say=None).try_out()  # what is wrong now is no outage
    except RemoteError as error:
        mend = _mend(error.__cause__)
        raise DefinitionError(f"{definition.place(('runs',))}: {error}{mend}") from None


def problem(definition: Definition) -> str:
    """What is wrong with the URL of a definition's `runs`, as far as reading tells; empty where
    nothing is."""
    mirror = StudyFolder(Path()).placed(definition.config).mirror
    try:
        if mirror is not None:
            mirror.read(SPEC_FILE)  # any name will do: it need not be there
    except RemoteError as error:
        return f"runs: {error}{_mend(error.__cause__)}"
    return ""


def _mend(cause: BaseException | None) -> str:
    if isinstance(cause, ImportError):
        return "; install what it needs (s3: pip install 'optuna-mde[s3]'), or name a path"
    if isinstance(cause, ValueError):
        return "; write a path, or a URL such as s3://bucket/prefix or sftp://host/folder"
    return "; see that it is there and that you may write to it, or name a path"


@dataclass(frozen=True)
class RemoteRuns:
    """A launcher's runs, each of which begins with what others have left at the URL of its folder,
    and leaves there what it comes to."""

    launcher: Launcher
    mirror: Mirror

    def run(self, spec: RunSpec, runs: Path, on_step: OnStep) -> RunResult:
        """As a launcher's.

        Raises:
            RemoteError: if the URL does not answer for too long.
        """
        name = _name(spec, runs)
        self.mirror.pull(name)
        with self._left_behind(name), self.mirror.following(name):
            result = self.launcher.run(spec, runs, on_step)
        self.mirror.push(name, removes=True)
        return result

    def finished(self, spec: RunSpec, runs: Path) -> RunResult | None:
        """As a launcher's; where the URL does not answer, what is known here. Whoever takes up
        the run finds the rest."""
        with suppress(RemoteError):
            replace(self.mirror, say=None).pull(f"{_name(spec, runs)}/{RESULT_FILE}")
        return self.launcher.finished(spec, runs)

    def warm_up(self) -> None:
        """As the launcher's."""
        self.launcher.warm_up()

    @contextmanager
    def _left_behind(self, name: str) -> Iterator[None]:
        """What a run leaves that does not end well, for whoever takes it up. One that somebody
        else has taken up meanwhile leaves nothing."""
        try:
            yield
        except DivergedError:
            self.mirror.push(name)
            raise
        except (KeyboardInterrupt, SystemExit):
            with suppress(RemoteError):  # there is no time to wait
                replace(self.mirror, say=None).push(name)
            raise


def _name(spec: RunSpec, runs: Path) -> str:
    return f"{runs.name}/{spec.folder(runs).name}"


def bring_shown(folder: StudyFolder) -> None:
    """Sees that what report and dashboard show of runs on any machine is here: what came of them,
    what the corpus holds, and what lm-evaluation-harness said, which goes to the URL as well.

    Raises:
        StudyError: if the URL does not answer.
    """
    folder.share(*folder.runs.glob(f"*/{EVALUATIONS_FOLDER}"))
    folder.bring(folder.corpus / CORPUS_FILE)
    folder.bring(folder.runs, only=_is_shown)


def _is_shown(name: str) -> bool:
    path = PurePosixPath(name)
    return path.name in (SPEC_FILE, RESULT_FILE) or path.parent.name == EVALUATIONS_FOLDER
