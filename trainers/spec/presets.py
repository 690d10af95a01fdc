"""Sizes of our decoder by name, and the rule that makes one learning rate serve them all.

Parameters count the embedding once (it is tied) in a vocabulary of 50,304 tokens, that of 1M in
one of 1,024. The names above 1M are the sizes of the proxies in arXiv 2502.15950; widths and
depths are ours. `lr` of the matrices is the peak rate that a preset trains them with at the
default `optimizer.lr`: `training.optimizer` says the rule.

    name   width  layers  heads  SwiGLU   parameters   lr of the matrices
    1M       128       4      4     352          0.9M      9.0e-3
    70M      640       8     10    1664         70.9M      1.8e-3
    150M     768      16     12    2048        151.9M      1.5e-3
    280M    1024      18     16    2752        279.2M      1.1e-3
    510M    1280      22     20    3520        506.0M      9.0e-4
    1B      2048      18     16    5504       1013.8M      5.6e-4
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
