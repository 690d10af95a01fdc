"""The display: what it says of the time that is left, and what it prints where."""

from __future__ import annotations

from io import StringIO

import pytest
from optuna_mde_studies.runner.messages import (
    Asked,
    Failed,
    Lost,
    Ready,
    SearchOrder,
    Step,
    Told,
    Training,
)
from optuna_mde_studies.terminal.progress import Progress, duration, rates
from rich.console import Console


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (59.4, "59 s"), (65, "1:05"), (3725, "1:02:05")]
)
def test_durations(seconds, said):
    assert duration(seconds) == said


def test_a_mixture_on_one_line():
    mixture = {"web": 0.2, "code": 0.796, "books": 0.004, "[red]": 0.0}
    assert rates(mixture) == "code 0.80 web 0.20"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_time_left_is_that_of_the_runs_so_far(clock):
    progress = Progress("study", Console(file=StringIO()), total=11, clock=clock)
    progress.start_workers(2)
    for worker in (0, 1):
        progress.event(worker, Ready("0" * 32))
        progress.event(worker, Asked(worker))
        progress.event(worker, Training(f"trial {worker}", {"web": 1.0}))
    assert progress.left() == ""  # no run has shown its time
    clock.now += 10
    progress.event(0, Told(0))
    assert progress.done == 1
    # ten runs of 10 s on two workers, of which the one that runs has done its 10 s
    progress.event(1, Step(5, 10))
    assert progress.left() == "about 45 s left"
    progress.workers = 3  # one of them on another machine
    assert progress.left() == "about 30 s left"


def test_without_a_terminal_there_are_lines_only(clock):
    out = StringIO()
    with Progress("study", Console(file=out, width=40), total=3, clock=clock) as progress:
        progress.stage("searching")
        clock.now += 65
        progress.event(0, Asked(0))
        progress.event(0, Step(1, 10))
        progress.event(0, Told(0))
        progress.finished("trial 0 " + "[bold]words[/bold] " * 5)
        progress.event(1, Failed(SearchOrder(), "DivergedError: the loss is nan"))
        progress.event(1, Lost(SearchOrder(), -9))
    lines = out.getvalue().splitlines()
    assert lines[0].split(maxsplit=2) == ["0", "s", "searching"]
    assert "[1/3 runs] trial 0 [bold]words[/bold] " in lines[1]  # not markup, and not broken
    assert lines[1].strip().startswith("1:05")
    assert "a run failed and is left out: DivergedError: the loss is nan" in lines[2]
    assert "a worker died (exit code -9)" in lines[3]
    assert len(lines) == 4


def test_counts_say_what_they_count(clock):
    out = StringIO()
    with Progress("study", Console(file=out, width=80), total=7, clock=clock) as progress:
        progress.done = 1
        progress.counting("search", 1, 3)
        for number in (1, 2):
            progress.event(0, Asked(number))
            progress.event(0, Told(number))
            progress.finished(f"trial {number}")
        progress.counting("confirmation", 0, 4)
        progress.event(0, Told(3))
        progress.finished("natural, seed 1")
    lines = out.getvalue().splitlines()
    assert "[2/3 search] trial 1" in lines[0]
    assert "[3/3 search] trial 2" in lines[1]
    assert "[1/4 confirmation] natural, seed 1" in lines[2]
