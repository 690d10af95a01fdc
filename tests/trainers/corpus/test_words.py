"""Encoding by units gives, token by token, what `tokenizers` gives."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from optuna_mde_trainers.corpus import encoding, words
from optuna_mde_trainers.corpus.encoding import Encoder
from optuna_mde_trainers.corpus.tokenizer import END_OF_TEXT, byte_tokenizer
from optuna_mde_trainers.corpus.words import SPACE_UNITS, SPLITS, units_of
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

CODE = Path(json.__file__).read_text()
# Signs on which definitions of white space, letters and digits differ, and pieces of words.
PIECES = [
    *" \t\n\r\v\f\x1c\x1f\x85\xa0\u2003\u2028\u3000\u200b\ufeff",
    *["  ", "\n\n", "\r\n", " \n", "\n ", "   \n\t", "22", "'s", "'LL", " 'd", "don't", "));"],
    *"aZéß語😀1²Ⅷ_-.!(\0",
    *["e\u0301", "<|endoftext|>"],
]  # fmt: skip


def strange(seed: int, length: int = 60) -> str:
    draw = random.Random(seed)
    return "".join(draw.choices(PIECES, k=length))


def tokenizer_of(kind: str) -> Tokenizer:
    """A tokenizer trained behind its own pattern, so that its merges reach as far as that does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if kind != "gpt2":
        split = pre_tokenizers.Split(Regex(sorted(SPLITS)[int(kind)]), "isolated")
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    trainer = trainers.BpeTrainer(
        vocab_size=6_000,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = [CODE, *(strange(seed, 400) for seed in range(-200, 0))]
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


@pytest.mark.parametrize("kind", ["gpt2", "0", "1"])
def test_tokens_are_those_of_the_tokenizer(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words, "MAX_UNITS", 3_000)  # the cache begins anew now and then
    tokenizer = tokenizer_of(kind)
    units = units_of(tokenizer)
    assert units is not None
    assert (units is SPACE_UNITS) == (kind != "gpt2")
    file = tmp_path / "tokenizer.json"
    tokenizer.save(str(file))
    encoder = Encoder(str(file))
    tokenizer.encode_special_tokens = True
    texts = [strange(seed) for seed in range(3_000)] + ["", " ", CODE, "word " * 50]
    for start in range(0, len(texts), 500):
        part = texts[start : start + 500]
        ids, counts = encoder.encode(part)
        expected = [e.ids for e in tokenizer.encode_batch(part, add_special_tokens=False)]
        assert counts.tolist() == [len(found) for found in expected]
        assert ids.tolist() == [token for found in expected for token in found]


def test_units_are_a_text_in_pieces() -> None:
    for seed in range(200):
        for units in (words.GPT2_UNITS, words.SPACE_UNITS):
            text = strange(seed)
            assert "".join(units.findall(text)) == text


def test_other_tokenizers_are_left_to_themselves() -> None:
    plain = tokenizer_of("gpt2")
    assert units_of(byte_tokenizer(END_OF_TEXT)) is None  # no pattern at all
    for change in (
        {"normalizer": {"type": "NFC"}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {
            "pre_tokenizer": {
                **json.loads(plain.to_str())["pre_tokenizer"],
                "add_prefix_space": True,
            }
        },
    ):
        held = {**json.loads(plain.to_str()), **change}
        assert units_of(Tokenizer.from_str(json.dumps(held))) is None
    plain.add_tokens(["hello world"])  # ordinary text that is one token
    assert units_of(plain) is None


def test_a_long_text_is_encoded_in_pieces_as_if_it_were_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tokenizer_of("gpt2")
    tokenizer.save(str(tmp_path / "t.json"))
    whole, _ = Encoder(str(tmp_path / "t.json")).encode([CODE])
    monkeypatch.setattr(encoding, "PIECE", 3_000)
    pieces, counts = Encoder(str(tmp_path / "t.json")).encode(["a b", CODE, ""])
    assert pieces[2:].tolist() == whole.tolist()
    assert counts.tolist() == [2, len(whole), 0]


def test_ids_are_as_narrow_as_the_vocabulary() -> None:
    assert encoding.token_dtype(2**16) == np.uint16
    assert encoding.token_dtype(2**16 + 1) == np.uint32
