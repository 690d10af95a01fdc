"""Data mixtures for language-model pre-training, searched with Optuna."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna_mde.additions import add_losses, get_losses, set_objective
    from optuna_mde.domains import revise_domains
    from optuna_mde.losses import exclude_trials, report_losses
    from optuna_mde.mde.logprobs import save_logprobs
    from optuna_mde.mixture import Mixture, suggest_mixture
    from optuna_mde.prediction import predict
    from optuna_mde.recommendation import recommend
    from optuna_mde.sampler import MDESampler
    from optuna_mde.termination import ExpectedGainEvaluator, NoiseEvaluator

__all__ = [
    "ExpectedGainEvaluator",
    "MDESampler",
    "Mixture",
    "NoiseEvaluator",
    "add_losses",
    "exclude_trials",
    "get_losses",
    "predict",
    "recommend",
    "report_losses",
    "revise_domains",
    "save_logprobs",
    "set_objective",
    "suggest_mixture",
]

try:
    __version__ = version("optuna-mde")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0.0.0"

_ROOMS = {
    "ExpectedGainEvaluator": "termination",
    "MDESampler": "sampler",
    "Mixture": "mixture",
    "NoiseEvaluator": "termination",
    "add_losses": "additions",
    "exclude_trials": "losses",
    "get_losses": "additions",
    "predict": "prediction",
    "recommend": "recommendation",
    "report_losses": "losses",
    "revise_domains": "domains",
    "save_logprobs": "mde.logprobs",
    "set_objective": "additions",
    "suggest_mixture": "mixture",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import optuna_mde` stays light."""
    if name == "visualization":
        return importlib.import_module(f"{__name__}.visualization")
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_ROOMS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
