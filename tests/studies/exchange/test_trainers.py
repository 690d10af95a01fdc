"""Mixtures in the forms of other trainers, read as these read them."""

from __future__ import annotations

import ast

import pytest
import yaml
from optuna_mde_studies.exchange.trainers import FORMS, rendered

MIXTURE = {"web": 1 / 3, "code: C++": 2 / 3 - 1e-5, "no": 1e-5, "books": 0.0, "naïve\n#": 0.0}
KEPT = {"web": 0.333333, "code: C++": 0.666657, "no": 0.00001}


def megatron(text: str) -> dict[str, float]:
    """As `get_blend_from_list` of Megatron-LM: weights and prefixes in turn."""
    words = text.split()
    return dict(zip(words[1::2], map(float, words[::2]), strict=True))


def test_yaml_holds_every_domain():
    assert yaml.safe_load(rendered("yaml", MIXTURE)) == {**KEPT, "books": 0, "naïve\n#": 0}


def test_trainers_read_their_forms():
    found = megatron(rendered("megatron", {"web": 1 / 3, "code": 2 / 3 - 1e-5, "no": 1e-5}))
    assert found == {"web": 0.333333, "code": 0.666657, "no": 0.00001}
    streams = yaml.safe_load(rendered("mosaicml", MIXTURE))["streams"]
    assert {name: stream["proportion"] for name, stream in streams.items()} == KEPT
    mix = yaml.safe_load(rendered("olmix", MIXTURE))["mix"]
    assert {name: entry["weight"] for name, entry in mix.items()} == KEPT
    assert all(entry["repetition_factor"] == 1 for entry in mix.values())
    parsed = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(rendered("litgpt", MIXTURE)).body
    }
    assert dict(zip(parsed["domains"], parsed["weights"], strict=True)) == KEPT


def test_weights_have_no_exponent():
    assert rendered("megatron", {"a": 1 - 1e-5, "b": 1e-5}) == "0.99999 a\n0.00001 b\n"


@pytest.mark.parametrize("form", FORMS)
def test_one_domain_alone(form: str):
    assert "1" in rendered(form, {"web": 1.0, "code": 0.0})


def test_a_name_with_a_space_is_two_for_megatron():
    with pytest.raises(ValueError, match="'C code' has a space"):
        rendered("megatron", {"web": 0.5, "C code": 0.5})
