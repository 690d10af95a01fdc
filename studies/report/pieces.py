"""Pieces of HTML that sections are made of: tables, figures with their names, bars."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from optuna_mde_studies.wording import NONE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from optuna_mde.answers.tables import Table

CARDS_FROM = 5
"""Columns from which on a table becomes cards on a phone."""


def table(
    head: Sequence[str],
    lines: Iterable[Sequence[str]],
    *,
    text: int,
    first: bool = False,
    kind: str = "",
) -> str:
    """A table of ready HTML cells; columns from `text` on hold numbers, its class is `kind`.

    One that is too wide for a phone becomes cards there: its cells say of which column they are.
    """
    kind = kind or ("cards" if len(head) >= CARDS_FROM else "")
    kinds = ["" if i < text else ' class="n"' for i in range(len(head))]
    titles = "".join(f"<th{of}>{title}</th>" for title, of in zip(head, kinds, strict=True))
    if kind == "cards":
        kinds = [f'{of} data-column="{title}"' for title, of in zip(head, kinds, strict=True)]
    rows = []
    for i, line in enumerate(lines):
        cells = "".join(f"<td{of}>{cell}</td>" for cell, of in zip(line, kinds, strict=True))
        rows.append(f'<tr class="first">{cells}</tr>' if first and i == 0 else f"<tr>{cells}</tr>")
    opened = f'<table class="{kind}">' if kind else "<table>"
    return (
        f'<div class="scroll">{opened}<thead><tr>{titles}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def of_words(found: Table) -> str:
    """A table in words, of names and figures."""
    head, *lines = ([escape(cell) for cell in line] for line in (found.head, *found.lines))
    return table(head, lines, text=1)


def facts(named: Mapping[str, str]) -> str:
    """Figures, each below its name."""
    pairs = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in named.items()
    )
    return f'<dl class="facts">{pairs}</dl>'


def bar(mixture: Mapping[str, float], colours: Mapping[str, str]) -> str:
    """A mixture as a bar of colours."""
    stops, start = [], 0.0
    for domain, rate in mixture.items():
        if rate >= NONE and domain in colours:
            stops.append(f"{colours[domain]} {start:.1%} {start + rate:.1%}")
            start += rate
    if not stops:
        return ""
    return f'<div class="bar" style="background:linear-gradient(90deg,{",".join(stops)})"></div>'
