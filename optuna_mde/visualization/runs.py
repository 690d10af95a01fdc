"""Runs as figures mark them: by what chose their mixture, with what was observed and predicted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from optuna_mde.visualization.palette import MUTED, label

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Run:
    """What a figure says of one trial."""

    number: int
    phase: str
    """What chose the mixture: expert, natural, uniform, design, model, … ("": nobody says)."""
    mixture: dict[str, float]
    """Domain -> rate, as trained; empty where no valid mixture is known."""
    values: tuple[float, ...]
    """Objective values; empty unless complete."""
    predicted: tuple[float, float] | None
    """Mean and sd of the objective, predicted before the run was started."""


SomeRun = TypeVar("SomeRun", bound=Run)


class Marker(NamedTuple):
    """How the runs that one rule has chosen are drawn."""

    title: str
    symbol: str
    colour: str


PROPOSALS = Marker("proposals", "circle", "#4477aa")
NATURAL = Marker("natural", "diamond", "#228833")
MARKERS = {
    "expert": Marker("experts", "triangle-up", "#ccbb44"),
    "natural": NATURAL,
    "uniform": Marker("uniform", "square", "#66ccee"),
    "design": Marker("space-filling", "cross", "#999933"),
    "model": PROPOSALS,
    "prior": PROPOSALS,
    "mde": PROPOSALS,
}
"""By phase; the last three are the surrogate's proposals, the two without a fit among them."""
OTHERS = Marker("others", "circle", MUTED)


def by_marker(runs: Sequence[SomeRun]) -> dict[Marker, list[SomeRun]]:
    """The runs of every marker that has any, in the order of the legend."""
    groups: dict[Marker, list[SomeRun]] = {style: [] for style in [*MARKERS.values(), OTHERS]}
    for run in runs:
        groups[MARKERS.get(run.phase, OTHERS)].append(run)
    return {style: members for style, members in groups.items() if members}


def hover(run: Run, value: float) -> str:
    """What a run says when one points at it: ``value`` is what was observed."""
    lines = [f"trial {run.number}" + (f", {label(run.phase)}" if run.phase else "")]
    lines.append(f"observed {value:.4f}")
    if run.predicted:
        lines.append(f"predicted {run.predicted[0]:.4f} ± {run.predicted[1]:.4f}")
    largest = sorted(run.mixture.items(), key=lambda item: -item[1])[:6]
    lines += [f"{label(domain)} {rate:.1%}" for domain, rate in largest if rate > 0]
    return "<br>".join(lines)
