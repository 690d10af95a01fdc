"""The experts' table, against loops over tokens and finite differences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optuna_mde.mde.experts import ExpertTable, load_table
from optuna_mde.mde.logprobs import ExpertFileError, load_logprobs, save_logprobs

DOMAINS = ("web", "code", "books")


def logprobs(tokens: int = 101, sets: tuple[str, ...] = ("a", "b"), seed: int = 0):
    rng = np.random.default_rng(seed)
    return {
        domain: {s: -rng.gamma(2.0, 2.0, tokens).astype(np.float32) for s in sets}
        for domain in DOMAINS
    }


def brute_force(data, rates, name: str) -> float:
    tokens = len(next(iter(data.values()))[name])
    total = 0.0
    for t in range(tokens):
        mixed = 0.0
        for domain, rate in zip(DOMAINS, rates, strict=True):
            mixed += rate * np.exp(np.float64(data[domain][name][t]))
        total -= np.log(mixed)
    return total / tokens


def test_losses_equal_the_loop_over_tokens() -> None:
    data = logprobs()
    table = ExpertTable(DOMAINS, data)
    rates = np.random.default_rng(1).dirichlet(np.ones(3), 5)
    expected = [[brute_force(data, r, s) for s in ("a", "b")] for r in rates]
    np.testing.assert_allclose(table.losses(rates), expected, rtol=1e-6)
    assert table.losses(rates.reshape(5, 1, 3)).shape == (5, 1, 2)
    assert table.losses(rates[:0]).shape == (0, 2)
    assert table.losses(rates).dtype == np.float64


def test_corners_are_the_experts_own_losses() -> None:
    data = logprobs()
    table = ExpertTable(DOMAINS, data)
    own = [[-data[d][s].mean(dtype=np.float64) for s in ("a", "b")] for d in DOMAINS]
    np.testing.assert_allclose(table.losses(np.eye(3)), own, rtol=0, atol=1e-6)


def test_losses_are_convex_along_random_lines() -> None:
    table = ExpertTable(DOMAINS, logprobs())
    rng = np.random.default_rng(2)
    a, b = rng.dirichlet(np.ones(3), 50), rng.dirichlet(np.full(3, 0.2), 50)
    share = rng.random((50, 1))
    between = table.losses(share * a + (1 - share) * b)
    assert (between <= share * table.losses(a) + (1 - share) * table.losses(b) + 1e-12).all()


def test_no_token_can_underflow() -> None:
    """Experts that agree a token is impossible, and one that alone knows it."""
    data = {d: {"a": np.full(16, -80.0, np.float32)} for d in DOMAINS}
    data["code"]["a"] = np.full(16, -200.0, np.float32)
    table = ExpertTable(DOMAINS, data)
    losses = table.losses(np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]))
    np.testing.assert_allclose(losses[:, 0], [80.0, 80.0 + np.log(2.0)], rtol=1e-6)
    assert np.isfinite(table.losses(np.array([0.0, 1.0, 0.0]))).all()


def test_gradients_equal_finite_differences() -> None:
    table = ExpertTable(DOMAINS, logprobs())
    rates = np.array([0.2, 0.5, 0.3])
    step = 1e-6
    expected = [
        (table.losses(rates + step * e) - table.losses(rates - step * e)) / (2 * step)
        for e in np.eye(3)
    ]
    np.testing.assert_allclose(table.gradients(rates), np.transpose(expected), rtol=1e-5)


def test_a_missing_expert_leaves_the_mixture_of_the_others() -> None:
    data = logprobs()
    del data["books"]["b"]
    table = ExpertTable(DOMAINS, data)
    rates = np.array([0.2, 0.3, 0.5])
    without = {d: data[d] for d in ("web", "code")}
    renormalised = np.array([0.4, 0.6])
    expected = ExpertTable(("web", "code"), without).losses(renormalised)
    np.testing.assert_allclose(table.losses(rates)[1], expected[1], rtol=1e-7)
    # nothing is known of the corner of the missing expert: the others' average
    assert np.isfinite(table.losses(np.array([0.0, 0.0, 1.0]))).all()
    step = 1e-6
    numeric = [
        (table.losses(rates + step * e) - table.losses(rates - step * e))[1] / (2 * step)
        for e in np.eye(3)
    ]
    np.testing.assert_allclose(table.gradients(rates)[1], numeric, rtol=1e-4, atol=1e-9)


def test_a_set_of_one_expert_has_no_mde_loss() -> None:
    data = logprobs()
    del data["books"]["b"], data["code"]["b"]
    assert ExpertTable(DOMAINS, data).sets == ("a",)


def test_experts_must_share_their_tokens() -> None:
    data = logprobs()
    data["web"]["a"] = data["web"]["a"][:50]
    with pytest.raises(ExpertFileError, match="set 'a' has different numbers of tokens"):
        ExpertTable(DOMAINS, data)


def test_a_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    data = logprobs()["web"]
    url = save_logprobs(tmp_path / "x" / "web.safetensors", data, domain="web", sets={"a": "f1"})
    arrays, metadata = load_logprobs(url)
    assert arrays.keys() == data.keys()
    for name, values in data.items():
        np.testing.assert_array_equal(arrays[name], values)
    assert metadata["domain"] == "web"
    assert json.loads(metadata["sets"]) == {"a": "f1"}
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["web.safetensors"]  # nothing partial


@pytest.mark.parametrize(
    "values",
    [
        torch.tensor([-1.0, -2.0], dtype=torch.bfloat16),
        torch.tensor([-1.0, -2.0], requires_grad=True) * 1,
        [torch.tensor(-1.0, requires_grad=True), torch.tensor(-2.0)],
        np.array([-1, -2], dtype=np.int8),
        [-1, -2.0],
    ],
)
def test_log_probabilities_of_any_kind_are_written(tmp_path: Path, values: Any) -> None:
    facts = {"tokens": np.int64(5), "lr": torch.tensor(0.5), "sizes": np.arange(2)}
    url = save_logprobs(tmp_path / "x.safetensors", {"a": values}, **facts)
    arrays, metadata = load_logprobs(url)
    assert arrays["a"].tolist() == [-1.0, -2.0]
    assert (metadata["tokens"], metadata["lr"], metadata["sizes"]) == ("5", "0.5", "[0, 1]")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a"], "array of numbers"),
        ([0.5], "at most 0"),
        ([float("nan")], "at most 0"),
        ([[-1.0]], r"shape \[T\]"),
        ([], r"shape \[T\]"),
    ],
)
def test_what_is_no_log_probability_is_refused(tmp_path: Path, values, message: str) -> None:
    with pytest.raises(ExpertFileError, match=message):
        save_logprobs(tmp_path / "x.safetensors", {"a": values})
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize("content", [b"", b"not a tensor", b"\xff" * 64])
def test_hostile_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ExpertFileError, match="no readable log-probability file"):
        load_logprobs(path)


def test_a_table_leaves_out_files_that_do_not_belong(tmp_path: Path) -> None:
    data = logprobs()
    files = {
        domain: save_logprobs(
            tmp_path / domain,
            data[domain],
            tokenizer="t1" if domain != "books" else "t2",
            sets={"a": "f", "b": "f"},
        )
        for domain in DOMAINS
    }
    table, refused = load_table(DOMAINS, files | {"ghost": str(tmp_path / "ghost")})
    assert set(refused) == {"books", "ghost"}
    assert "other tokens, tokenizer or fingerprint" in refused["books"]
    expected = ExpertTable(DOMAINS, {d: data[d] for d in ("web", "code")})
    rates = np.array([0.3, 0.3, 0.4])
    np.testing.assert_allclose(table.losses(rates), expected.losses(rates))
