"""Rows of a recommendation as tables: the cells that text, terminal, page and dashboard show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from optuna_mde.answers.bounds import Bound
from optuna_mde.answers.rows import Row

MIXTURE_WIDTH = 60  # characters of rates in a row; the recommended ones are listed in full
NONE = 5e-4  # rates below this round to nothing in percent with a decimal


@dataclass(frozen=True)
class Table:
    """Cells in words; the first column holds names, the others figures."""

    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


def comparison(rows: Sequence[Row], goals: Sequence[str] = ()) -> Table:
    """A line a row: predicted and observed. Several ``goals`` have two columns each."""
    columns: tuple[str, ...] = ("predicted", "90 % interval", "observed")
    if goals:
        columns = tuple(column for goal in goals for column in (goal, "observed"))
    return Table(("mixture", *columns, "trial"), tuple(map(_cells, rows)))


def by_goal(rows: Sequence[Row], goals: Sequence[str] = ()) -> dict[str, Table]:
    """Goal -> a line a row, predicted and observed: tables that are narrow however many goals
    there are. Of a single goal the name is empty."""
    if not goals:
        return {"": comparison(rows)}
    ones = {
        goal: [replace(row, objective=row.goals[g], observed=row.observed_goals[g], goals=())
               for row in rows]
        for g, goal in enumerate(goals)
    }  # fmt: skip
    return {goal: comparison(each) for goal, each in ones.items()}


def rates(rows: Sequence[Row]) -> Table:
    """A line a domain: its rate in every row, in percent."""
    domains = rows[0].mixture if rows else ()
    lines = ((name, *(_percent(row.mixture.get(name, 0.0)) for row in rows)) for name in domains)
    return Table(("%", *(row.name for row in rows)), tuple(lines))


def text_of(rows: Sequence[Row], goals: Sequence[str] = ()) -> list[str]:
    """Lines of the comparison as aligned text, headings first, with the rates of every row."""
    table = comparison(rows, goals)
    ends = ["rates", *(_short(rates_text(row.mixture)) for row in rows)]
    return _aligned(
        [(*line, end) for line, end in zip((table.head, *table.lines), ends, strict=True)]
    )


def rates_text(mixture: Mapping[str, float]) -> str:
    """Rates that three decimals show, the largest first."""
    parts = sorted(mixture.items(), key=lambda item: -item[1])
    return ", ".join(f"{domain} {rate:.3f}" for domain, rate in parts if rate >= NONE)


def label(row: Row) -> str:
    """The row's name; an expert says of what, a row that breaks a limit or a bound says so."""
    of = next((domain for domain, rate in row.mixture.items() if rate == 1.0), None)
    name = f"{row.name} ({of})" if of and row.name == "best expert" else row.name
    marks = ["within bounds"] if row.moved else []
    marks += ["forbidden"] if row.forbidden else []
    marks += [f"breaks {', '.join(row.breaks)}"] if row.breaks else []
    return f"{name} ({'; '.join(marks)})" if marks else name


def held_by(bounds: Sequence[Bound]) -> str:
    """What holds a mixture, and what it is worth to loosen that: "web at its floor 0.2; forum at
    its cap 0.05 (0.1 would gain 0.0130 ± 0.0040); the limit code ≤ 2.9 (to drop it would …)"."""
    return "; ".join(map(_held, bounds))


def _held(bound: Bound) -> str:
    text = {
        "constraint": f"the constraint {bound.domain}",
        "limit": f"the limit {bound.domain} ≤ {bound.at:g}",
    }.get(bound.side, f"{bound.domain} at its {bound.side} {bound.at:.3g}")
    if bound.gain is None or bound.sd is None:
        return text
    other = "to drop it" if bound.to is None else f"{bound.to:.3g}"
    if bound.gain <= bound.sd:
        return f"{text} ({other} would gain nothing that is sure)"
    return f"{text} ({other} would gain {bound.gain:.4f} ± {bound.sd:.4f})"


def _cells(row: Row) -> tuple[str, ...]:
    interval = row.objective
    figures = [
        f"{interval.mean:.4f}",
        f"{interval.low:.4f} … {interval.high:.4f}",
        _number(row.observed),
    ]
    if row.goals:
        pairs = zip(row.goals, row.observed_goals, strict=True)
        figures = [cell for goal, seen in pairs for cell in (str(goal), _number(seen))]
    return (label(row), *figures, "" if row.trial is None else str(row.trial))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _percent(rate: float) -> str:
    return "0" if rate < NONE else f"{100 * rate:.1f}"


def _short(text: str) -> str:
    return text if len(text) <= MIXTURE_WIDTH else text[: MIXTURE_WIDTH - 1] + "…"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    numeric = (False, *[True] * (len(rows[0]) - 2), False)
    return [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in rows
    ]
