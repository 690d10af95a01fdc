from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from optuna_mde_trainers.corpus import blocks
from optuna_mde_trainers.corpus.blocks import (
    Corpus,
    DomainInfo,
    SetInfo,
    blocks_fingerprint,
    encode_train,
    encode_validation,
    pack,
    write_blocks,
    write_corpus,
)
from optuna_mde_trainers.corpus.documents import CorpusError
from optuna_mde_trainers.corpus.tokenizer import END_OF_TEXT, byte_tokenizer, train_bpe

END = 256


@pytest.mark.parametrize("length", [0, 1, 4, 5, 6, 20, 21, 22, 24])
@pytest.mark.parametrize("block_size", [1, 4, 5])
def test_blocks_predict_every_token_once(length: int, block_size: int) -> None:
    stream = np.arange(length, dtype=np.uint16)
    packed = pack(stream, block_size)
    number = max(0, (length - 1) // block_size)
    assert packed.shape == (number, block_size + 1)
    assert packed.dtype == np.uint16
    for i, block in enumerate(packed):
        assert block.tolist() == stream[i * block_size : (i + 1) * block_size + 1].tolist()
    assert packed[:, 1:].reshape(-1).tolist() == list(range(1, number * block_size + 1))


def test_a_stream_is_documents_with_ends_of_text_around_them() -> None:
    stream = encode_train(byte_tokenizer(END_OF_TEXT), ["ab", "", "ä"], END)
    assert stream.tolist() == [END, *b"ab", END, END, *"ä".encode(), END]
    assert stream.dtype == np.uint16


def test_a_text_cannot_end_itself() -> None:
    tokenizer = train_bpe([f"say {END_OF_TEXT} now"] * 9, 300, END_OF_TEXT)
    end = tokenizer.token_to_id(END_OF_TEXT)
    text = f"say {END_OF_TEXT} now"
    assert encode_train(tokenizer, [text], end).tolist().count(end) == 2
    assert encode_validation(tokenizer, [text], end, 1_000)[0].tolist().count(end) == 2


@pytest.mark.parametrize("num_tokens", range(1, 16))
def test_validation_bytes_are_those_of_the_scored_tokens(num_tokens: int) -> None:
    texts = ["abc", "déf", "ghijkl"]  # 3 + 1 + 4 + 1 + 6 + 1 bytes and ends
    stream, size = encode_validation(byte_tokenizer(END_OF_TEXT), texts, END, num_tokens)
    whole = [*b"abc", END, *"déf".encode(), END, *b"ghijkl", END]
    assert stream.tolist() == [END, *whole[:num_tokens]]
    # a token that ends within a character counts as the whole character
    exact = sum(token != END for token in whole[:num_tokens])
    assert size == exact + (num_tokens == 6)


def test_validation_bytes_with_merged_tokens() -> None:
    texts = [f"the number {i} follows {i - 1}: ∑ € " for i in range(50)]
    tokenizer = train_bpe(texts, 400, END_OF_TEXT)
    end = tokenizer.token_to_id(END_OF_TEXT)
    for num_tokens in (37, 111, 112, 113):
        stream, size = encode_validation(tokenizer, iter(texts), end, num_tokens)
        assert len(stream) == num_tokens + 1
        text = tokenizer.decode(stream.tolist(), skip_special_tokens=True)
        assert size - 3 <= len(text.encode()) <= size + 3


def test_validation_text_that_is_too_short_gives_what_there_is() -> None:
    stream, size = encode_validation(byte_tokenizer(END_OF_TEXT), ["abc"], END, 100)
    assert (len(stream), size) == (5, 3)


def test_validation_reads_no_more_texts_than_it_needs() -> None:
    def texts() -> object:
        yield from ["a" * 50] * 9
        raise AssertionError("read too far")

    stream, size = encode_validation(byte_tokenizer(END_OF_TEXT), texts(), END, 100)  # type: ignore[arg-type]
    assert (len(stream), size) == (101, 99)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    tokenizer = byte_tokenizer(END_OF_TEXT)
    tokenizer.save(str(tmp_path / blocks.TOKENIZER_FILE))
    packed = pack(np.arange(201, dtype=np.uint16), 8)
    write_blocks(packed, tmp_path, blocks.TRAIN, "a/b")
    write_blocks(packed[:3], tmp_path, blocks.VALIDATION, "größe")
    made = Corpus(
        folder=tmp_path,
        fingerprint="f",
        tokenizer_fingerprint="t",
        vocab_size=257,
        block_size=8,
        domains={"a/b": DomainInfo("a/b", 200, 300, 25, 1.0, "x")},
        sets={"größe": SetInfo("größe", None, 24, 30, 3, "y")},
        dropped={"c": "0.1 MB"},
        source="s",
        made_from={"scipy (docs)": "1.0"},
    )
    write_corpus(made)
    return made


def test_a_corpus_is_read_as_it_was_written(corpus: Corpus) -> None:
    assert Corpus.load(corpus.folder) == corpus
    assert Corpus.load(str(corpus.folder)).natural == {"a/b": 1.0}
    assert corpus.tokenizer().encode("hi").ids == [*b"hi"]


def test_blocks_are_read_in_lists_as_int64(corpus: Corpus) -> None:
    train = corpus.train_blocks("a/b")
    assert len(train) == 25
    rows = train[[24, 0, 3]]["input_ids"]
    assert rows.dtype == torch.int64
    assert rows.tolist() == [list(range(8 * i, 8 * i + 9)) for i in (24, 0, 3)]
    assert len(corpus.validation_blocks("größe")) == 3


@pytest.mark.parametrize(("largest", "dtype"), [(2**16 - 1, "uint16"), (2**16, "uint32")])
def test_large_ids_survive_the_disk(largest: int, dtype: str, corpus: Corpus) -> None:
    packed = np.array([[0, 1, largest]], dtype=dtype)
    write_blocks(packed, corpus.folder, blocks.TRAIN, "large")
    wider = replace(corpus, domains={"large": DomainInfo("large", 2, 3, 1, 1.0, "x")})
    dataset = wider.train_blocks("large")
    assert str(dataset.features["input_ids"].feature.dtype) == dtype
    assert dataset[[0]]["input_ids"].tolist() == [[0, 1, largest]]


def test_unknown_names_are_refused_with_the_known_ones(corpus: Corpus) -> None:
    with pytest.raises(CorpusError, match="no train blocks of 'c'; it has a/b"):
        corpus.train_blocks("c")
    with pytest.raises(CorpusError, match="no validation blocks of 'a/b'; it has größe"):
        corpus.validation_blocks("a/b")


def test_a_folder_that_is_no_corpus_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="holds no finished corpus"):
        Corpus.load(tmp_path / "nowhere")
    file = tmp_path / blocks.CORPUS_FILE
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "format": 99}))
    with pytest.raises(CorpusError, match="another version"):
        Corpus.load(tmp_path)
    file.write_text("{")
    with pytest.raises(CorpusError, match="damaged"):
        Corpus.load(tmp_path)


def test_fingerprints_tell_blocks_apart() -> None:
    packed = pack(np.arange(21, dtype=np.uint16), 4)
    changed = packed.copy()
    changed[2, 1] += 1
    others = [changed, packed[:4], packed.astype(np.uint32), packed.reshape(-1, 1)]
    assert len({blocks_fingerprint(other) for other in [packed, packed.copy(), *others]}) == 5


def test_progress_bars_of_datasets_are_left_as_they_were() -> None:
    import datasets

    assert not datasets.are_progress_bars_disabled()
    with blocks.quiet_datasets():
        assert datasets.are_progress_bars_disabled()
    assert not datasets.are_progress_bars_disabled()
