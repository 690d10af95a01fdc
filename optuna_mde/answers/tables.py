"""Rows of a recommendation as aligned text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optuna_mde.answers.rows import Row

MIXTURE_WIDTH = 60  # characters of rates in a row; the recommended ones are listed in full

HEADINGS = ("mixture", "predicted", "90 % interval", "observed", "trial", "rates")


def table_of(rows: Sequence[Row], goals: Sequence[str] = ()) -> list[str]:
    """Lines of a table, headings first; several ``goals`` have two columns each."""
    if not goals:
        return _aligned([HEADINGS, *(_cells(row) for row in rows)])
    pairs = [column for goal in goals for column in (goal, "observed")]
    return _aligned([("mixture", *pairs, "trial", "rates"), *(_cells(row) for row in rows)])


def rates_text(mixture: Mapping[str, float]) -> str:
    """Rates above 0, the largest first."""
    parts = sorted(mixture.items(), key=lambda item: -item[1])
    return ", ".join(f"{domain} {rate:.3f}" for domain, rate in parts if rate > 0)


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
    trial = "" if row.trial is None else str(row.trial)
    return (label(row), *figures, trial, _short(rates_text(row.mixture)))


def label(row: Row) -> str:
    """The row's name, marked where it breaks a limit."""
    return f"{row.name} (breaks {', '.join(row.breaks)})" if row.breaks else row.name


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


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
