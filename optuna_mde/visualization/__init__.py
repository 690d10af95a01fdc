"""Plotly figures of any study with mixtures, beside those of `optuna.visualization`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna_mde.visualization.plots import (
        plot_effects,
        plot_front,
        plot_mixtures,
        plot_predicted,
        plot_ternary,
    )

__all__ = ["plot_effects", "plot_front", "plot_mixtures", "plot_predicted", "plot_ternary"]


def __getattr__(name: str) -> Any:
    """Import the plots when one is first used: the colours alone need no model."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.plots"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
