"""Streams of tokens become blocks, piece by piece as all at once."""

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from datasets import load_from_disk
from optuna_mde_trainers.corpus import blocks, packing
from optuna_mde_trainers.corpus.encoding import Tokens
from optuna_mde_trainers.corpus.packing import (
    BlockWriter,
    encode_validation,
    excerpt_of_ids,
    gathered,
    ids_for_validation,
    pack,
)
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


@pytest.mark.parametrize("limit", [None, 5, 0])
def test_a_stream_in_pieces_gives_the_blocks_of_the_whole(
    tmp_path: Path, limit: int | None
) -> None:
    draw = np.random.default_rng(0)
    stream = draw.integers(0, 1_000, 1_003).astype(np.uint16)
    whole = pack(stream, 16)[:limit]
    prints = set()
    for i, sizes in enumerate(([1_002], [1, 0, 400, 7, 594], [16] * 62 + [10])):
        folder = tmp_path / str(i)
        writer = BlockWriter(
            folder, blocks.TRAIN, "a", block_size=16, first=int(stream[0]),
            dtype=stream.dtype, limit=limit,
        )  # fmt: skip
        for part in np.split(stream[1:], np.cumsum(sizes)[:-1]):
            writer.add(part)
        prints.add(writer.finish())
        assert writer.blocks == len(whole)
        assert writer.tokens == 1_002
        read = load_from_disk(str(folder / "train" / "a")).with_format("numpy")
        assert len(read) == len(whole)
        if len(whole):
            assert (read[:]["input_ids"] == whole).all()
            assert read.features["input_ids"].length == 17
    assert len(prints) == 1


def test_fingerprints_tell_blocks_apart(tmp_path: Path) -> None:
    def of(stream: np.ndarray, size: int = 4) -> str:
        folder = Path(mkdtemp(dir=tmp_path))
        writer = BlockWriter(
            folder, blocks.TRAIN, "a", block_size=size, first=0, dtype=stream.dtype
        )
        writer.add(stream)
        return writer.finish()

    stream = np.arange(20, dtype=np.uint16)
    changed = stream.copy()
    changed[2] += 1
    streams = [stream, stream.copy(), changed, stream[:12], stream.astype(np.uint32)]
    assert len({*map(of, streams), of(stream, 5)}) == 5


@pytest.mark.parametrize("at_once", [1, 30, 10_000])
@pytest.mark.parametrize("long", [0, 10_000])
def test_documents_are_gathered_in_an_order_of_their_own(
    at_once: int, long: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "STREAM_TOKENS", at_once)
    monkeypatch.setattr(packing, "LONG", long)
    lengths = np.array([3, 1, 9, 4, 2])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.arange(19, dtype=np.uint16)
    held = Tokens(np.array([2, 5, 6, 11, 40]), starts, lambda: ids, ids.dtype)
    order = np.array([40, 6, 2, 11])
    parts = list(gathered(held, order, END))
    stream = np.concatenate([stream for stream, _, _ in parts]).tolist()
    expected = []
    for row in order:
        place = held.rows.tolist().index(row)
        expected += [*range(starts[place], starts[place + 1]), END]
    assert stream == expected
    for part, begins, sizes in parts:
        for begin, size in zip(begins, sizes, strict=True):
            assert at_once == 1 or part[begin + size] == END


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


def test_a_validation_text_cannot_end_itself() -> None:
    text = f"say {END_OF_TEXT} now"
    tokenizer = train_bpe([text] * 9, 300, END_OF_TEXT)
    tokenizer.encode_special_tokens = True
    end = tokenizer.token_to_id(END_OF_TEXT)
    assert encode_validation(tokenizer, [text], end, 1_000)[0].tolist().count(end) == 2


@pytest.mark.parametrize("num_tokens", range(1, 9))
def test_validation_of_token_ids_counts_the_bytes_of_scored_tokens(num_tokens: int) -> None:
    lengths = np.array([1, 2, 3, 4, 0])
    documents = [np.array([0, 1, 2]), np.array([3, 3]), np.array([1])]
    ids, size = ids_for_validation(documents, 4, num_tokens, lengths)
    whole = [4, 0, 1, 2, 4, 3, 3, 4, 1, 4]
    assert ids.tolist() == whole[: num_tokens + 1]
    assert size == sum(int(lengths[token]) for token in whole[1 : num_tokens + 1])


def test_an_excerpt_of_ids_is_from_within() -> None:
    ids = np.arange(1_000)
    part = excerpt_of_ids(ids, 100)
    assert part.tolist() == list(range(part[0], part[0] + 100))
    assert excerpt_of_ids(ids, 1_000).tolist() == ids.tolist()
