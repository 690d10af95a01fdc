"""Files as they are found: packed, in shards, and damaged."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from optuna_mde_trainers.corpus.documents import CorpusError
from optuna_mde_trainers.corpus.prompts.rows import rows
from optuna_mde_trainers.corpus.prompts.source import TaskSource

ROWS = [{"prompt": f"{n} is", "target": f"Zahl {n} ä", "meta": {"n": n}} for n in range(300)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def _parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), path)


def _arrow(path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)


def _csv(path: Path) -> None:
    path.write_text(
        "prompt,target\r\n" + "".join(f'{r["prompt"]},"{r["target"]}"\r\n' for r in ROWS)
    )


WRITTEN: dict[str, Callable[[Path], Any]] = {
    "a.jsonl": lambda path: path.write_bytes(LINES),
    "a[1].jsonl": lambda path: path.write_bytes(LINES),
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES)),
    "a.jsonl.zst": lambda path: path.write_bytes(zstandard.compress(LINES)),
    "a.json": lambda path: path.write_text(json.dumps(ROWS)),
    "a.csv": _csv,
    "a.parquet": _parquet,
    "a.arrow": _arrow,
}


def _read(path: Path, kind: str, **fields: Any) -> list[dict[str, Any]]:
    source = {"path": kind, "data_files": str(path), **fields}
    return [dict(row) for _, row in rows("tasks.x", TaskSource.model_validate(source))]


@pytest.mark.parametrize("name", WRITTEN)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    WRITTEN[name](tmp_path / name)
    kind = next((k for k in ("csv", "parquet", "arrow") if name.endswith(k)), "json")
    columns = ("prompt", "target") if kind == "csv" else ("prompt", "target", "meta")
    expected = [{column: row[column] for column in columns} for row in ROWS]
    assert _read(tmp_path / name, kind) == expected


def test_shards_may_differ_in_columns_and_a_split_in_length(tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_bytes(LINES)
    (tmp_path / "2.jsonl").write_text('{"prompt": "a", "target": "b", "meta": "text"}\n')
    (tmp_path / "_SUCCESS").touch()
    assert len(_read(tmp_path, "json")) == 301
    assert _read(tmp_path / "*", "json", split="train[299:]") == [
        ROWS[-1],
        {"prompt": "a", "target": "b", "meta": "text"},
    ]
    assert _read(tmp_path, "json", split="train[:10%]") == ROWS[:30]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl.gz", gzip.compress(LINES)[:-200], "damaged or was cut short"),
        ("a.jsonl.gz", b"", "is empty"),
        ("a.jsonl", LINES[:-9], "line 300 of"),
        ("a.jsonl", LINES.replace("ä".encode(), b"\xe4"), "is not UTF-8"),
        ("a.jsonl", b"[1, 2]", "no object with columns"),
        ("a.parquet", LINES, "no whole Parquet file"),
        ("a.arrow", LINES, "no whole Arrow file"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    kind = next((k for k in ("parquet", "arrow") if name.endswith(k)), "json")
    with pytest.raises(CorpusError, match=r"^tasks\.x: ") as caught:
        _read(tmp_path / name, kind)
    assert str(tmp_path / name) in str(caught.value)
    assert words in str(caught.value)
