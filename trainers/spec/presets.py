"""Sizes of our decoder by name, and the rule that makes one learning rate serve them all.

The names above 1M are the sizes of the proxies in arXiv 2502.15950; widths and depths are ours.
docs/definition.md has their parameters and peak rates, `training.optimizer` the rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

PresetName = Literal["1M", "70M", "150M", "280M", "510M", "1B"]

# Width at which the default rate of the optimizer was found: that of the default decoder.
BASE_WIDTH = 96


def _shape(width: int, layers: int, heads: int, swiglu: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": swiglu,
    }


PRESETS: dict[str, dict[str, int]] = {
    "1M": _shape(128, 4, 4, 352),
    "70M": _shape(640, 8, 10, 1664),
    "150M": _shape(768, 16, 12, 2048),
    "280M": _shape(1024, 18, 16, 2752),
    "510M": _shape(1280, 22, 20, 3520),
    "1B": _shape(2048, 18, 16, 5504),
}


def with_shape(model: Any) -> Any:
    """Fields of a model with those of its preset in the place of the preset's name.

    What is written beside it counts before the preset.
    """
    if isinstance(model, Mapping) and (shape := PRESETS.get(str(model.get("preset")))):
        return {**shape, **{key: value for key, value in model.items() if key != "preset"}}
    return model


def with_base_width(settings: Any) -> Any:
    """Settings whose model has a preset, with the learning rate scaled by width unless they say
    otherwise."""
    if not isinstance(settings, Mapping):
        return settings
    model, optimizer = settings.get("model"), settings.get("optimizer") or {}
    if not isinstance(model, Mapping) or model.get("preset") is None:
        return settings
    if not isinstance(optimizer, Mapping) or "base_width" in optimizer:
        return settings
    return {**settings, "optimizer": {**optimizer, "base_width": BASE_WIDTH}}
