"""Preparing a corpus: passes, processes, cache, kills, memory."""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from optuna_mde_trainers.corpus import encoding, scanning, stores
from optuna_mde_trainers.corpus.blocks import Corpus
from optuna_mde_trainers.corpus.checking import problems
from optuna_mde_trainers.corpus.corpora import CorpusChangedError, CorpusError, prepare
from optuna_mde_trainers.corpus.reading import chunks, lines, streams
from optuna_mde_trainers.corpus.tokenizer import END_OF_TEXT, train_bpe
from pydantic import ValidationError

from tests.trainers.written import Write, config, prose

SETS = ["Github", "ArXiv", "Wikipedia", "Book", "C4", "CommonCrawl", "StackExchange"]


def mixed_lines(number: int) -> bytes:
    """Records of seven sets in one file, told apart by a nested field."""
    texts = {name: prose(name, number) for name in SETS}
    lines = [
        {"text": text, "meta": {"set_name": name, "odd": odd}}
        for name in SETS
        for text, odd in zip(texts[name], [None, 1, ["x"], {"y": 1}] * number, strict=False)
    ]
    random.Random(0).shuffle(lines)
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def seven(**fields: Any) -> dict[str, Any]:
    source = {"path": "json", "data_files": "pile.jsonl.zst", **fields}
    return {name: {**source, "filter": {"meta.set_name": name}} for name in SETS}


def texts_of(corpus: Corpus, name: str) -> set[str]:
    rows = corpus.train_blocks(name)[:]["input_ids"]
    ids = [int(rows[0, 0]), *rows[:, 1:].reshape(-1).tolist()]
    return set(corpus.tokenizer().decode(ids, skip_special_tokens=False).split(END_OF_TEXT)[1:-1])


def blocks_of(corpus: Corpus) -> dict[str, Any]:
    return {
        **{name: corpus.train_blocks(name)[:]["input_ids"].tolist() for name in corpus.domains},
        **{n: corpus.validation_blocks(n)[:]["input_ids"].tolist() for n in corpus.sets},
    }


# -- one pass ----------------------------------------------------------------------------------


