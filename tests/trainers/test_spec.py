from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from optuna_mde_trainers.spec import RunResult, RunSpec, SpecError, write_atomic


def _plain(**training: Any) -> dict[str, Any]:
    return {
        "training": {
            "mixture": {"code": 0.25, "prose": 0.75},
            "corpus": "c0",
            "tokenizer": "t0",
            "max_steps": 20,
            "global_batch_size": 4,
            **training,
        },
        "launch": {"corpus_folder": "corpus"},
    }


def _spec(**training: Any) -> RunSpec:
    return RunSpec.model_validate(_plain(**training))


def test_round_trip_keeps_the_spec_and_its_folder(tmp_path: Path) -> None:
    spec = _spec(mixture={"a": 1 / 3, "b": 1 / 7, "c": 1 - 1 / 3 - 1 / 7})
    spec.write(tmp_path / "spec.json")
    again = RunSpec.read(tmp_path / "spec.json")
    assert again == spec
    assert again.folder_name == spec.folder_name


def test_folder_is_named_by_the_training_part_alone() -> None:
    spec = _spec()
    launched = spec.model_copy(
        update={"launch": spec.launch.model_copy(update={"num_threads": 3, "accelerator": "cpu"})}
    )
    scored = spec.model_copy(update={"score": spec.score.model_copy(update={"logprobs": True})})
    assert launched.folder_name == scored.folder_name == spec.folder_name
    for change in (
        {"seed": 1},
        {"max_steps": 21},
        {"corpus": "c1"},
        {"model": {"hidden_size": 64}},
    ):
        assert _spec(**change).folder_name != spec.folder_name


def test_folder_ignores_the_order_of_domains_and_absent_ones() -> None:
    one = _spec(mixture={"code": 0.25, "prose": 0.75, "web": 0.0})
    other = _spec(mixture={"prose": 0.75, "code": 0.25})
    assert one.folder_name == other.folder_name


def test_folder_name_is_stable_between_releases() -> None:
    """A change here makes every finished folder of a user train again."""
    assert _spec().folder_name == "989330bb710a5b20"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mixture": {"a": 0.5, "b": 0.4}}, ["training.mixture", "0.5 + 0.4 = 0.9"]),
        ({"mixture": {}}, ["training.mixture", "nothing = 0"]),
        ({"mixture": {"a": 1.5, "b": -0.5}}, ["training.mixture.b", "-0.5"]),
        ({"micro_batch_size": 3}, ["global_batch_size (4)", "micro_batch_size (3)"]),
        ({"optimizer": {"warmup_steps": 30}}, ["warmup_steps (30)", "max_steps (20)"]),
        ({"optimizer": {"learning_rate": 1}}, ["training.optimizer.learning_rate"]),
        ({"optimizer": {"lr": 0}}, ["training.optimizer.lr", "got 0"]),
        ({"model": {"num_attention_heads": 5}}, ["training.model", "hidden_size (96)"]),
        ({"model": {"num_key_value_heads": 3}}, ["training.model", "num_key_value_heads (3)"]),
        ({"precision": "16"}, ["training.precision", "32-true"]),
        ({"max_steps": None}, ["training.max_steps"]),
    ],
)
def test_faults_are_named_by_field(
    tmp_path: Path, change: dict[str, Any], words: list[str]
) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(_plain(**change)))
    with pytest.raises(SpecError) as caught:
        RunSpec.read(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


def test_a_truncated_file_is_a_spec_error(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"version": 1, "los')
    with pytest.raises(SpecError, match=r"result\.json"):
        RunResult.read(tmp_path / "result.json")


def test_unknown_versions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({**_plain(), "version": 2}))
    with pytest.raises(SpecError, match="version"):
        RunSpec.read(path)


def test_write_atomic_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_atomic(path, "old")
    write_atomic(path, "new")
    assert path.read_text() == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_reading_specs_loads_neither_torch_nor_lightning() -> None:
    code = (
        "import sys, optuna_mde_trainers.spec;"
        "print({'torch', 'lightning', 'datasets', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
