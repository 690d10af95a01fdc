from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from optuna_mde_trainers.spec import (
    OptimizerConfig,
    RunResult,
    RunSpec,
    SpecError,
    TrainingSpec,
    naming,
    write_atomic,
)


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


def test_folder_names_are_stable_between_releases() -> None:
    """A change here makes every finished folder of a user train again."""
    assert _spec().folder_name == "a3e60a47d4532e36"
    assert _spec(optimizer={"lr": 1e-3}).folder_name == "53f8aa0d2cac1262"
    assert naming.first_release_name(_spec().training) == "989330bb710a5b20"


def test_a_new_field_renames_no_run_that_leaves_it_at_its_default() -> None:
    class Optimizer(OptimizerConfig):
        muon: bool = False

    class Training(TrainingSpec):
        optimizer: Optimizer = Optimizer()
        dropout: float = 0.0

    plain = _plain()["training"]
    old, new = TrainingSpec.model_validate(plain), Training.model_validate(plain)
    assert naming.name(new) == naming.name(old)
    assert naming.first_release_name(new) == naming.first_release_name(old)
    for change in ({"dropout": 0.1}, {"optimizer": {"muon": True}}):
        other = Training.model_validate({**plain, **change})
        assert naming.name(other) != naming.name(old)
        assert naming.first_release_name(other) is None


def test_a_changed_default_renames_no_run() -> None:
    class Training(TrainingSpec):
        seed: int = 1

    plain = _plain()["training"]
    for seed in (0, 1):
        old = TrainingSpec.model_validate({**plain, "seed": seed})
        assert naming.name(Training.model_validate({**plain, "seed": seed})) == naming.name(old)


def test_every_default_has_its_reference() -> None:
    """A field without one would be renamed with its default: add it to `naming.REFERENCE`, with
    the value under which a run is what it was before."""
    required = ("mixture", "corpus", "tokenizer", "max_steps", "global_batch_size")
    paths = [path for path, _, _ in naming._leaves(_spec().training)]
    assert {path for path in paths if path not in required} <= set(naming.REFERENCE)


def test_a_folder_of_the_first_release_is_found(tmp_path: Path) -> None:
    assert _spec().folder(tmp_path) == tmp_path / _spec().folder_name
    (tmp_path / "989330bb710a5b20").mkdir()
    assert _spec().folder(tmp_path).name == "989330bb710a5b20"
    assert _spec(seed=1).folder(tmp_path).name == _spec(seed=1).folder_name


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


def test_a_spec_of_a_newer_version_keeps_its_unknown_fields(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    newer = _plain(optimizer={"muon": True}, dropout=0.1) | {"version": 99, "comment": "new"}
    path.write_text(json.dumps(newer))
    spec = RunSpec.read(path)
    assert set(spec.unknown_fields) == {"training.optimizer.muon", "training.dropout", "comment"}
    assert spec.folder_name != _spec().folder_name
    spec.write(path)
    written = json.loads(path.read_text())
    assert written["version"] == 99
    assert written["training"]["optimizer"]["muon"] is True
    path.write_text(json.dumps({**newer, "version": 1}))
    with pytest.raises(SpecError, match=r"training\.optimizer\.muon"):
        RunSpec.read(path)


def test_results_of_other_versions_are_read_and_keep_their_fields(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    first = {
        **{"version": 1, "losses": {"a": 2.0}, "bits_per_byte": {"a": 1.0}, "points": []},
        **{"set_fingerprints": {"a": "s0"}, "train_loss": 2.0, "tokens": 640, "parameters": 10},
        **{"realised": {}, "seconds": 0.1, "logprobs": None},
    }
    path.write_text(json.dumps(first))
    assert RunResult.read(path).ledger is None
    newer = first | {"version": 99, "joules": 5, "ledger": {"tokens": 640, "carbon": 1}}
    path.write_text(json.dumps(newer))
    RunResult.read(path).write(path)
    kept = json.loads(path.read_text())
    assert kept["joules"] == 5
    assert kept["version"] == 99
    assert kept["ledger"]["carbon"] == 1


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
