"""A recommendation as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna_mde.recommendation import Recommendation
    from optuna_mde.rows import Row

MIXTURE_WIDTH = 60  # characters of rates in a row; the recommended ones are listed in full


HEADINGS = ("mixture", "predicted", "90 % interval", "observed", "trial", "rates")


def recommendation_text(recommendation: Recommendation) -> str:
    """The table that ``print(recommend(study))`` shows."""
    head = "Recommended: " + _rates(recommendation.mixture)
    if recommendation.params:
        head += "; " + ", ".join(
            f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}"
            for k, v in recommendation.params.items()
        )
    cells: list[tuple[str, ...]] = [
        ("mixture", "predicted", "90 % interval", "observed", "trial", "rates")
    ]
    cells += [_cells(row) for row in (*recommendation.rows, *recommendation.pareto)]
    lines = [head, "", *_aligned(cells), ""]
    lines.append(f"Trust: {recommendation.trust}.")
    lines.append(
        f"One more run is expected to gain {recommendation.expected_gain:.4f} "
        f"(noise of a single run: {recommendation.noise_sd:.4f})."
    )
    return "\n".join([*lines, *recommendation.notes])


def _cells(row: Row) -> tuple[str, ...]:
    interval = row.objective
    return (
        row.name,
        f"{interval.mean:.4f}",
        f"{interval.low:.4f} … {interval.high:.4f}",
        "" if row.observed is None else f"{row.observed:.4f}",
        "" if row.trial is None else str(row.trial),
        _short(_rates(row.mixture)),
    )


def _rates(mixture: dict[str, float]) -> str:
    parts = sorted(mixture.items(), key=lambda item: -item[1])
    return ", ".join(f"{domain} {rate:.3f}" for domain, rate in parts if rate > 0)


def _short(text: str) -> str:
    return text if len(text) <= MIXTURE_WIDTH else text[: MIXTURE_WIDTH - 1] + "…"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    numeric = (False, True, True, True, True, False)
    return [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in rows
    ]
