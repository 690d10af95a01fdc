"""Sources as a definition writes them, and what is taken from their files."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import time
import zipfile
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from optuna_mde_trainers.corpus.checking import check
from optuna_mde_trainers.corpus.documents import CorpusError
from optuna_mde_trainers.corpus.encoding import texts as texts_of
from optuna_mde_trainers.corpus.identity import inventory
from optuna_mde_trainers.corpus.processes import Workers
from optuna_mde_trainers.corpus.scanning import group_of, index
from optuna_mde_trainers.corpus.sources import DomainSource
from pydantic import ValidationError

TEXTS = ["one text\nof two lines", "größer", "a third"]
LINES = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the same three texts in every format."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("OPTUNA_MDE_CACHE", str(tmp_path / "ours"))
    monkeypatch.chdir(tmp_path)
    rows = datasets.Dataset.from_dict({"text": TEXTS, "number": [1, 2, 3]})
    rows.to_parquet("rows.parquet")
    rows.to_csv("rows.csv", index=False)
    rows.save_to_disk("saved")
    Path("rows.jsonl").write_bytes(LINES)
    Path("rows.json").write_text(json.dumps([{"text": text} for text in TEXTS], indent=1))
    Path("other.jsonl").write_text(json.dumps({"text": "held out"}) + "\n")
    Path("texts").mkdir()
    for i, text in enumerate(TEXTS):
        Path(f"texts/{i}.txt").write_text(text)
    return tmp_path


def texts(**fields: Any) -> list[str]:
    """What a domain takes from a source: index first, then the text of its rows."""
    source = DomainSource.model_validate(fields)
    check("domains.web", source)
    group = group_of("domains.web", source, source.split, end_of_text=None, tokenizer="")
    silent: Callable[[str], None] = lambda _: None  # noqa: E731
    with Workers(1) as workers:
        found = index(group, Path("ours/index") / group.identity, workers, silent)
        chosen = found.chosen(source, source.split)
        rows = chosen.take(chosen.sizes > 0).rows
        return texts_of(group, found, rows, workers, silent)


# -- formats ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "data_files"),
    [
        ("json", "rows.jsonl"),
        ("json", "ro*.jsonl"),
        ("json", ["rows.jsonl"]),
        ("json", "rows.json"),
        ("json", {"train": "rows.jsonl", "validation": "other.jsonl"}),
        ("csv", "rows.csv"),
        ("parquet", "rows.parquet"),
        ("arrow", "saved/*.arrow"),
        ("text", "texts/*.txt"),
        ("text", "texts"),
        ("parquet", "file://{here}/rows.parquet"),
        ("json", "file://{here}/ro*.jsonl"),
    ],
)
def test_local_files_of_every_format(path: str, data_files: Any, folder: Path) -> None:
    if isinstance(data_files, str):
        data_files = data_files.format(here=folder)
    assert texts(path=path, data_files=data_files) == TEXTS


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("suffix", PACKED)
def test_packed_files(suffix: str) -> None:
    Path(f"p.jsonl.{suffix}").write_bytes(PACKED[suffix](LINES))
    assert texts(path="json", data_files=f"p.jsonl.{suffix}") == TEXTS
    half = LINES.index(b"\n") + 1  # two packed files, one behind the other, are one
    joined = PACKED[suffix](LINES[:half]) + PACKED[suffix](LINES[half:])
    Path(f"j.jsonl.{suffix}").write_bytes(joined)
    assert texts(path="json", data_files=f"j.jsonl.{suffix}") == TEXTS


def write_tar(name: str, mode: str) -> None:
    with tarfile.open(name, mode) as archive:  # type: ignore[call-overload]
        for member, data in [("d/a.jsonl", LINES), ("d/_SUCCESS", b""), ("d/.a.crc", b"\0\1")]:
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def write_zip(name: str) -> None:
    with zipfile.ZipFile(name, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("d/a.jsonl", LINES)
        archive.writestr("__MACOSX/._a.jsonl", b"\0\1")


def test_archives() -> None:
    write_tar("a.tar", "w")
    write_tar("b.tar.gz", "w:gz")
    write_zip("c.zip")
    for name in ("a.tar", "b.tar.gz", "c.zip"):
        assert texts(path="json", data_files=name) == TEXTS


def test_a_folder_splits_and_columns() -> None:
    files = {"train": "rows.jsonl", "validation": "other.jsonl"}
    assert texts(path="json", data_files=files, split="validation") == ["held out"]
    assert texts(path="json", data_files=files, split="train[:2]") == TEXTS[:2]
    assert texts(path="json", data_files=files, split="train[-34%:]") == TEXTS[2:]
    assert texts(path="parquet", data_files=str(Path("rows.parquet").absolute())) == TEXTS
    Path("alone").mkdir()
    Path("rows.parquet").rename("alone/rows.parquet")
    assert texts(path="alone") == TEXTS
    assert texts(path="texts") == ["one text", "of two lines", "größer", "a third"]  # as datasets
    assert not list(Path("cache").glob("**/*.arrow"))  # nothing is left in datasets' cache


def test_an_empty_shard_and_marks_of_other_programs_are_no_documents() -> None:
    Path("shards").mkdir()
    for name in ("_SUCCESS", "part-0.jsonl", ".part-1.jsonl.crc"):
        Path(f"shards/{name}").touch()
    Path("shards/part-1.jsonl").write_bytes(LINES)
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), "shards/empty.parquet")
    assert texts(path="json", data_files="shards") == TEXTS
    assert texts(path="json", data_files="shards/part*") == TEXTS
    assert texts(path="json", data_files="shards/*.jsonl") == TEXTS
    files = ["shards/empty.parquet", "rows.parquet"]
    assert texts(path="parquet", data_files=files) == TEXTS


@pytest.mark.parametrize("name", ["a[1].jsonl", "what?.jsonl", "b[12]/x.jsonl", "c*d/x.jsonl"])
def test_a_name_that_exists_is_no_pattern(name: str) -> None:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_bytes(LINES)
    for other in ("a1.jsonl", "whatx.jsonl", "b1/x.jsonl", "cxd/x.jsonl"):
        Path(other).parent.mkdir(exist_ok=True)
        Path(other).write_text(json.dumps({"text": "another file"}))
    assert texts(path="json", data_files=name) == TEXTS
    if "/" in name:
        assert texts(path="json", data_files=f"{name.split('/')[0]}/*.jsonl") == TEXTS
        assert texts(path="json", data_files=name.split("/")[0]) == TEXTS


# -- columns and filters ---------------------------------------------------------------------

NESTED = [
    {"post": {"body": {"text": "first"}}, "meta": {"set": "A"}, "n": 1},
    {"post": {"body": {"text": "second"}}, "meta": {"set": "B"}, "n": None},
    {"post": {"body": None}, "meta": {"set": "A"}, "n": 2},
    {"post": {"body": {"text": "third"}}, "meta": {}, "n": 2.0},
    {"post": {"body": {"text": "fourth"}}, "n": 3},
]


@pytest.mark.parametrize("path", ["json", "parquet", "arrow"])
def test_nested_columns_and_filters(path: str) -> None:
    name = f"nested.{path}"
    Path("nested.json").write_text("".join(json.dumps(row) + "\n" for row in NESTED))
    table = pa.Table.from_pylist(NESTED[:4])
    pq.write_table(table, "nested.parquet")
    with pa.ipc.new_stream("nested.arrow", table.schema) as stream:
        stream.write_table(table)
    nested = {"path": path, "data_files": name, "text_column": "post.body.text"}
    assert texts(**nested)[:3] == ["first", "second", "third"]
    assert texts(**nested, filter={"meta.set": "A"}) == ["first"]
    assert texts(**nested, filter={"meta.set": ["A", "B"]}) == ["first", "second"]
    assert texts(**nested, filter={"meta.set": ["A", "B"], "n": 1}) == ["first"]
    assert texts(**nested, filter={"n": [2, 7]}) == ["third"]
    assert texts(**nested, filter={"n": None})[:1] == ["second"]
    assert texts(**nested, filter={"n": "1"}) == []


def test_columns_that_are_not_read_may_differ() -> None:
    metas = [None, {"a": 1}, ["x"], "y", {"a": {"b": 2}}]
    for i, meta in enumerate(metas):
        Path(f"s{i}.jsonl").write_text(json.dumps({"text": f"t{i}", "meta": meta}) + "\n")
        pq.write_table(pa.table({"text": [f"t{i}"], "meta": [meta]}), f"s{i}.parquet")
    pq.write_table(pa.table({"text": ["t5"]}), "s5.parquet")
    pq.write_table(pa.table({"text": pa.array([None], pa.null()), "meta": ["z"]}), "s6.parquet")
    assert texts(path="json", data_files="s*.jsonl") == [f"t{i}" for i in range(5)]
    assert texts(path="parquet", data_files="s*.parquet") == [f"t{i}" for i in range(6)]


def test_a_text_column_whose_name_has_a_dot() -> None:
    Path("dot.jsonl").write_text(json.dumps({"a.b": "x"}) + "\n")
    pq.write_table(pa.table({"a.b": ["x"]}), "dot.parquet")
    assert texts(path="json", data_files="dot.jsonl", text_column="a.b") == ["x"]
    assert texts(path="parquet", data_files="dot.parquet", text_column="a.b") == ["x"]


def test_texts_of_other_worlds() -> None:
    odd = ["\ud83d\ude00 halves", "nul \0 byte", "\u2028 separator", "lone \ud83d half", "﻿bom"]
    lines = "".join(json.dumps({"text": text}) + "\r\n" for text in odd)
    Path("odd.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    found = texts(path="json", data_files="odd.jsonl")
    assert found[:3] == ["😀 halves", "nul \0 byte", "\u2028 separator"]
    assert found[3] == "lone � half"
    assert found[4] == "﻿bom"


def test_a_collection_of_the_environment() -> None:
    assert len(texts(environment="cython")) > 50


# -- what cannot be read ---------------------------------------------------------------------


def cut_short(name: str, data: bytes) -> dict[str, str]:
    Path(name).write_bytes(data)
    return {"path": "json", "data_files": name}


MANY = b"".join(
    json.dumps({"text": f"row {os.urandom(40).hex()}"}).encode() + b"\n" for _ in range(500)
)


@pytest.mark.parametrize("suffix", PACKED)
@pytest.mark.parametrize("share", [0.5, 0.99])
def test_a_packed_file_that_was_cut_short_is_named(suffix: str, share: float) -> None:
    data = PACKED[suffix](MANY)
    with pytest.raises(
        CorpusError, match=rf"domains\.web: cut\.jsonl\.{suffix} is damaged or was"
    ):
        texts(**cut_short(f"cut.jsonl.{suffix}", data[: int(share * len(data))]))


@pytest.mark.parametrize("name", ["a.tar", "b.tar.gz", "c.zip", "d.parquet", "e.arrow"])
def test_an_archive_or_table_that_was_cut_short_is_named(name: str) -> None:
    write_tar("a.tar", "w")
    write_tar("b.tar.gz", "w:gz")
    write_zip("c.zip")
    rows = pa.table({"text": [line.decode() for line in MANY.split(b"\n")]})
    pq.write_table(rows, "d.parquet")
    with pa.ipc.new_file("e.arrow", rows.schema) as file:
        file.write_table(rows)
    data = Path(name).read_bytes()
    end = 600 if name == "a.tar" else len(data) * 2 // 3
    Path(name).write_bytes(data[:end])
    path = {"d.parquet": "parquet", "e.arrow": "arrow"}.get(name, "json")
    with pytest.raises(CorpusError, match=rf"domains\.web: {name}.* (damaged|no whole)"):
        texts(path=path, data_files=name)


@pytest.mark.parametrize("suffix", [*PACKED, "tar", "zip", "parquet", "arrow"])
def test_an_empty_file_of_a_kind_that_never_is_is_named(suffix: str) -> None:
    Path(f"none.{suffix}").touch()
    path = suffix if suffix in ("parquet", "arrow") else "json"
    with pytest.raises(CorpusError, match=rf"none\.{suffix} is empty \(0 bytes\)"):
        texts(path=path, data_files=f"none.{suffix}")


def test_a_file_that_is_not_what_its_name_says() -> None:
    with pytest.raises(CorpusError, match=r"x\.jsonl\.gz is no gzip file, though its name ends"):
        texts(**cut_short("x.jsonl.gz", LINES))
    with pytest.raises(CorpusError, match=r"y\.parquet is no whole Parquet file"):
        texts(path="parquet", data_files=cut_short("y.parquet", LINES)["data_files"])


@pytest.mark.parametrize("path", ["json", "csv", "text"])
def test_parquet_that_is_read_as_text_is_told_from_another_encoding(path: str) -> None:
    table = pa.table({"text": [f"größe {i}" for i in range(300)]})
    pq.write_table(table, "mistaken.data")
    with pytest.raises(CorpusError, match=r"mistaken\.data.* of a Parquet file.* path: parquet"):
        texts(path=path, data_files="mistaken.data")


@pytest.mark.parametrize("suffix", ["txt", "jsonl", "csv"])
def test_a_file_in_latin_1_is_named_among_many(suffix: str) -> None:
    Path("many").mkdir()
    good = {"txt": "text", "jsonl": json.dumps({"text": "text"}), "csv": "text\ntext\n"}[suffix]
    for i in range(50):
        Path(f"many/{i:02}.{suffix}").write_text(good)
    bad = {"txt": "größe", "jsonl": '{"text": "größe"}', "csv": "text\ngröße\n"}[suffix]
    Path(f"many/31.{suffix}").write_bytes(bad.encode("latin-1"))
    path = {"txt": "text", "jsonl": "json", "csv": "csv"}[suffix]
    with pytest.raises(
        CorpusError, match=rf"many/31\.{suffix}.* is not UTF-8 \(byte 0xf6\); convert the file"
    ):
        texts(path=path, data_files="many")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": "json", "data_files": "missing.jsonl"}, r"domains\.web\.data_files: no file"),
        (
            {"path": "json", "data_files": {"train": ["rows.jsonl", "missing.jsonl"]}},
            r"no file matches 'missing\.jsonl' \(looked in ",
        ),
        ({"path": "json", "data_files": "texts"}, r"the folder 'texts' holds no json files"),
        (
            {"path": "json", "data_files": "rows.jsonl", "text_column": "body"},
            r"domains\.web\.text_column: rows\.jsonl has no column 'body'; it has text",
        ),
        (
            {"path": "parquet", "data_files": "rows.parquet", "text_column": "text.body"},
            r"domains\.web\.text_column: rows\.parquet has no column 'text\.body'; it has text",
        ),
        (
            {"path": "csv", "data_files": "rows.csv", "text_column": "body"},
            r"domains\.web\.text_column: rows\.csv has no column 'body'; it has text, number",
        ),
        (
            {"path": "parquet", "data_files": "rows.parquet", "text_column": "number"},
            r"column 'number' of rows\.parquet holds int64, not text",
        ),
        (
            {"path": "csv", "data_files": "rows.csv", "text_column": "number"},
            r"text_column: column 'number' of rows\.csv holds numbers \(1\), not text",
        ),
        (
            {"path": "json", "data_files": "rows.jsonl", "split": "test"},
            r"domains\.web\.split: data_files of rows\.jsonl have no split 'test'; they have",
        ),
        ({"path": "nobody/nothing"}, r"domains\.web: datasets cannot find nobody/nothing"),
    ],
)
def test_what_cannot_be_read_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        texts(**fields)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("no json", r"bad\.jsonl, line 1 is no JSON"),
        ('{"text": "a"}\n\n{"text": "b"', r"bad\.jsonl, line 3 is no JSON"),
        ('{"text": 5}', r"text_column: bad\.jsonl, line 1: 'text' holds the number 5, not text"),
        ('{"text": "a"}\n{"text": ["b"]}', r"line 2: 'text' holds a list, not text"),
        ('["text"]\n["b"]', r"bad\.jsonl is no JSON"),
        ('"text"', r"line 1 holds a str, not an object with columns"),
    ],
)
def test_a_bad_line_is_named(lines: str, message: str) -> None:
    Path("bad.jsonl").write_text(lines)
    with pytest.raises(CorpusError, match=message):
        texts(path="json", data_files="bad.jsonl")


# -- definitions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "either environment"),
        ({"environment": "python", "path": "json"}, "either environment"),
        ({"environment": "rust"}, "no collection is called 'rust'; there are python, cpp"),
        ({"environment": "python", "data_files": "x"}, "data_files go with path"),
        ({"environment": "python", "filter": {"a": 1}}, "filter go with path"),
        ({"path": "json"}, "is a format and needs data_files"),
        ({"path": "rows.jsonl"}, r"write path: json, data_files: rows\.jsonl"),
        ({"path": "json", "data_file": "x"}, "Extra inputs are not permitted"),
        ({"path": "json", "data_files": "x", "filter": {"a": []}}, "lets nothing through"),
        ({"path": "json", "data_files": "x", "split": "a+b"}, "no split with at most one slice"),
        (
            {"path": "a/b", "streaming": True, "split": "train[:5%]"},
            "streaming: true does not reach",
        ),
        ({"path": "bin", "data_files": "x", "tokenizer": "t"}, "needs their dtype"),
        ({"path": "npy", "data_files": "x"}, "name it in tokenizer"),
        ({"path": "json", "data_files": "x", "tokens_column": "ids"}, "name it in tokenizer"),
        ({"path": "json", "data_files": "x", "tokenizer": "t"}, "tokenizer goes with"),
        ({"path": "json", "data_files": "x", "dtype": "uint16"}, "dtype goes with path 'bin'"),
    ],
)
def test_a_wrong_source_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DomainSource.model_validate(fields)


# -- identity --------------------------------------------------------------------------------


def test_identity_is_content_and_not_time() -> None:
    source = DomainSource(path="json", data_files="*.jsonl")
    before = inventory("domains.web", source)
    assert list(before) == ["other.jsonl", "rows.jsonl"]
    os.utime("rows.jsonl", (1_000, 1_000))
    assert inventory("domains.web", source) == before
    Path("copy").write_bytes(LINES)
    os.replace("copy", "rows.jsonl")
    assert inventory("domains.web", source) == before
    Path("rows.jsonl").unlink()
    assert list(inventory("domains.web", source)) == ["other.jsonl"]
    with pytest.raises(CorpusError, match=r"domains\.web\.data_files: no file"):
        inventory("domains.web", DomainSource(path="json", data_files="rows.jsonl"))


@pytest.mark.parametrize("in_place", [True, False])
def test_a_file_replaced_under_its_old_size_and_time_is_noticed(
    in_place: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optuna_mde_trainers.corpus.identity.SETTLED_SECONDS", -1.0)
    source = DomainSource(path="json", data_files="rows.jsonl")
    before = inventory("domains.web", source)
    old = os.stat("rows.jsonl")
    other = "rows.jsonl" if in_place else "new.jsonl"
    time.sleep(0.02)  # a tick of the file system's clock
    Path(other).write_bytes(LINES.replace(b"third", b"thord"))
    os.utime(other, ns=(old.st_atime_ns, old.st_mtime_ns))
    os.replace(other, "rows.jsonl")
    new = os.stat("rows.jsonl")
    assert (new.st_size, new.st_mtime_ns) == (old.st_size, old.st_mtime_ns)
    assert inventory("domains.web", source) != before


def test_a_file_is_hashed_once_while_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optuna_mde_trainers.corpus.identity.SETTLED_SECONDS", -1.0)
    source = DomainSource(path="json", data_files="rows.jsonl")
    before = inventory("domains.web", source)

    def unread(file: str) -> str:
        raise AssertionError("read again")

    monkeypatch.setattr("optuna_mde_trainers.corpus.identity.hash_of", unread)
    assert inventory("domains.web", source) == before


def test_an_inventory_of_a_folder_lists_its_files_and_of_the_hub_nothing() -> None:
    assert list(inventory("domains.web", DomainSource(path="texts"))) == [
        f"texts/{i}.txt" for i in range(3)
    ]
    assert inventory("domains.web", DomainSource(path="nobody/nothing", revision="v1")) == {}


def test_an_inventory_of_the_environment_names_packages() -> None:
    held = inventory("domains.code", DomainSource(environment="cython"))
    assert "scikit-learn (cython)" in held


# -- the hub and other machines --------------------------------------------------------------


def test_a_dataset_with_configurations_and_splits() -> None:
    """A repository of the hub is a folder with such a README."""
    Path("repo/code").mkdir(parents=True)
    Path("repo/README.md").write_text(
        "---\nconfigs:\n"
        "- config_name: prose\n  data_files: prose.jsonl\n"
        "- config_name: code\n  data_files:\n"
        "  - {split: train, path: code/a*.parquet}\n  - {split: test, path: code/b.parquet}\n---\n"
    )
    Path("repo/prose.jsonl").write_text('{"text": "prose"}\n')
    pq.write_table(pa.table({"text": ["a1"], "meta": [1]}), "repo/code/a1.parquet")
    pq.write_table(pa.table({"text": ["a2"], "meta": ["x"]}), "repo/code/a2.parquet")
    pq.write_table(pa.table({"text": ["b"]}), "repo/code/b.parquet")
    assert texts(path="repo", name="prose") == ["prose"]
    assert texts(path="repo", name="code") == ["a1", "a2"]  # though their other columns differ
    assert texts(path="repo", name="code", split="test") == ["b"]
    with pytest.raises(CorpusError, match=r"domains\.web: datasets cannot find repo .*code"):
        texts(path="repo", name="other")
    with pytest.raises(CorpusError, match=r"domains\.web\.split: repo has no split 'x'; it has "):
        texts(path="repo", name="code", split="x")


def test_files_of_a_web_server(folder: Path) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        Path("p.jsonl.zst").write_bytes(PACKED["zst"](LINES))
        assert texts(path="json", data_files=f"{url}/p.jsonl.zst") == TEXTS
        assert texts(path="json", data_files=f"{url}/rows.jsonl") == TEXTS
        server.shutdown()
