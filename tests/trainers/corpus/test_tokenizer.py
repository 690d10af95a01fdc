from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from optuna_mde_trainers.corpus.documents import CorpusError
from optuna_mde_trainers.corpus.tokenizer import (
    END_OF_TEXT,
    TokenizerConfig,
    build,
    fingerprint,
    train_bpe,
    vocabulary_size,
)
from pydantic import ValidationError

TEXTS = [f"the number {i} follows the number {i - 1}\n" for i in range(300)]
UNUSUAL = "naïve 数学 🙂\tx\r\n\x00\x7f <|endoftext|>"


def test_a_byte_tokenizer_gives_the_bytes() -> None:
    tokenizer = build(TokenizerConfig(type="bytes"), [])
    tokenizer.encode_special_tokens = True
    assert tokenizer.encode(UNUSUAL).ids == list(UNUSUAL.encode())
    everything = "".join(map(chr, range(0x800))) + "".join(map(chr, range(0x1F600, 0x1F640)))
    ids = tokenizer.encode(everything).ids
    assert bytes(ids) == everything.encode()
    assert tokenizer.decode(ids) == everything
    assert tokenizer.token_to_id(END_OF_TEXT) == 256
    assert vocabulary_size(tokenizer) == 257


def test_bpe_is_lossless_has_the_size_asked_for_and_is_shorter_than_bytes() -> None:
    tokenizer = build(TokenizerConfig(vocab_size=300), TEXTS)
    assert vocabulary_size(tokenizer) == 300
    ids = tokenizer.encode(TEXTS[7]).ids
    assert len(ids) < 0.6 * len(TEXTS[7])
    tokenizer.encode_special_tokens = True
    assert tokenizer.decode(tokenizer.encode(UNUSUAL).ids) == UNUSUAL


def test_little_text_gives_a_smaller_vocabulary() -> None:
    assert vocabulary_size(train_bpe(["abab"], 1024, END_OF_TEXT)) < 300


def test_training_gives_the_same_tokenizer_in_another_process() -> None:
    code = (
        "from optuna_mde_trainers.corpus.tokenizer import *\n"
        "texts = [f'the number {i} follows the number {i - 1}\\n' for i in range(300)]\n"
        "print(fingerprint(train_bpe(texts, 400, END_OF_TEXT)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == fingerprint(train_bpe(TEXTS, 400, END_OF_TEXT))
    assert done.stdout.strip() != fingerprint(train_bpe(TEXTS, 401, END_OF_TEXT))


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_existing_tokenizer_is_taken_as_it_is(kind: str, tmp_path: Path) -> None:
    tokenizer = train_bpe(TEXTS, 300, "</s>")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    path = tmp_path if kind == "folder" else tmp_path / "tokenizer.json"
    config = TokenizerConfig(type="pretrained", path=str(path), end_of_text="</s>")
    assert fingerprint(build(config, [])) == fingerprint(tokenizer)


def test_a_folder_written_by_transformers_is_a_tokenizer(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = train_bpe(TEXTS, 300, END_OF_TEXT)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path)
    found = build(TokenizerConfig(type="pretrained", path=str(tmp_path)), [])
    assert found.encode(TEXTS[3]).ids == tokenizer.encode(TEXTS[3]).ids


def test_the_end_of_text_must_be_a_token(tmp_path: Path) -> None:
    train_bpe(TEXTS, 300, "</s>").save(str(tmp_path / "tokenizer.json"))
    config = TokenizerConfig(type="pretrained", path=str(tmp_path))
    with pytest.raises(CorpusError, match=r"end_of_text: .* its special tokens are '</s>'"):
        build(config, [])


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CorpusError, match=r"tokenizer\.path: .*tokenizer\.json"):
        build(TokenizerConfig(type="pretrained", path=str(tmp_path)), [])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"type": "pretrained"}, "needs a path"),
        ({"type": "bpe", "path": "x"}, "path goes with type 'pretrained'"),
        ({"type": "words"}, "'bpe', 'bytes' or 'pretrained'"),
        ({"vocab_size": 100}, "greater than or equal to 257"),
    ],
)
def test_a_wrong_configuration_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TokenizerConfig.model_validate(fields)
