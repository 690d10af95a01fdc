"""Experts' files that are wrong, gone for a while, or written anew; files at URLs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fsspec.registry import known_implementations

from optuna_mde.mde.loading import Reader, Source, load_experts
from optuna_mde.mde.logprobs import ExpertFileError, load_logprobs, save_logprobs, version
from tests.optuna_mde.web_server import Server

DOMAINS = ("web", "code", "books")
SETS = ("a", "b")


def logprobs(seed: int = 0, tokens: int = 3000) -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return {d: {s: -rng.gamma(2.0, 2.0, tokens) for s in SETS} for d in DOMAINS}


def sources(
    folder: Path | str, data: dict[str, Any], told: bool = True
) -> dict[str, list[Source]]:
    """Files of the experts, whose trials reported the losses of `logprobs()`."""
    true = logprobs()
    return {
        d: [
            Source(
                save_logprobs(f"{folder}/{d}.safetensors", data[d]),
                tuple((s, float(-true[d][s].mean())) for s in SETS) if told else (),
            )
        ]
        for d in DOMAINS
    }


def corners(experts: Any) -> np.ndarray:
    return experts.table.losses(np.eye(len(DOMAINS)))


@pytest.mark.parametrize(("base", "name"), [(10.0, "base 10"), (2.0, "base 2"), (1.06, "")])
def test_a_file_in_another_unit_than_its_trials_losses_is_refused(
    tmp_path: Path, base: float, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = logprobs()
    scale = 1.0 / np.log(base) if name else base
    data["code"] = {s: values * scale for s, values in data["code"].items()}
    experts = load_experts(DOMAINS, sources(tmp_path, data))
    assert list(experts.refused) == ["code"]
    assert "code.safetensors contradicts the losses that its own trial" in experts.refused["code"]
    assert f"{-data['code']['a'].mean():.4g} by the file" in experts.refused["code"]
    assert experts.refused["code"].endswith(f"to {name} would give" if name else "reported)")
    assert experts.refused["code"] in caplog.text
    others = {d: own for d, own in sources(tmp_path, data).items() if d != "code"}
    without = corners(load_experts(DOMAINS, others))
    np.testing.assert_allclose(corners(experts)[[0, 2]], without[[0, 2]])


def test_a_file_that_was_passed_in_may_have_another_level(tmp_path: Path) -> None:
    data = {d: {s: 0.8 * v for s, v in sets.items()} for d, sets in logprobs().items()}
    experts = load_experts(DOMAINS, sources(tmp_path, data, told=False))
    assert experts.refused == {}
    np.testing.assert_allclose(corners(experts)[1, 0], -data["code"]["a"].mean(), rtol=1e-6)


def test_losses_that_are_rounded_or_of_bfloat16_are_believed(tmp_path: Path) -> None:
    import torch

    data = {
        d: {s: torch.from_numpy(v).to(torch.bfloat16) for s, v in sets.items()}
        for d, sets in logprobs().items()
    }
    files = sources(tmp_path, data)
    rounded = {
        d: [Source(own[0].url, tuple((s, round(v, 1)) for s, v in own[0].losses))]
        for d, own in files.items()
    }
    assert load_experts(DOMAINS, rounded).refused == {}


def test_one_set_that_differs_leaves_the_others(tmp_path: Path) -> None:
    data = logprobs()
    data["code"]["b"] = data["code"]["b"] * 0.8
    experts = load_experts(DOMAINS, sources(tmp_path, data))
    assert "'b'" in experts.refused["code"]
    assert "'a'" not in experts.refused["code"]
    owners = {name: t.experts.tolist() for name, t in zip(SETS, experts.table.tables, strict=True)}
    assert owners == {"a": [0, 1, 2], "b": [0, 2]}


@pytest.mark.parametrize("fault", ["unit", "gone"])
def test_the_next_file_of_a_domain_serves_where_one_is_wrong(tmp_path: Path, fault: str) -> None:
    data = logprobs()
    files = sources(tmp_path, data)
    wrong = save_logprobs(tmp_path / "wrong", {s: v / 3 for s, v in data["code"].items()})
    if fault == "gone":
        Path(wrong).unlink()
    files["code"] = [Source(wrong, files["code"][0].losses), *files["code"]]
    experts = load_experts(DOMAINS, files)
    assert wrong in experts.refused["code"]
    np.testing.assert_allclose(corners(experts)[1, 0], -data["code"]["a"].mean(), rtol=1e-6)


def put_on(server: Server, folder: Path, data: dict[str, Any]) -> dict[str, list[Source]]:
    """The experts' files, on a server."""
    for own in sources(folder, data).values():
        server.files[Path(own[0].url).name] = Path(own[0].url).read_bytes()
    return {d: [Source(f"{server.url}/{d}.safetensors")] for d in data}


