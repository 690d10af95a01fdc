"""Runs as tables hold them: rates joined with losses, checked and made one unit."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna_mde_studies.exchange.tables import (
    ExchangeError,
    Row,
    Table,
    number,
    several,
    shown,
)
from optuna_mde_studies.wording import count, listed

SUM_TOLERANCE = 0.02
"""Rates whose sum misses 1 by more were not meant as rates: RegMix's, of three digits, miss it by
up to .008."""
ROUNDED = 1e-6
"""Sums that miss 1 by less are left as they are, so that what was exported comes back."""

REGMIX_DOMAIN, REGMIX_SET = re.compile(r"train_(.+)"), re.compile(r"metric/(.+)_val_loss")
"""Names of RegMix's columns."""

DETAILS = ("tokens", "parameters", "budget", "phase", "logprobs", "objective", "limits", "beside")
"""Columns of runs.csv that are read; what they hold is in `docs/formats.md`."""


@dataclass(frozen=True)
class TableRun:
    """One run of the tables."""

    name: str
    mixture: dict[str, float]
    losses: dict[str, float]
    """Validation set -> nats per token; a set that was not scored is absent."""
    tokens: int | None = None
    parameters: int | None = None
    budget: float = 1.0
    phase: str | None = None
    logprobs: str | None = None
    """Path of its log-probabilities, below the folder that was named for them."""
    more_logprobs: tuple[str, ...] = ()
    """Of a study's run: URLs of files with sets that were scored later."""
    objective: str | None = None
    """JSON text of what it was judged by."""
    limits: dict[str, Any] = field(default_factory=dict)
    beside: dict[str, Any] = field(default_factory=dict)
    """Parameters beside the mixture: name -> [value, JSON text of its distribution]."""


@dataclass(frozen=True)
class TableRuns:
    """All runs of the tables."""

    domains: tuple[str, ...]
    sets: tuple[str, ...]
    runs: tuple[TableRun, ...]
    remarks: tuple[str, ...] = ()
    """What was made of the tables, for people."""


def joined(ratios: Table, metrics: Table, details: Table | None = None) -> TableRuns:
    """The runs that stand in both tables.

    Args:
        ratios: a column a domain: rates, percent or token counts.
        metrics: a column a validation set: losses.
        details: what else is known of the runs, as `export` writes it.

    Raises:
        ExchangeError: if a row holds no mixture or no losses, or the tables share no run.
    """
    remarks: list[str] = []
    common = [row for row in ratios.rows if row.run in metrics.by_run]
    if not common:
        raise ExchangeError(
            f"{ratios.path} and {metrics.path} have no run in common; their columns "
            f"{ratios.key!r} and {metrics.key!r} name the runs"
        )
    for table, other in ((ratios, metrics), (metrics, ratios)):
        alone = [row.run for row in table.rows if row.run not in other.by_run]
        if alone:
            some = listed(alone[:5]) if len(alone) <= 5 else f"{', '.join(alone[:5])} …"
            remarks.append(
                f"{count(len(alone), 'run')} of {table.path} left out, not in {other.path}: {some}"
            )
    domains = _figures(ratios, common, remarks)
    losses = [metrics.by_run[row.run] for row in common]
    sets = _figures(metrics, losses, remarks)
    if len(domains) < 2:
        raise ExchangeError(f"{ratios.path}: needs a column with rates for each of two domains")
    if not sets:
        raise ExchangeError(f"{metrics.path}: has no column with losses")
    mixtures = _mixtures(ratios, common, domains, remarks)
    scored = [_losses(metrics, row, sets) for row in losses]
    absent = sum(len(sets) - len(found) for found in scored)
    if absent:
        remarks.append(f"{metrics.path}: {count(absent, 'cell')} empty or NaN, and left out")
    rename = ratios.key == "index"
    shown_domains = _renamed(domains, REGMIX_DOMAIN) if rename else domains
    shown_sets = _renamed(sets, REGMIX_SET) if rename else sets
    if (shown_domains, shown_sets) != (domains, sets):
        remarks.append(f"names are taken as {shown_domains[0]}, … and {shown_sets[0]}, …")
    by_run = details.by_run if details is not None else {}
    runs = []
    for row, mixture, found in zip(common, mixtures, scored, strict=True):
        extra = _details(details, by_run[row.run]) if row.run in by_run and details else {}
        runs.append(
            TableRun(
                row.run,
                dict(zip(shown_domains, mixture, strict=True)),
                {n: found[s] for n, s in zip(shown_sets, sets, strict=True) if s in found},
                **extra,
            )
        )
    return TableRuns(tuple(shown_domains), tuple(shown_sets), tuple(runs), tuple(remarks))


def _figures(table: Table, rows: Sequence[Row], remarks: list[str]) -> tuple[str, ...]:
    """Columns with numbers; those of text alone are named and left out.

    Raises:
        ExchangeError: if a column holds both.
    """
    kept = []
    for name in table.columns:
        texts = [row for row in rows if number(row.cells[name]) is None]
        if not texts:
            kept.append(name)
        elif len(texts) == len(rows):
            remarks.append(f"{table.path}: the column {name!r} holds no numbers and is left out")
        else:
            row = texts[0]
            raise ExchangeError(
                f"{table.place(row)}: {name} = {shown(row.cells[name])} is no number"
            )
    return tuple(kept)


