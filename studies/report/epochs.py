"""How often the target run would read each domain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna_mde_studies.runner import target
from optuna_mde_studies.wording import amount, listed

from optuna_mde.answers.tables import Table

if TYPE_CHECKING:
    from optuna_mde_studies.report.overview import Overview

    from optuna_mde.answers.answer import Recommendation

MANY = 4.0
"""Epochs from which repeated text is worth clearly less than fresh text (arXiv 2305.16264)."""


def table(overview: Overview, recommendation: Recommendation) -> Table | None:
    """Epochs of every domain under every row; None where the target or the sources are unknown."""
    tokens, sources = overview.target_tokens, overview.source_tokens
    if not tokens or not sources:
        return None
    rows = recommendation.rows
    by_row = [target.epochs(row.mixture, tokens, sources) for row in rows]
    return Table(
        (f"epochs of {amount(round(tokens))} tokens", "tokens held", *(row.name for row in rows)),
        tuple(
            (name, amount(held), *(f"{found[name]:.2f}" for found in by_row))
            for name, held in sources.items()
            if all(name in found for found in by_row)
        ),
    )


def warning(overview: Overview, recommendation: Recommendation) -> str:
    """What the recommended mixture would read often; nothing if nothing is."""
    tokens = overview.target_tokens
    if not tokens:
        return ""
    found = target.epochs(recommendation.mixture, tokens, overview.source_tokens)
    often = [f"{name} {times:.1f} times" for name, times in found.items() if times > MANY]
    if not often:
        return ""
    return (
        f"The target run would read {listed(often)}, and text that is read more than {MANY:.0f} "
        "times is worth less than the proxies say; target.max_epochs bounds the rates."
    )
