from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import training, training_gpu


def test_both_sides_train_the_same_model(tmp_path: Path) -> None:
    case = training.Case("1M", tmp_path, max_steps=3, rows=64)
    assert case.ours() > 0
    assert case.bare() > 0
    assert not list(case.folder.glob("tmp*"))  # runs are cleared away
    blocks = case.stored.with_format("numpy")[:]["input_ids"]
    np.testing.assert_array_equal(blocks, case.blocks)
    np.testing.assert_array_equal(blocks[1:, 0], blocks[:-1, -1])


def test_ratios_are_those_of_turns() -> None:
    fast, slow = iter([9.0, 1.0, 4.0, 2.0]), iter([9.0, 2.0, 6.0, 2.0])
    ratio, one, other = training.in_turns(lambda: next(slow), lambda: next(fast), 3)
    assert (ratio, one, other) == (1.5, 2.0, 2.0)


def test_what_the_gpu_runs_trains_here_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the device and the compiler."""
    for name, value in {"VOCABULARY": 300, "BLOCK_SIZE": 16, "SEQUENCES": 16, "STEPS": 12}.items():
        monkeypatch.setattr(training_gpu, name, value)
    monkeypatch.setitem(training_gpu.MICRO_BATCHES, "1M", 8)
    steps: list[int] = []
    losses = training_gpu.run("1M", tmp_path, lambda step, _: steps.append(step), compiled=False)
    assert steps == list(range(1, 13))
    assert len(losses) == 12
    assert losses[-1] < losses[0]
