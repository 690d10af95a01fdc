"""Losses of runs on the way to their ends: read from their folders, and drawn together.

Training losses of different mixtures are of different text: they show how runs went, not which
mixture is better. Losses are in nats per token.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import plotly.graph_objects as go
from optuna_mde_trainers.spec import RESULT_FILE, SPEC_FILE, RunResult, RunSpec, SpecError

from optuna_mde.visualization.palette import ACCENT, FORESEEN, label, quiet
from optuna_mde.visualization.runs import MARKERS, PROPOSALS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from optuna_mde_studies.report.overview import Overview
    from optuna_mde_studies.runner.confirm import Confirmation

    from optuna_mde.answers.answer import Recommendation
    from optuna_mde.objective import Objective

COLOURS = {
    "recommended": ACCENT,
    "natural": MARKERS["natural"].colour,
    "uniform": MARKERS["uniform"].colour,
    "best expert": MARKERS["expert"].colour,
    "best seen": PROPOSALS.colour,
}
"""Of the mixtures that matter, in the order of the legend; all other runs are faint."""
MANY, THIN = 60, 16
"""Runs above which a faint one is drawn by so many points."""

Line = tuple[tuple[int, float], ...]
"""(training tokens, loss), in their order."""


@dataclass(frozen=True)
class Curve:
    """Losses of one run."""

    train: Line
    """Each the mean since the point before."""
    sets: dict[str, Line]
    """By validation set, the end of the run last."""

    def objective(self, goals: Objective) -> Line:
        """The first goal wherever all of its sets were scored."""
        places = dict.fromkeys(tokens for line in self.sets.values() for tokens, _ in line)
        losses = {name: dict(line) for name, line in self.sets.items()}
        found = [(t, {s: at[t] for s, at in losses.items() if t in at}) for t in sorted(places)]
        return tuple(
            (tokens, goals.values(told)[0])
            for tokens, told in found
            if told.keys() >= set(goals.sets) and len(told) == len(self.sets)
        )

    def table(self) -> str:
        """CSV: a line for every number of tokens at which a loss is known."""
        lines = {"training": self.train, **self.sets} if self.train else self.sets
        named = {name: dict(line) for name, line in lines.items()}
        out = io.StringIO()
        written = csv.writer(out)
        written.writerow(["tokens", *named])
        for tokens in sorted({tokens for line in named.values() for tokens in line}):
            written.writerow([tokens, *(line.get(tokens, "") for line in named.values())])
        return out.getvalue()


def read(run: Path) -> Curve | None:
    """The losses of a run's folder; None where none are known before its end."""
    try:
        result = RunResult.read(run / RESULT_FILE)
    except (OSError, SpecError):
        return None
    if not result.points and not result.train_curve:
        return None
    places = [*((p.tokens, p.losses) for p in result.points), (result.tokens, result.losses)]
    return Curve(
        tuple((point.tokens, point.loss) for point in result.train_curve),
        {
            name: tuple((tokens, losses[name]) for tokens, losses in places if name in losses)
            for name in result.losses
        },
    )


@dataclass(frozen=True)
class Traced:
    """A run's curve as the figure names it."""

    text: str
    role: str
    """Which of the mixtures that matter it has trained; empty for all others."""
    curve: Curve


def of_study(
    overview: Overview,
    runs: Path,
    recommendation: Recommendation | None = None,
    confirmation: Confirmation | None = None,
) -> list[Traced]:
    """The curves of a study's finished runs, and of those that confirm its recommendation.

    Args:
        overview: the study's runs.
        runs: the folder of their folders.
        recommendation: says which of them have trained a mixture that matters.
        confirmation: runs with fresh seeds, which no trial has.
    """
    roles = {
        row.trial: row.name for row in reversed(recommendation.rows if recommendation else ())
    }
    found = []
    for run in overview.finished:
        name = Path(run.folder).name
        if name not in ("", "..") and not run.taken_over and (curve := read(runs / name)):
            found.append(Traced(f"trial {run.number}", roles.get(run.number, ""), curve))
    return [*found, *_confirming(overview, runs, confirmation)]


def _confirming(
    overview: Overview, runs: Path, confirmation: Confirmation | None
) -> Iterator[Traced]:
    if confirmation is None or not runs.is_dir():
        return
    known = {Path(run.folder).name for run in overview.runs}
    for run in sorted(path for path in runs.iterdir() if path.name not in known):
        try:
            training = RunSpec.read(run / SPEC_FILE).training
        except (OSError, SpecError):
            continue
        name = confirmation.named(training.mixture)
        if name and training.seed in confirmation.seeds and (curve := read(run)):
            kind = name.partition(" (")[0]
            yield Traced(f"{name}, seed {training.seed}", kind if kind in COLOURS else "", curve)


def training(traced: Sequence[Traced]) -> go.Figure | None:
    """Training losses of all runs; None where no run has kept them."""
    lines = [(each, each.curve.train) for each in traced if len(each.curve.train) > 1]
    return _drawn(lines, "training loss") if lines else None


def objective(traced: Sequence[Traced], goals: Objective, name: str) -> go.Figure | None:
    """The objective of all runs that were scored on the way; None where none was."""
    lines = [(each, each.curve.objective(goals)) for each in traced]
    lines = [(each, line) for each, line in lines if len(line) > 1]
    return _drawn(lines, label(name)) if lines else None


def _drawn(lines: Sequence[tuple[Traced, Line]], name: str) -> go.Figure:
    figure = go.Figure()
    thin = THIN if len(lines) > MANY else 0
    for role, title in {"": "other runs", **{role: role for role in COLOURS}}.items():
        members = [(each, line) for each, line in lines if each.role == role]
        if not members:
            continue
        x: list[int | None] = []
        y: list[float | None] = []
        text: list[str] = []
        for each, line in members:
            shown = _thinned(line, thin) if not role and thin else line
            x += [*(tokens for tokens, _ in shown), None]
            y += [*(round(loss, 4) for _, loss in shown), None]
            text += [label(each.text)] * len(shown) + [""]
        figure.add_scatter(
            x=x,
            y=y,
            text=text,
            mode="lines",
            line={"width": 2 if role else 1, "color": COLOURS.get(role, FORESEEN)},
            opacity=1.0 if role else 0.7,
            name=title,
            hovertemplate="%{text}<br>%{x:,} tokens: %{y:.4f}<extra></extra>",
        )
    return quiet(
        figure,
        height=380,
        xaxis={
            "type": "log",
            "title": {"text": "training tokens"},
            "tickformat": "~s",
            "dtick": "D2",
        },
        yaxis={"title": {"text": f"{name}, nats per token"}, "showgrid": True},
    )


def _thinned(line: Line, most: int) -> Line:
    """So many points, the first and the last among them."""
    if len(line) <= most:
        return line
    step = (len(line) - 1) / (most - 1)
    return tuple(line[round(i * step)] for i in range(most))