def _mixtures(
    table: Table, rows: Sequence[Row], domains: Sequence[str], remarks: list[str]
) -> list[list[float]]:
    """Rates of every run, which sum to 1."""
    values = [[_rate(table, row, name) for name in domains] for row in rows]
    sums = [math.fsum(parts) for parts in values]
    whole = all(part.is_integer() for parts in values for part in parts)
    for unit, total in (("rates", 1.0), ("percent", 100.0)):
        off = [i for i, found in enumerate(sums) if abs(found / total - 1) > SUM_TOLERANCE]
        if len(off) * 2 < len(rows) and not (off and whole):
            if off:
                raise ExchangeError(_off(table, rows, sums, off, unit, total))
            break
    else:
        empty = [i for i, found in enumerate(sums) if found <= 0]
        if not whole or empty:
            off = empty or [i for i, found in enumerate(sums) if abs(found - 1) > SUM_TOLERANCE]
            raise ExchangeError(_off(table, rows, sums, off, "rates", 1.0))
        unit = "token counts"
    missed = [i for i, found in enumerate(sums) if abs(found - 1) > ROUNDED]
    if unit != "rates":
        remarks.append(f"{table.path}: {unit} are taken as rates, divided by their sum")
    elif missed:
        worst = max(abs(sums[i] - 1) for i in missed)
        remarks.append(
            f"{table.path}: the rates of {count(len(missed), 'run')} miss 1 by up to {worst:.2g} "
            "and are divided by their sum"
        )
    return [
        parts if abs(total - 1) <= ROUNDED else _divided(parts)
        for parts, total in zip(values, sums, strict=True)
    ]


def _divided(parts: Sequence[float]) -> list[float]:
    """Parts by their sum, of which none is above 1 by rounding."""
    largest = max(parts)
    scaled = [part / largest for part in parts]  # token counts, of which no sum overflows any more
    total = math.fsum(scaled)
    return [part / total for part in scaled]


def _rate(table: Table, row: Row, name: str) -> float:
    value = number(row.cells[name])
    if value is None or not math.isfinite(value) or value < 0:
        raise ExchangeError(
            f"{table.place(row)}: {name} = {shown(row.cells[name])} is no rate; a domain that was "
            "not trained has the rate 0"
        )
    return value


def _off(
    table: Table,
    rows: Sequence[Row],
    sums: Sequence[float],
    off: Sequence[int],
    unit: str,
    total: float,
) -> str:
    found = [f"{table.place(rows[i])}: {unit} sum to {sums[i]:.6g}, not {total:g}" for i in off]
    return (
        f"{several(found)}\nA mixture is rates that sum to 1 within 2 %, percent to 100, or whole "
        "numbers of tokens, the same unit in all rows; is a domain's column missing?"
    )


def _losses(table: Table, row: Row, sets: Sequence[str]) -> dict[str, float]:
    values = {name: number(row.cells[name]) for name in sets}
    kept = {name: v for name, v in values.items() if v is not None and not math.isnan(v)}
    if not kept:
        raise ExchangeError(f"{table.place(row)}: has no loss at all; leave the run out")
    return kept


def _renamed(names: Sequence[str], pattern: re.Pattern[str]) -> tuple[str, ...]:
    """Names without what a tool puts around all of them."""
    found = [pattern.fullmatch(name) for name in names]
    bare = tuple(match[1] for match in found if match)
    return bare if len(set(bare)) == len(names) else tuple(names)


def _details(table: Table | None, row: Row) -> dict[str, Any]:
    """What runs.csv says of a run, as arguments of `TableRun`."""
    assert table is not None
    cells = {name: row.cells[name] for name in DETAILS if row.cells.get(name)}
    found: dict[str, Any] = {n: cells[n] for n in ("phase", "logprobs", "objective") if n in cells}
    for name in ("tokens", "parameters"):
        if name in cells:
            value = number(cells[name])
            if value is None or not value.is_integer() or value < 0:
                raise _wrong(table, row, name, "a whole number")
            found[name] = int(cells[name]) if cells[name].isdecimal() else int(value)
    if "budget" in cells:
        value = number(cells["budget"])
        if value is None or not 0 < value <= 1:
            raise _wrong(table, row, "budget", "the share of a full run, in (0, 1]")
        found["budget"] = value
    for name in ("limits", "beside"):
        if name in cells:
            try:
                found[name] = json.loads(cells[name])
            except ValueError:
                found[name] = None
            if not isinstance(found[name], dict):
                raise _wrong(table, row, name, "a JSON object")
    return found


def _wrong(table: Table, row: Row, name: str, what: str) -> ExchangeError:
    return ExchangeError(f"{table.place(row)}: {name} = {shown(row.cells[name])} is not {what}")