def test_one_file_becomes_seven_domains_in_one_pass(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("pile.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(mixed_lines(150)))
    opened: list[str] = []
    real = chunks.open_raw
    monkeypatch.setattr(chunks, "open_raw", lambda file: opened.append(file) or real(file))
    asked = config(seven())
    assert problems(asked) == []
    opened.clear()
    corpus = prepare(asked, Path("corpus"))
    # the index, the text that validation sets may take, the tokens: not once for each domain
    assert opened == ["pile.jsonl.zst"] * 3
    assert list(corpus.domains) == SETS
    for name in SETS:
        found = texts_of(corpus, name)
        assert found < set(prose(name, 150))
        assert len(found) > 120


def test_a_filter_that_lets_nothing_through_says_what_there_is(write: Write) -> None:
    Path("pile.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(mixed_lines(20)))
    asked = config({"web": {**seven()["C4"], "filter": {"meta.set_name": "c4"}}})
    with pytest.raises(
        CorpusError, match=r"domains\.web\.filter: lets no row .* meta\.set_name is .*\"C4\""
    ):
        prepare(asked, Path("corpus"))


def test_a_streamed_source_is_read_until_there_is_enough(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "CHUNK_BYTES", 20_000)
    monkeypatch.setattr(streams, "READ_BYTES", 5_000)
    texts = prose("w", 4_000)
    source = {**write("web", texts), "streaming": True}
    corpus = prepare(config({"web": source}, max_train_bytes=100_000), Path("corpus"))
    whole = sum(len(text) for text in texts)
    assert 100_000 <= corpus.domains["web"].bytes < 101_000
    assert texts_of(corpus, "web") < set(texts[:800])
    found = corpus.domains["web"].source_bytes
    assert found == pytest.approx(0.9 * whole, rel=0.1)  # by the share of the file that was read
    again = prepare(config({"web": source}, max_train_bytes=100_000), Path("again"), processes=2)
    assert again.fingerprint == corpus.fingerprint


# -- processes, cache, kills ---------------------------------------------------------------------


def test_processes_make_no_difference(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "PARALLEL_BYTES", 0)
    monkeypatch.setattr(encoding, "PARALLEL_BYTES", 0)
    monkeypatch.setattr(lines, "CHUNK_BYTES", 10_000)
    monkeypatch.setattr(streams, "READ_BYTES", 5_000)
    sources = {name: write(name, prose(name, 300)) for name in ("web", "code")}
    asked = config(sources, tokenizer={"type": "bpe", "vocab_size": 400, "train_bytes": 9_000})
    found = []
    for processes in (1, 2):
        shutil.rmtree(os.environ["OPTUNA_MDE_CACHE"], ignore_errors=True)
        found.append(blocks_of(prepare(asked, Path(f"c{processes}"), processes=processes)))
    assert found[0] == found[1]


def test_text_is_tokenised_once_for_all_studies(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = {name: write(name, prose(name, 300)) for name in ("web", "code")}
    one = prepare(config(sources), Path("one"))
    shutil.copytree(".", "../moved")
    monkeypatch.chdir("../moved")  # other inodes and times, the same content

    def encode(*_: object) -> None:
        raise AssertionError("tokenised again")

    monkeypatch.setattr(encoding, "_encoded", encode)
    two = prepare(config(sources, block_size=32), Path("two"))  # another length of blocks
    assert two.domains["web"].bytes == one.domains["web"].bytes
    fewer = prepare(config(sources, max_train_bytes=5_000), Path("three"))  # a part of the text
    assert texts_of(fewer, "web") < texts_of(one, "web")
    with pytest.raises(AssertionError, match="tokenised again"):
        prepare(config({"web": write("web", prose("other", 300))}), Path("four"))


SLOW = """
import sys, time
from pathlib import Path
from optuna_mde_trainers.corpus import encoding, scanning, stores
from optuna_mde_trainers.corpus.corpora import CorpusConfig, prepare
from optuna_mde_trainers.corpus.reading import lines, streams
lines.CHUNK_BYTES = 10_000
streams.READ_BYTES = 5_000
stores.JOURNAL_SECONDS = 0.0
real, slow = encoding._encoded, float(sys.argv[3])
def encoded(*given):
    if given[2] is not None:
        print("chunk", flush=True)
        time.sleep(slow)
    return real(*given)
encoding._encoded = encoded
config = CorpusConfig.model_validate_json(sys.argv[1])
print("done", prepare(config, Path(sys.argv[2]), processes=1).fingerprint)
"""


def test_a_killed_preparation_goes_on(write: Write) -> None:
    asked = config({"web": write("web", prose("w", 1_500))})

    def command(folder: str, slow: float) -> list[str]:
        return [sys.executable, "-c", SLOW, asked.model_dump_json(), folder, str(slow)]

    first = subprocess.Popen(command("corpus", 0.05), stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    for _ in range(20):
        assert first.stdout.readline() == "chunk\n"
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not Path("corpus").exists()
    done = subprocess.run(command("corpus", 0.0), capture_output=True, text=True, check=True)
    worked = [line for line in done.stdout.splitlines() if line == "chunk"]
    shutil.rmtree(os.environ["OPTUNA_MDE_CACHE"])
    whole = subprocess.run(command("whole", 0.0), capture_output=True, text=True, check=True)
    assert len(worked) <= whole.stdout.count("chunk\n") - 18
    assert done.stdout.splitlines()[-1] == whole.stdout.splitlines()[-1]
    assert Corpus.load("corpus").fingerprint == Corpus.load("whole").fingerprint


@pytest.mark.parametrize("torn", [b"", b'{"chunks": 9, "leng', b"\0\0"])
def test_a_store_goes_on_behind_its_last_whole_line(torn: bytes, tmp_path: Path) -> None:
    columns = {"ids": np.dtype(np.uint16), "lengths": np.dtype(np.uint32)}
    store = stores.Store(tmp_path, columns)
    store.append({"ids": np.arange(5), "lengths": np.array([5])})
    store.notes = {"values": {"a": ["ä"]}}
    store.flush()
    store.append({"ids": np.arange(100), "lengths": np.array([100])})
    store.close()  # killed: this chunk is on disk, and not in the journal
    with open(tmp_path / stores.JOURNAL, "ab") as journal:
        journal.write(torn)
    again = stores.Store(tmp_path, columns)
    assert (again.chunks, again.notes) == (1, {"values": {"a": ["ä"]}})
    assert not stores.is_finished(tmp_path)
    again.append({"ids": np.arange(7, 9), "lengths": np.array([2])})
    again.flush(finished=True)
    again.close()
    assert stores.is_finished(tmp_path)
    assert stores.column(tmp_path, "ids", columns["ids"]).tolist() == [0, 1, 2, 3, 4, 7, 8]
    assert stores.column(tmp_path, "lengths", columns["lengths"]).tolist() == [5, 2]


def test_a_cache_that_cannot_be_written_is_said_and_done_without(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").touch()
    monkeypatch.setenv("OPTUNA_MDE_CACHE", str(Path("file/cache").absolute()))
    said: list[str] = []
    asked = config({"web": write("web", prose("w", 300))})
    corpus = prepare(asked, Path("corpus"), progress=said.append)
    assert said[0].endswith("is not kept for other studies")
    assert corpus.domains["web"].blocks == len(corpus.train_blocks("web"))
    assert sorted(path.name for path in Path("corpus").iterdir()) == [
        "corpus.json", "tokenizer.json", "train", "validation",
    ]  # fmt: skip


def test_progress_names_rate_and_time_left(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optuna_mde_trainers.corpus.progress.EVERY_SECONDS", 0.0)
    monkeypatch.setattr(lines, "CHUNK_BYTES", 10_000)
    monkeypatch.setattr(streams, "READ_BYTES", 5_000)
    said: list[str] = []
    prepare(config({"web": write("web", prose("w", 500))}), Path("c"), progress=said.append)
    assert any(re.match(r"reading web: 0\.\d MB of 0\.\d MB, ", line) for line in said)
    tokenising = [line for line in said if line.startswith("tokenising web: ")]
    assert len(tokenising) > 5
    assert all(line.endswith(" left") and "MB/s, " in line for line in tokenising)


# -- identity --------------------------------------------------------------------------------


def test_a_finished_corpus_needs_its_sources_no_more(write: Write) -> None:
    asked = config({"web": write("web", prose("w", 300)), "code": write("code", prose("c", 300))})
    corpus = prepare(asked, Path("corpus"))
    before = blocks_of(corpus)
    os.utime("web.jsonl", (1, 1))
    assert prepare(asked, Path("corpus")) == corpus
    Path("web.jsonl").unlink()
    shutil.rmtree(os.environ["OPTUNA_MDE_CACHE"])
    assert blocks_of(prepare(asked, Path("corpus"))) == before
    write("code", prose("d", 300))
    with pytest.raises(CorpusChangedError, match=r"code\.jsonl: [\d,]+ bytes, .* → [\d,]+ bytes"):
        prepare(asked, Path("corpus"))
    Path("code.jsonl").unlink()
    assert blocks_of(prepare(asked, Path("corpus"))) == before


def test_a_file_that_changes_while_it_is_read_is_no_corpus(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config({"web": write("web", prose("w", 300))})

    def change(line: str) -> None:
        if line.startswith("packed"):
            write("web", prose("x", 300))

    with pytest.raises(CorpusError, match="files changed while they were read"):
        prepare(asked, Path("corpus"), progress=change)
    assert not Path("corpus").exists()


# -- near-duplicates -------------------------------------------------------------------------


def test_near_duplicates_of_training_text_leave_the_sets(write: Write) -> None:
    train, own = prose("w", 300, words=80), prose("n", 60, words=80)
    nearly = [f"{text} and one more" for text in train[:40]]
    sources = {"web": write("web", train)}
    base = prepare(config(sources), Path("base"))
    said: list[str] = []
    corpus = prepare(
        config(sources, validation={"new": write("new", [*nearly, *own])}),
        Path("corpus"),
        progress=said.append,
    )
    rows = corpus.validation_blocks("new")[:]["input_ids"]
    text = corpus.tokenizer().decode([int(rows[0, 0]), *rows[:, 1:].reshape(-1).tolist()])
    assert "and one more" not in text
    assert any(line.startswith("new: ") and "near-duplicates" in line for line in said)
    assert corpus.fingerprint == base.fingerprint  # training text stays as it is


# -- repetition ------------------------------------------------------------------------------


def test_a_share_of_every_source_repeats_as_often_as_the_target(write: Write) -> None:
    sources = {"web": write("web", prose("w", 2_000)), "code": write("code", prose("c", 400))}
    whole = prepare(config(sources), Path("whole"))
    for info in whole.domains.values():  # counted: what fills no block counts as well
        assert 0 <= (info.source_tokens or 0) - info.tokens < 16
    target_tokens, proxy_tokens = 6_000_000, 300_000
    small = prepare(config(sources), Path("small"), share=proxy_tokens / target_tokens)
    half = prepare(config(sources), Path("half"), share=0.5 * proxy_tokens / target_tokens)
    for name, info in small.domains.items():
        known = whole.domains[name].source_tokens
        assert known is not None
        assert info.source_tokens == pytest.approx(known, rel=0.02)  # estimated from its bytes
        wanted = math.ceil((info.source_tokens or 0) * proxy_tokens / target_tokens / 16)
        assert info.blocks == wanted
        assert proxy_tokens / info.tokens == pytest.approx(target_tokens / known, rel=0.03)
        nested = half.train_blocks(name)[:]["input_ids"].tolist()
        held = small.train_blocks(name)[:]["input_ids"].tolist()
        all_ = whole.train_blocks(name)[:]["input_ids"].tolist()
        assert nested == held[: len(nested)]
        assert held == all_[: len(held)]
        assert len(nested) == pytest.approx(len(held) / 2, abs=1)
    assert small.natural == pytest.approx(whole.natural)
    assert small.sets == whole.sets
    assert prepare(config(sources), Path("all"), share=1.0).fingerprint == whole.fingerprint


def test_a_share_of_more_than_is_kept_is_refused(write: Write) -> None:
    asked = config({"web": write("web", prose("w", 500))}, max_train_bytes=10_000)
    with pytest.raises(CorpusError, match=r"repetition: matched takes .* raise max_train_bytes"):
        prepare(asked, Path("corpus"), share=0.5)


def test_a_change_of_share_is_another_corpus(write: Write) -> None:
    asked = config({"web": write("web", prose("w", 500))})
    prepare(asked, Path("corpus"), share=0.5)
    with pytest.raises(CorpusChangedError, match=r"share of the source: 0\.5 → 0\.25"):
        prepare(asked, Path("corpus"), share=0.25)


# -- token ids -------------------------------------------------------------------------------


@pytest.fixture
def token_files(write: Write) -> dict[str, Any]:
    """The same texts as text, lists of ids, `.npy` and `.bin`, and their tokenizer."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [text.replace(" ", " größe ") for text in prose("w", 400)]
    tokenizer = train_bpe(texts, 400, END_OF_TEXT)
    tokenizer.save("tokenizer.json")
    end = tokenizer.token_to_id(END_OF_TEXT)
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    flat = [token for document in ids for token in [*document, end]]
    np.save("web.npy", np.array(flat, np.int64))
    np.array(flat, np.uint16).tofile("web.bin")
    pq.write_table(pa.table({"input_ids": ids, "other": [None] * len(ids)}), "web.parquet")
    Path("ids.jsonl").write_text("".join(json.dumps({"input_ids": i}) + "\n" for i in ids))
    own = {"tokenizer": "tokenizer.json"}
    column = {"tokens_column": "input_ids", **own}
    return {
        "text": write("web", texts),
        "npy": {"path": "npy", "data_files": "web.npy", **own},
        "bin": {"path": "bin", "data_files": "web.bin", "dtype": "uint16", **own},
        "parquet": {
            "path": "parquet",
            "data_files": "web.parquet",
            "tokens_column": "input_ids",
            **own,
        },
        "json": {"path": "json", "data_files": "ids.jsonl", **column},
    }


PRETRAINED = {"tokenizer": {"type": "pretrained", "path": "tokenizer.json"}}


def test_token_ids_are_packed_as_their_text_is(token_files: dict[str, Any]) -> None:
    found = {}
    for kind, source in token_files.items():
        corpus = prepare(config({"web": source}, held_out=0.3, **PRETRAINED), Path(kind))
        found[kind] = corpus
        documents = len(texts_of(corpus, "web"))
        assert 250 < documents < 310
        info = corpus.domains["web"]
        assert info.bytes == pytest.approx(found["text"].domains["web"].bytes, rel=0.1)
        assert texts_of(corpus, "web") < texts_of_source(token_files)
        score = corpus.sets["web"]
        rows = corpus.validation_blocks("web")[:]["input_ids"][:, 1:].reshape(-1).tolist()
        decoded = corpus.tokenizer().decode(rows, skip_special_tokens=True)
        assert score.bytes == pytest.approx(len(decoded.encode()), abs=3)
    assert len({corpus.fingerprint for kind, corpus in found.items() if kind != "text"}) == 1


def texts_of_source(token_files: dict[str, Any]) -> set[str]:
    lines = Path(token_files["text"]["data_files"]).read_text().splitlines()
    return {json.loads(line)["text"] for line in lines}


def test_ids_of_another_tokenizer_are_refused(token_files: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"domains\.web holds token ids of 'tokenizer"):
        config({"web": token_files["npy"]})
    np.save("web.npy", np.array([5, 70_000, 3]))
    with pytest.raises(
        CorpusError,
        match=r"domains\.web: web\.npy holds the token id 70000, and the tokenizer has 400",
    ):
        prepare(config({"web": token_files["npy"]}, **PRETRAINED), Path("c"))
    asked = config({"web": token_files["npy"]}, **PRETRAINED)
    assert [line for line in problems(asked) if "70000" in line]
    np.save("web.npy", np.array([[1, 2], [3, 4]]))
    with pytest.raises(CorpusError, match=r"web\.npy holds an array of shape \(2, 2\)"):
        prepare(config({"web": token_files["npy"]}, **PRETRAINED), Path("c"))
    Path("web.bin").write_bytes(b"\0\1\2")
    with pytest.raises(CorpusError, match=r"web\.bin is not a file of uint16 ids"):
        prepare(config({"web": token_files["bin"]}, **PRETRAINED), Path("c"))
    as_text = {"path": "parquet", "data_files": "web.parquet", "text_column": "input_ids"}
    with pytest.raises(CorpusError, match=r"holds list<.*not text; tokens_column reads token ids"):
        prepare(config({"web": as_text}, **PRETRAINED), Path("c"))


# -- tokenizers of others --------------------------------------------------------------------


@pytest.mark.parametrize("field", ["truncation", "padding"])
def test_a_tokenizer_saved_with_truncation_or_padding_takes_whole_texts(
    field: str, token_files: dict[str, Any]
) -> None:
    plain = prepare(config({"web": token_files["text"]}, **PRETRAINED), Path("plain"))
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file("tokenizer.json")
    if field == "truncation":
        tokenizer.enable_truncation(8)
    else:
        tokenizer.enable_padding(length=4_000, pad_id=0)
    tokenizer.save("tokenizer.json")
    corpus = prepare(config({"web": token_files["text"]}, **PRETRAINED), Path("saved"))
    assert corpus.fingerprint == plain.fingerprint
    assert corpus.sets == plain.sets


def test_token_ids_without_ends_are_one_document(token_files: dict[str, Any]) -> None:
    ids = np.load("web.npy")
    np.save("web.npy", ids[ids != 0])  # the end of text is the first token of its tokenizer
    for seed in ("00", "01", "02", "03"):  # held out or not, it is one
        np.save("web.npy", np.append(ids[ids != 0], [int(seed) + 300]))
        with pytest.raises(CorpusError, match=r"domains\.web: .*(one|its only) document"):
            prepare(config({"web": token_files["npy"]}, **PRETRAINED), Path("c"))


def test_files_without_text_are_named(write: Write) -> None:
    Path("empty.jsonl").touch()
    Path("blank.jsonl").write_text('{"text": " "}\n{"text": null}\n')
    source = {"path": "json", "data_files": "empty.jsonl"}
    assert problems(config({"web": source})) == [
        "domains.web: empty.jsonl holds no row; give files with text"
    ]
    source["data_files"] = "blank.jsonl"
    with pytest.raises(CorpusError, match=r"domains\.web: its files hold no text"):
        prepare(config({"web": source}), Path("c"))


# -- sizes -----------------------------------------------------------------------------------


def test_documents_that_are_longer_than_all_that_is_wanted(write: Write) -> None:
    texts = [*prose("w", 10), " ".join(prose("long", 2_000))]
    source = write("web", texts)
    found = set()
    for seed in range(30):  # which document comes first, and is all that 20 bytes keep
        said: list[str] = []
        asked = config(
            {"web": source}, max_train_bytes=20, validation_tokens=64, held_out=0.3, seed=seed
        )
        corpus = prepare(asked, Path(f"c{seed}"), progress=said.append)
        longest = corpus.domains["web"].bytes > 100_000
        assert longest == any("stays whole" in line and "0.6 MB" in line for line in said)
        found.add(longest)
    assert found == {False, True}
    with pytest.raises(CorpusError, match=r"domains\.web: .*(its only|is one) document"):
        prepare(config({"web": write("one", [texts[-1]])}), Path("one"))


@pytest.mark.parametrize("name", ["検" * 30, "x" * 260])
def test_names_of_any_length(name: str, write: Write) -> None:
    corpus = prepare(config({name: write("web", prose("w", 200))}), Path("corpus"))
    assert len(corpus.train_blocks(name)) == corpus.domains[name].blocks


# Not `ru_maxrss`: that counts the process that has started it, too.
MEASURED = """
import re, sys
from pathlib import Path
from optuna_mde_trainers.corpus.corpora import CorpusConfig, prepare
prepare(CorpusConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2]), processes=1)
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_source(write: Write) -> None:
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnop", k=6)) for _ in range(5_000)]
    used = []
    for megabytes in (20, 160):
        with open("web.jsonl", "w") as file:
            for _ in range(megabytes * 1_000_000 // 3_500):
                file.write(json.dumps({"text": " ".join(draw.choices(words, k=500))}) + "\n")
        asked = config(
            {"web": {"path": "json", "data_files": "web.jsonl"}},
            tokenizer={"type": "bpe", "vocab_size": 4_000, "train_bytes": 1_000_000},
            block_size=512,
            validation_tokens=8_192,
        )
        command = [sys.executable, "-c", MEASURED, asked.model_dump_json(), f"c{megabytes}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        used.append(int(done.stdout))
    assert used[1] < used[0] + 150
    assert used[1] < 800


@pytest.mark.slow
def test_one_document_of_fifty_megabytes(write: Write) -> None:
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnop", k=6)) for _ in range(5_000)]
    long = " ".join(draw.choices(words, k=7_200_000))
    assert len(long) > 50_000_000
    asked = config(
        {"web": write("web", [*prose("w", 500), long])},
        tokenizer={"type": "bpe", "vocab_size": 4_000, "train_bytes": 100_000},
        held_out=0.01 + 0.09,
        validation_tokens=512,
    )
    command = [sys.executable, "-c", MEASURED, asked.model_dump_json(), "corpus"]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1_000
    assert time.monotonic() - began < 120
    assert Corpus.load("corpus").domains["web"].bytes > 50_000_000


def test_two_studies_prepare_the_same_text_at_once(write: Write) -> None:
    asked = config({"web": write("web", prose("w", 1_500))})
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SLOW, asked.model_dump_json(), f"corpus{i}", "0.02"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0].splitlines() for process in running]
    assert outputs[0][-1] == outputs[1][-1]
    assert outputs[0][-1].startswith("done ")
    assert sorted(len(lines) == 1 for lines in outputs) == [False, True]  # one has tokenised
