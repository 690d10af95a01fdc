"""Coresets that processes share through a folder."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from optuna_mde.mde import coreset_files
from optuna_mde.mde.coreset import Coreset
from optuna_mde.mde.coreset_files import FOLDER, coreset_of
from optuna_mde.mde.experts import ExpertTable, open_table
from optuna_mde.mde.logprobs import save_logprobs

DOMAINS = ("web", "code", "books")
RATES = torch.from_numpy(np.random.default_rng(1).dirichlet(np.ones(3), 50))


class Counted(Coreset):
    """Says how often a coreset was made of tokens."""

    made: list[int]

    def __init__(self, table: ExpertTable, seed: int = 0) -> None:
        super().__init__(table, seed)
        if table.sets:
            Counted.made.append(1)


@pytest.fixture(autouse=True)
def made(monkeypatch, tmp_path: Path) -> Iterator[list[int]]:
    """One entry for every coreset that was made; caches of its own."""
    Counted.made = []
    monkeypatch.setattr(coreset_files, "Coreset", Counted)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return Counted.made


def saved(folder: Path | str, tokens: int = 30_000, seed: int = 0) -> dict[str, str]:
    files = {}
    rng = np.random.default_rng(seed)
    for domain in DOMAINS:
        data = {s: -rng.gamma(2.0, 2.0, tokens).astype(np.float32) for s in ("a", "b")}
        files[domain] = save_logprobs(f"{folder}/{domain}.safetensors", data)
    return files


def asked(files: dict[str, str]) -> Coreset:
    """As a process does that knows nothing yet."""
    return coreset_of(open_table(DOMAINS, files)[0])


def kept(folder: Path) -> list[Path]:
    return sorted((folder / FOLDER).iterdir())


def test_a_kept_coreset_is_the_one_that_was_made(tmp_path: Path, made) -> None:
    files = saved(tmp_path / "experts")
    first, again = asked(files), asked(files)
    assert len(made) == 1
    assert torch.equal(first.losses(RATES), again.losses(RATES))
    np.testing.assert_array_equal(first.rms_error, again.rms_error)
    assert len(kept(tmp_path / "experts")) == 1  # no claim and nothing partial is left


def test_it_moves_with_its_experts(tmp_path: Path, made) -> None:
    saved(tmp_path / "experts")
    asked({d: str(tmp_path / "experts" / f"{d}.safetensors") for d in DOMAINS})
    (tmp_path / "experts").rename(tmp_path / "moved")
    asked({d: str(tmp_path / "moved" / f"{d}.safetensors") for d in DOMAINS})
    assert len(made) == 1


def test_another_content_under_the_same_name_has_another_coreset(tmp_path: Path, made) -> None:
    first = asked(saved(tmp_path / "experts"))
    second = asked(saved(tmp_path / "experts", seed=1))
    assert len(made) == 2
    assert not torch.equal(first.losses(RATES), second.losses(RATES))


def test_fewer_experts_have_another_coreset(tmp_path: Path, made) -> None:
    files = saved(tmp_path / "experts")
    asked(files)
    del files["code"]
    fewer = asked(files)
    assert len(made) == 2
    assert [tokens.experts.tolist() for tokens in fewer.tokens] == [[0, 2], [0, 2]]


def _cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def _nothing(path: Path) -> None:
    path.write_bytes(b"")


def _numbers_of_another_hand(path: Path) -> None:
    arrays = load_file(path)
    arrays["0.weights"] = arrays["0.weights"] * np.nan
    save_file(arrays, path, metadata={"sets": "[]"})


def _without_metadata(path: Path) -> None:
    save_file(load_file(path), path)


@pytest.mark.parametrize(
    "damage", [_cut_off, _nothing, _numbers_of_another_hand, _without_metadata, os.unlink]
)
def test_a_damaged_or_deleted_one_is_made_anew_without_a_word(
    tmp_path: Path, made, damage, caplog
) -> None:
    files = saved(tmp_path / "experts")
    first = asked(files)
    damage(kept(tmp_path / "experts")[0])
    assert torch.equal(asked(files).losses(RATES), first.losses(RATES))
    asked(files)
    assert len(made) == 2
    assert not caplog.records


def test_one_of_many_that_start_at_once_makes_it(tmp_path: Path, made, monkeypatch) -> None:
    class Slow(Counted):
        def __init__(self, table: ExpertTable, seed: int = 0) -> None:
            time.sleep(0.3 if table.sets else 0.0)
            super().__init__(table, seed)

    monkeypatch.setattr(coreset_files, "Coreset", Slow)
    files = saved(tmp_path / "experts")
    found: list[Coreset] = []
    workers = [threading.Thread(target=lambda: found.append(asked(files))) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(made) == 1
    assert len(found) == 6


def test_the_claim_of_a_process_that_died_is_taken_over(tmp_path: Path, made, monkeypatch) -> None:
    monkeypatch.setattr(coreset_files, "_ABANDONED", 0.5)
    files = saved(tmp_path / "experts")
    asked(files)
    (path,) = kept(tmp_path / "experts")
    path.rename(path.with_suffix(".building"))
    asked(files)
    assert len(made) == 2
    assert [p.suffix for p in kept(tmp_path / "experts")] == [".coreset"]


def test_a_failure_leaves_no_claim(tmp_path: Path, monkeypatch) -> None:
    def broken(table: ExpertTable) -> Coreset:
        raise ValueError("broken")

    files = saved(tmp_path / "experts")
    monkeypatch.setattr(coreset_files, "Coreset", broken)
    with pytest.raises(ValueError, match="broken"):
        asked(files)
    assert not kept(tmp_path / "experts")


def test_where_nothing_can_be_written_the_users_cache_serves(tmp_path: Path, made) -> None:
    files = saved(tmp_path / "experts")
    (tmp_path / "experts" / FOLDER).write_text("in the way")
    asked(files)
    asked(files)
    assert len(made) == 1
    assert len(list((tmp_path / "caches" / "optuna-mde").iterdir())) == 1


def test_where_nothing_can_be_written_at_all_it_is_made_again(
    tmp_path: Path, made, monkeypatch
) -> None:
    files = saved(tmp_path / "experts")
    (tmp_path / "experts" / FOLDER).write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "experts" / FOLDER))
    assert torch.equal(asked(files).losses(RATES), asked(files).losses(RATES))
    assert len(made) == 2


def test_coresets_of_remote_files_lie_in_the_users_cache(tmp_path: Path, made) -> None:
    files = saved("memory://kept")
    asked(files)
    asked(files)
    assert len(made) == 1
    asked(saved("memory://kept", seed=1))
    assert len(made) == 2


def test_small_sets_leave_nothing_behind(tmp_path: Path) -> None:
    asked(saved(tmp_path / "experts", tokens=5_000))
    assert len(list((tmp_path / "experts").iterdir())) == 3
    assert not (tmp_path / "caches").exists()
