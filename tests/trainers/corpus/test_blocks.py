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
    documents_of,
    set_folder,
    write_corpus,
)
from optuna_mde_trainers.corpus.documents import CorpusError
from optuna_mde_trainers.corpus.packing import BlockWriter
from optuna_mde_trainers.corpus.tokenizer import END_OF_TEXT, byte_tokenizer


def write_blocks(stream: np.ndarray, folder: Path, split: str, name: str, size: int = 8) -> str:
    writer = BlockWriter(
        folder, split, name, block_size=size, first=int(stream[0]), dtype=stream.dtype
    )
    writer.add(stream[1:])
    return writer.finish()


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    tokenizer = byte_tokenizer(END_OF_TEXT)
    tokenizer.save(str(tmp_path / blocks.TOKENIZER_FILE))
    stream = np.arange(201, dtype=np.uint16)
    write_blocks(stream, tmp_path, blocks.TRAIN, "a/b")
    write_blocks(stream[:25], tmp_path, blocks.VALIDATION, "größe")
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
        made_from={"block_size": "8"},
        held={"scipy (docs)": "1.0"},
        end_of_text=256,
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
    stream = np.array([0, 1, largest], dtype=dtype)
    write_blocks(stream, corpus.folder, blocks.TRAIN, "large", size=2)
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


def test_names_of_any_length_have_folders(tmp_path: Path) -> None:
    names = ["検" * 30, "語" * 30, "x" * 260, "x" * 259 + "y", "größe/ä", "Web"]
    folders = {set_folder(tmp_path, blocks.TRAIN, name) for name in names}
    assert len(folders) == len(names)
    stream = np.arange(25, dtype=np.uint16)
    for name in names:
        write_blocks(stream, tmp_path, blocks.TRAIN, name)
    assert all(folder.is_dir() for folder in folders)


def test_documents_of_a_block_are_numbered() -> None:
    ids = torch.tensor([[9, 1, 2, 9, 9, 3], [4, 9, 5, 6, 7, 9]])
    assert documents_of(ids, 9).tolist() == [[1, 1, 1, 2, 3, 3], [0, 1, 1, 1, 1, 2]]


def test_a_corpus_of_release_0_1_0_is_read(corpus: Corpus) -> None:
    file = corpus.folder / blocks.CORPUS_FILE
    content = json.loads(file.read_text())
    for key in ("held", "end_of_text"):
        del content[key]
    content["format"] = 1
    content["made_from"] = {
        "packing": "1",
        "block_size": "8",
        "web.jsonl": "1,234 bytes, changed 2026-11-26T10:00:00.000000+00:00",
        "scipy (docs)": "1.17.1, 600 files, 0123abcd",
    }
    file.write_text(json.dumps(content))
    read = Corpus.load(corpus.folder)
    assert read.made_from == {"block_size": "8"}
    assert read.held == {
        "web.jsonl": "1,234 bytes",
        "scipy (docs)": "1.17.1, 600 files, 0123abcd",
    }
    assert read.end_of_text is None
    assert read.domains["a/b"].source_tokens is None


def test_progress_bars_of_datasets_are_left_as_they_were() -> None:
    import datasets

    assert not datasets.are_progress_bars_disabled()
    with blocks.quiet_datasets():
        assert datasets.are_progress_bars_disabled()
    assert not datasets.are_progress_bars_disabled()
