"""Tokens that stay in their files, against the same tokens in memory."""

from __future__ import annotations

import functools
import http.server
import json
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from optuna_mde.mde import token_files
from optuna_mde.mde.experts import ExpertTable, load_table, open_table
from optuna_mde.mde.logprobs import (
    ExpertFileError,
    LogprobFile,
    UnusableFileError,
    load_logprobs,
    save_logprobs,
)

DOMAINS = ("web", "code", "books")


def logprobs(tokens: int = 1000) -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return {
        domain: {s: -rng.gamma(2.0, 2.0, tokens).astype(np.float32) for s in ("b", "a")}
        for domain in DOMAINS
    }


def saved(folder: Path, data: dict[str, dict[str, np.ndarray]]) -> dict[str, str]:
    return {d: save_logprobs(folder / f"{d}.safetensors", data[d]) for d in DOMAINS}


def test_losses_and_gradients_are_those_of_the_tokens_in_memory(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(token_files, "_BLOCK", 96)  # so that there are several, and a rest
    data = logprobs()
    del data["books"]["b"]
    opened, refused = open_table(DOMAINS, saved(tmp_path, data))
    assert not refused
    expected = ExpertTable(DOMAINS, data)
    rates = np.random.default_rng(1).dirichlet(np.ones(3), 7)
    order = [expected.sets.index(name) for name in opened.sets]
    for table in (opened, opened.in_memory()):
        np.testing.assert_allclose(table.losses(rates), expected.losses(rates)[:, order])
        np.testing.assert_allclose(
            table.gradients(rates), expected.gradients(rates)[:, order], rtol=1e-6
        )


@pytest.mark.parametrize(
    ("dtype", "rounding"),
    [(torch.float16, 1e-3), (torch.bfloat16, 1e-2), (torch.float32, 0.0), (torch.float64, 0.0)],
)
def test_every_kind_of_number_is_read(tmp_path: Path, dtype, rounding: float) -> None:
    values = logprobs()["web"]["a"]
    save_file({"a": torch.from_numpy(values).to(dtype)}, tmp_path / "x.safetensors")
    file = LogprobFile.open(str(tmp_path / "x.safetensors"))
    assert file.sets == {"a": 1000}
    with file.reading() as stream:
        read = file.read(stream, "a", 300, 1000)
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, values[300:], rtol=rounding)
    np.testing.assert_array_equal(load_logprobs(file.url)[0]["a"][300:], read)


@pytest.mark.parametrize("value", [float("nan"), 0.5])
def test_a_file_whose_numbers_are_no_log_probabilities_is_left_out(tmp_path, value) -> None:
    files = saved(tmp_path, logprobs())
    broken = logprobs()["code"]
    broken["b"][-1] = value
    save_file({k: torch.from_numpy(v) for k, v in broken.items()}, files["code"])
    with pytest.raises(UnusableFileError, match=r"code.safetensors: b: .* at most 0"):
        open_table(DOMAINS, files)[0].in_memory()
    with pytest.raises(ExpertFileError, match=r"code.safetensors: b: .* at most 0"):
        load_logprobs(files["code"])
    table, refused = load_table(DOMAINS, files)
    assert refused.keys() == {"code"}
    assert [tokens.experts.tolist() for tokens in table.tables] == [[0, 2], [0, 2]]


def test_a_file_that_is_cut_off_is_left_out(tmp_path: Path) -> None:
    files = saved(tmp_path, logprobs())
    content = Path(files["web"]).read_bytes()
    Path(files["web"]).write_bytes(content[:-1])
    assert open_table(DOMAINS, files)[1].keys() == {"web"}
    Path(files["web"]).write_bytes(content)
    table, refused = open_table(DOMAINS, files)
    assert not refused
    Path(files["web"]).write_bytes(content[:5000])  # while it is in use
    with pytest.raises(UnusableFileError, match=r"web.safetensors: no readable"):
        table.losses(np.full((1, 3), 1 / 3))


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}},
        {"a": {"dtype": "I64", "shape": [2], "data_offsets": [0, 16]}},
        {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 12]}},
        {"a": {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}},
        {"a": {"dtype": "F32", "data_offsets": [0, 16]}},
        {"a": 3},
    ],
)
def test_headers_of_other_hands_are_refused(tmp_path: Path, header: object) -> None:
    text = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    with pytest.raises(UnusableFileError, match="no readable log-probability file"):
        LogprobFile.open(str(path))


def test_files_on_a_server_that_sends_them_whole_are_read(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("aiohttp")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    data = logprobs()
    files = saved(tmp_path, data)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        remote = {
            d: f"http://127.0.0.1:{server.server_port}/{Path(url).name}"
            for d, url in files.items()
        }
        table, refused = open_table(DOMAINS, remote)
        losses = [table.losses(np.eye(3)) for _ in range(2)][1]
        server.shutdown()
    assert not refused
    copies = list(temporary.iterdir())
    assert len(copies) == 3  # one of each file
    del table
    assert not any(copy.exists() for copy in copies)
    np.testing.assert_allclose(losses, open_table(DOMAINS, files)[0].losses(np.eye(3)))


def test_memory_urls_are_read() -> None:
    data = logprobs()
    files = {d: save_logprobs(f"memory://tokens/{d}", data[d]) for d in DOMAINS}
    table, refused = open_table(DOMAINS, files)
    assert not refused
    np.testing.assert_allclose(
        table.losses(np.eye(3))[:, 0], [-data[d]["a"].mean() for d in DOMAINS], rtol=1e-5
    )
