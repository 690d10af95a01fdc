from __future__ import annotations

import json
import os
from pathlib import Path

import datasets
import pytest
from optuna_mde_trainers.corpus.documents import CorpusError
from optuna_mde_trainers.corpus.sources import DomainSource, inventory, read
from pydantic import ValidationError

TEXTS = ["one text\nof two lines", "größer", "a third"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the same three texts in every format."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    rows = datasets.Dataset.from_dict({"text": TEXTS, "number": [1, 2, 3]})
    rows.to_parquet("rows.parquet")
    rows.to_csv("rows.csv", index=False)
    Path("rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    Path("other.jsonl").write_text(json.dumps({"text": "held out"}) + "\n")
    Path("texts").mkdir()
    for i, text in enumerate(TEXTS):
        Path(f"texts/{i}.txt").write_text(text)
    return tmp_path


def texts(**fields: object) -> list[str | None]:
    return list(read("domains.web", DomainSource.model_validate(fields)).texts)


@pytest.mark.parametrize(
    ("path", "data_files"),
    [
        ("json", "rows.jsonl"),
        ("json", "r*.jsonl"),
        ("json", ["rows.jsonl"]),
        ("json", {"train": "rows.jsonl", "validation": "other.jsonl"}),
        ("csv", "rows.csv"),
        ("parquet", "rows.parquet"),
        ("text", "texts/*.txt"),
    ],
)
def test_local_files_of_every_format(path: str, data_files: object) -> None:
    assert texts(path=path, data_files=data_files) == TEXTS


def test_a_folder_splits_and_columns() -> None:
    files = {"train": "rows.jsonl", "validation": "other.jsonl"}
    source = DomainSource(path="json", data_files=files, validation_split="validation")
    assert list(read("domains.web", source, split="validation").texts) == ["held out"]
    assert texts(path="json", data_files=files, split="train[:2]") == TEXTS[:2]
    Path("body.jsonl").write_text(json.dumps({"text": 1, "body": "b"}))
    assert texts(path="json", data_files="body.jsonl", text_column="body") == ["b"]
    assert texts(path="parquet", data_files=str(Path("rows.parquet").absolute())) == TEXTS
    Path("alone").mkdir()
    Path("rows.parquet").rename("alone/rows.parquet")
    assert texts(path="alone") == TEXTS


def test_a_collection_of_the_environment_has_names() -> None:
    found = read("domains.code", DomainSource(environment="cython"))
    assert found.names is not None
    assert len(found.names) == len(found.texts) > 50


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": "json", "data_files": "missing.jsonl"}, r"domains\.web\.data_files: no file"),
        (
            {"path": "json", "data_files": {"train": "rows.jsonl", "test": "missing.jsonl"}},
            r"no file matches 'missing\.jsonl' \(looked in ",
        ),
        (
            {"path": "json", "data_files": "rows.jsonl", "text_column": "body"},
            r"domains\.web\.text_column: rows\.jsonl has no column 'body'; it has text",
        ),
        (
            {"path": "parquet", "data_files": "rows.parquet", "text_column": "number"},
            r"column 'number' of rows\.parquet holds int64, not text",
        ),
        (
            {"path": "json", "data_files": "rows.jsonl", "split": "test"},
            r"domains\.web: .* split 'test' of rows\.jsonl .*check path, name, data_files",
        ),
        ({"path": "nobody/nothing"}, r"domains\.web: .* of nobody/nothing .*reach"),
    ],
)
def test_what_cannot_be_read_is_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        texts(**fields)


def test_a_damaged_file_is_named() -> None:
    Path("rows.jsonl").write_text("no json")
    with pytest.raises(CorpusError, match=r"of rows\.jsonl \(JSON parse error"):
        texts(path="json", data_files="rows.jsonl")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "either environment"),
        ({"environment": "python", "path": "json"}, "either environment"),
        ({"environment": "rust"}, "no collection is called 'rust'; there are python, cpp"),
        ({"environment": "python", "data_files": "x"}, "data_files go with path"),
        ({"path": "json"}, "is a format and needs data_files"),
        ({"path": "rows.jsonl"}, r"write path: json, data_files: rows\.jsonl"),
        ({"path": "json", "data_file": "x"}, "Extra inputs are not permitted"),
    ],
)
def test_a_wrong_source_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DomainSource.model_validate(fields)


def test_an_inventory_sees_local_files_change() -> None:
    source = DomainSource(path="json", data_files="*.jsonl")
    before = inventory("domains.web", source)
    assert list(before) == ["other.jsonl", "rows.jsonl"]
    assert inventory("domains.web", source) == before
    os.utime("rows.jsonl", (1_000, 1_000))
    assert inventory("domains.web", source) != before
    Path("rows.jsonl").unlink()
    assert list(inventory("domains.web", source)) == ["other.jsonl"]
    with pytest.raises(CorpusError, match=r"domains\.web\.data_files: no file"):
        inventory("domains.web", DomainSource(path="json", data_files="rows.jsonl"))


def test_an_inventory_of_a_folder_lists_its_files_and_of_the_hub_nothing() -> None:
    assert list(inventory("domains.web", DomainSource(path="texts"))) == [
        f"texts/{i}.txt" for i in range(3)
    ]
    assert inventory("domains.web", DomainSource(path="nobody/nothing", revision="v1")) == {}


def test_an_inventory_of_the_environment_names_packages() -> None:
    held = inventory("domains.code", DomainSource(environment="cython"))
    assert "scikit-learn (cython)" in held
