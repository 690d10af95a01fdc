"""What is happening now, what was found, how long the rest takes: live, or line by line."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from optuna_mde_studies.runner.messages import (
    Asked,
    Event,
    Exhausted,
    Failed,
    Lost,
    Ready,
    Step,
    Superseded,
    TakenUp,
    Told,
    Trained,
    Training,
    Waiting,
)
from optuna_mde_studies.wording import rates
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from types import TracebackType

PLAIN_WIDTH = 110
"""Columns where the output is no terminal: rich would take 80 and break our lines."""

WIDE_BAR, NARROW_BAR = 24, 12
"""Columns of a bar: at 80 of them the mixture beside it must be readable."""


def console() -> Console:
    """The console of the command: as wide as the terminal, or wide enough for a log."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)


@dataclass
class _Job:
    """What a worker is doing."""

    text: str
    since: float
    step: int = 0
    total: int = 0


@dataclass
class Progress:
    """State of the display; a context manager while it is live.

    Attributes:
        title: name of the study.
        out: where to print; live if it is a terminal, else a line a finished run.
        total: runs of this start, the confirming ones included, those found finished too.
        done: how many of them are finished.
        workers: how many are at work on the study, on all machines.
        best: what has been found so far, one line.
    """

    title: str
    out: Console
    total: int = 0
    done: int = 0
    workers: int = 1
    best: str = ""
    clock: Callable[[], float] = time.monotonic
    _stage: str = "starting"
    _counted: tuple[str, int, int] | None = None
    """What is counted, how many were done before all of these, how many these are."""
    _n_workers: int = 1
    _jobs: dict[int, _Job] = field(default_factory=dict)
    _seconds: list[float] = field(default_factory=list)
    _began: float = 0.0
    _live: Live | None = None

    def __enter__(self) -> Progress:
        self._began = self.clock()
        if self.out.is_terminal:
            self._live = Live(
                console=self.out, get_renderable=self._render, refresh_per_second=4, transient=True
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def counting(self, what: str, done: int, total: int) -> None:
        """From now on runs of this kind are counted, of which so many are done already."""
        self._counted = what, self.done - done, total

    def stage(self, text: str) -> None:
        """A new stage begins: `training the experts`."""
        self._stage = text
        self.line(text)

    def line(self, text: str) -> None:
        """A line that stays."""
        prefix = f"{duration(self.clock() - self._began):>7}  " if self._began else ""
        self.out.print(Text(prefix, style="dim") + Text(text), soft_wrap=not self.out.is_terminal)

    def finished(self, text: str) -> None:
        """A run has been told: one line with what came of it, and the time that is left."""
        left = self.left()
        rest = f"; {left}" if left and self._live is None else ""
        what, before, total = self._counted or ("runs", 0, self.total)
        self.line(f"[{self.done - before}/{total} {what}] {text}{rest}")

    def event(self, worker: int, event: Event) -> None:
        """Follows what a worker does."""
        match event:
            case Asked(number):
                self._begin(worker, f"trial {number}: proposing a mixture")
            case Training(name, mixture):
                self._begin(worker, f"{name}: {rates(mixture)}", keep_time=True)
            case Step(step, total):
                if job := self._jobs.get(worker):
                    job.step, job.total = step, total
            case Told() | Trained():
                if job := self._jobs.pop(worker, None):
                    self._seconds.append(self.clock() - job.since)
                self.done += 1
            case Failed(_, message, again):
                self._jobs.pop(worker, None)
                left = "is tried once more" if again else "is left out"
                self.line(f"a run failed and {left}: {message}")
            case TakenUp(number, place):
                whose = f" by {place}, which is gone" if place else ""
                self.line(f"trial {number} was left{whose}; what it has trained is not lost")
            case Superseded(number):
                self._jobs.pop(worker, None)
                self.line(f"trial {number} was taken over by another worker meanwhile")
            case Waiting():
                self._begin(worker, "waiting for trials that are at work elsewhere")
            case Exhausted():
                self._jobs.pop(worker, None)
            case Lost(_, exitcode):
                self._jobs.pop(worker, None)
                self.line(f"a worker died (exit code {exitcode}); another one takes its place")
                self._begin(worker, "starting")
            case Ready():
                self._jobs.pop(worker, None)

    def start_workers(self, number: int) -> None:
        """So many workers are starting now."""
        self._n_workers = number
        for worker in range(number):
            self._begin(worker, "starting")

    def own_steps(self, mixture: Mapping[str, float]) -> Callable[[int, int], None]:
        """Follows a run in this process: what to call after every step."""
        self._begin(0, rates(mixture))
        return lambda step, total: self.event(0, Step(step, total))

    def left(self) -> str:
        """`about 2 min left`, or nothing before the first run has shown its time."""
        runs = self.total - self.done
        if not self._seconds or runs <= 0:
            return ""
        now = self.clock()
        mean = sum(self._seconds) / len(self._seconds)
        begun = sum(min(mean, now - job.since) for job in self._jobs.values() if job.total)
        workers = max(self.workers, self._n_workers)
        return f"about {duration(max(0.0, runs * mean - begun) / workers)} left"

    def _begin(self, worker: int, text: str, *, keep_time: bool = False) -> None:
        before = self._jobs.get(worker)
        since = before.since if keep_time and before is not None else self.clock()
        self._jobs[worker] = _Job(text, since)

    def _render(self) -> RenderableType:
        elapsed = duration(self.clock() - self._began)
        status = " · ".join(filter(None, [self.title, self._stage, elapsed, self.left()]))
        grid = Table.grid(padding=(0, 1))
        grid.add_column(no_wrap=True)
        width = WIDE_BAR if self.out.width >= PLAIN_WIDTH else NARROW_BAR
        grid.add_column(width=width)
        grid.add_column(no_wrap=True, overflow="ellipsis")
        if self.total:
            bar = ProgressBar(total=self.total, completed=self.done, width=width)
            grid.add_row("runs", bar, f"{self.done}/{self.total}")
        for worker, job in sorted(self._jobs.items()):
            bar = ProgressBar(total=job.total or 1, completed=job.step, width=width)
            grid.add_row(f"worker {worker + 1}", bar, Text(job.text))
        if self.best:
            grid.add_row("best", "", Text(self.best))
        return Group(Text(status, style="bold"), grid)


def duration(seconds: float) -> str:
    """`45 s`, `2:05` or `1:02:05`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