def test_files_lie_at_any_url_of_fsspec() -> None:
    data = logprobs()
    files = sources("memory://experts", data)
    np.testing.assert_allclose(
        corners(load_experts(DOMAINS, files))[0], [-data["web"][s].mean() for s in SETS], rtol=1e-6
    )
    arrays, _ = load_logprobs("memory://experts/web.safetensors")
    np.testing.assert_array_equal(arrays["a"], data["web"]["a"].astype(np.float32))


def test_files_lie_at_http(server: Server, tmp_path: Path) -> None:
    data = logprobs()
    experts = load_experts(DOMAINS, put_on(server, tmp_path, data))
    assert experts.refused == {}
    np.testing.assert_allclose(corners(experts)[0, 0], -data["web"]["a"].mean(), rtol=1e-6)


@pytest.mark.parametrize("where", ["local", "memory", "http"])
def test_a_file_that_is_written_anew_is_read_anew(
    where: str, server: Server, tmp_path: Path
) -> None:
    def put(data: dict[str, Any]) -> dict[str, list[Source]]:
        if where == "http":
            return put_on(server, tmp_path, data)
        return sources(tmp_path if where == "local" else "memory://anew", data, told=False)

    reader, first, second = Reader(), logprobs(0), logprobs(1)  # as many bytes in both
    files = put(first)
    before = reader.read(DOMAINS, files)
    assert reader.read(DOMAINS, files) is before
    assert put(second) == files
    after = reader.read(DOMAINS, files)
    assert after is not before
    np.testing.assert_allclose(corners(after)[0, 0], -second["web"]["a"].mean(), rtol=1e-6)


@pytest.mark.parametrize("answers", [(), ("HEAD",)])
def test_a_server_that_is_down_for_a_while_is_asked_again(
    answers: tuple[str, ...], server: Server, tmp_path: Path
) -> None:
    reader, files = Reader(), put_on(server, tmp_path, logprobs())
    server.answers = answers
    down = reader.read(DOMAINS, files)
    assert set(down.refused) == set(DOMAINS)
    assert down.table.sets == ()
    server.answers = ("HEAD", "GET")
    up = reader.read(DOMAINS, files)
    assert up.refused == {}
    assert up.table.sets == SETS
    server.answers = answers  # what is known serves on
    assert reader.read(DOMAINS, files) is up


def test_a_scheme_without_its_package_is_a_refused_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {"class": "no_such_package.FileSystem", "err": "Install no_such_package"}
    monkeypatch.setitem(known_implementations, "nowhere", entry)
    files = {
        **sources(tmp_path, logprobs()),
        "code": [Source("nowhere://bucket/code.safetensors")],
    }
    experts = load_experts(DOMAINS, files)
    assert list(experts.refused) == ["code"]
    assert "Install no_such_package" in experts.refused["code"]
    assert experts.table.sets == SETS
    assert version(files["code"][0].url) is None
    with pytest.raises(ExpertFileError, match=r"cannot be written .*Install no_such_package"):
        save_logprobs("nowhere://bucket/x", logprobs()["web"])
