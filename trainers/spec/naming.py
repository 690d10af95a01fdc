"""The name of a run's folder: a hash of what its training differs in from a fixed reference.

    canonical form   {"form": 2, and every field that is not as in `REFERENCE`}, as JSON with
                     sorted keys and without spaces; rates of 0 are left out
    name             its BLAKE2b, 8 bytes

So a release that adds a field, with a default under which runs are what they were before, renames
no finished run; nor does one that changes a default, as long as `REFERENCE` stays.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

FORM = 2  # raise it when the same training must get another name

# What fields stand for when the canonical form is silent about them. Entries are never changed; a
# new field gets the value under which a run is what it was before there was the field.
REFERENCE: dict[str, Any] = {
    "model.vocab_size": None,
    "model.hidden_size": 96,
    "model.intermediate_size": 256,
    "model.num_hidden_layers": 2,
    "model.num_attention_heads": 4,
    "model.num_key_value_heads": None,
    "model.rope_theta": 10_000.0,
    "model.rms_norm_eps": 1e-6,
    "model.tie_word_embeddings": True,
    "optimizer.lr": 1.2e-2,
    "optimizer.betas": (0.9, 0.95),
    "optimizer.eps": 1e-8,
    "optimizer.weight_decay": 0.1,
    "optimizer.lr_scheduler_type": "linear",
    "optimizer.warmup_ratio": 0.2,
    "optimizer.warmup_steps": None,
    "micro_batch_size": None,
    "seed": 0,
    "precision": "32-true",
    "gradient_clip_val": 1.0,
}

# Release 0.1.0 hashed all of its fields, defaults included: these.
FIRST_RELEASE = ("mixture", "corpus", "tokenizer", "max_steps", "global_batch_size", *REFERENCE)

REFERENCE |= {  # of later releases
    "model.preset": None,
    "model.pretrained_config": None,
    "optimizer.base_width": None,
    "optimizer.decay_ratio": 0.2,
    "mask_documents": False,
}


def name(training: BaseModel) -> str:
    """Name of the folder of a run's training part (`TrainingSpec`)."""
    return _hash({"form": FORM, **_nested(_differences(training))})


def first_release_name(training: BaseModel) -> str | None:
    """The name that release 0.1.0 gave; None if it had no such run."""
    values = {path: value for path, value, _ in _leaves(training)}
    if not set(_differences(training)) <= set(FIRST_RELEASE) <= set(values):
        return None
    return _hash(_nested({path: values[path] for path in FIRST_RELEASE}))


def unknown_fields(group: BaseModel) -> list[str]:
    """Paths of fields that a newer version wrote and that mean nothing to this one."""
    return [path for path, _, field in _leaves(group) if field is None]


def _differences(training: BaseModel) -> dict[str, Any]:
    """Path -> value of every field that the reference, else the field's default, does not say."""
    found = {}
    for path, value, field in _leaves(training):
        default = PydanticUndefined if field is None else field.default
        if value != REFERENCE.get(path, default):
            found[path] = value
    return found


def _leaves(group: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any, FieldInfo | None]]:
    """Dotted path and value of every field, those of nested groups in their place.

    A domain at rate 0 and one that is not named are the same training.
    """
    fields = type(group).model_fields
    for key in (*fields, *(group.model_extra or {})):
        path, value = f"{prefix}{key}", getattr(group, key)
        if isinstance(value, BaseModel):
            yield from _leaves(value, f"{path}.")
        else:
            if path == "mixture":
                value = {name: rate for name, rate in value.items() if rate}
            yield path, value, fields.get(key)


def _nested(leaves: dict[str, Any]) -> dict[str, Any]:
    """`{"a.b": 1}` as `{"a": {"b": 1}}`."""
    tree: dict[str, Any] = {}
    for path, value in leaves.items():
        *groups, key = path.split(".")
        place = tree
        for group in groups:
            place = place.setdefault(group, {})
        place[key] = value
    return tree


def _hash(content: dict[str, Any]) -> str:
    plain = to_jsonable_python(content)
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
