"""What the loggers of runs hold in the end, read with the loggers' own packages."""

from __future__ import annotations

import csv
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from optuna_mde_trainers.run import train
from optuna_mde_trainers.spec import DivergedError, RunResult, RunSpec

MakeSpec = Callable[..., RunSpec]


def final(result: RunResult) -> dict[str, Any]:
    return {f"loss/{name}": pytest.approx(loss) for name, loss in result.losses.items()}


def test_csv_holds_the_steps_and_the_losses_of_the_sets(make_spec: MakeSpec, tmp_path: Path):
    spec = make_spec({"logger": "csv"}, max_steps=20)
    result = train(spec, tmp_path)
    with (spec.folder(tmp_path) / "log/version_0/metrics.csv").open() as file:
        *steps, last = csv.DictReader(file)
    assert [row["step"] for row in steps] == ["10", "20"]
    assert all(float(row["train_loss"]) > 0 and float(row["lr"]) >= 0 for row in steps)
    assert {name: float(last[name]) for name in final(result)} == final(result)
    assert last["step"] == "20"


def events(folder: Path) -> Iterator[Any]:
    """Of TensorBoard's files: records of a length, its checksum, an event, and its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.glob("events.out.*")):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack_from("<Q", content)
            yield Event.FromString(content[12 : 12 + length])
            content = content[12 + length + 4 :]


def test_tensorboard_holds_the_steps_the_losses_and_the_mixture(
    make_spec: MakeSpec, tmp_path: Path
):
    pytest.importorskip("tensorboardX")
    spec = make_spec({"logger": "tensorboard"}, max_steps=20)
    result = train(spec, tmp_path)
    held: dict[str, list[tuple[int, float]]] = {}
    compared: set[str] = set()
    for event in events(spec.folder(tmp_path) / "log/version_0"):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                held.setdefault(value.tag, []).append((event.step, value.simple_value))
            elif value.tag.endswith("session_start_info"):
                text = value.metadata.plugin_data.content.decode(errors="replace")
                compared = {name for name in spec.training.mixture if f"mixture/{name}" in text}
    assert [step for step, _ in held["train_loss"]] == [10, 20]
    assert {name: held[name][-1] for name in final(result)} == {
        name: (20, loss) for name, loss in final(result).items()
    }
    assert compared == set(spec.training.mixture)


def two_runs_and_a_failure_between(
    make_spec: MakeSpec, logger: dict[str, Any], runs: Path
) -> list[tuple[RunSpec, RunResult]]:
    """As one worker performs them."""
    one, other = (make_spec({"logger": logger}, max_steps=20, seed=seed) for seed in (0, 1))
    hot = make_spec({"logger": logger}, max_steps=40, optimizer={"lr": 1e30}, gradient_clip_val=0)
    done = [(one, train(one, runs))]
    with pytest.raises(DivergedError):
        train(hot, runs)
    return [*done, (other, train(other, runs))]


def test_every_run_is_one_of_an_experiment_of_mlflow(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    options = {"mlflow": {"experiment_name": "tiny", "tracking_uri": uri}}
    done = two_runs_and_a_failure_between(make_spec, options, tmp_path / "runs")
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("tiny")
    held = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert len(held) == 3
    for spec, result in done:
        run = held.pop(spec.folder_name)
        assert run.info.status == "FINISHED"
        assert run.data.metrics == final(result) | {"train_loss": ANY, "lr": ANY}
        for name, rate in spec.training.mixture.items():
            assert float(run.data.params[f"mixture/{name}"]) == rate
    (failed,) = held.values()
    assert failed.info.status == "FAILED"


def test_every_run_is_one_of_a_group_of_wandb(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    options = {"wandb": {"group": "tiny", "project": "mix"}}
    done = two_runs_and_a_failure_between(make_spec, options, tmp_path)
    for spec, result in done:
        (place,) = (spec.folder(tmp_path) / "wandb").glob("offline-run-*")
        run, summary = offline(place)
        assert (run.display_name, run.run_group, run.project) == (spec.folder_name, "tiny", "mix")
        assert {name: summary[name] for name in final(result)} == final(result)


def offline(place: Path) -> tuple[Any, dict[str, float]]:
    """A run that W&B keeps here, and the last value of each of its numbers."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = place.glob("*.wandb")
    run, last = None, {}
    for content in records(path.read_bytes()):
        record = Record.FromString(content)
        if record.HasField("run"):
            run = record.run
        for item in record.history.item:
            last["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    return run, last


def records(content: bytes) -> Iterator[bytes]:
    """Of LevelDB's log format behind a header of 7 bytes: blocks of 32 KiB, records in parts."""
    at, record = 7, b""
    while at < len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, part = struct.unpack_from("<IHB", content, at)
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if part in (1, 4):  # whole, or the last one
            yield record
            record = b""
