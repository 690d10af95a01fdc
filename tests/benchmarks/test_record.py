"""A recording of a few very short runs: interrupted, gone on with, packed and read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from optuna_mde_studies.definition.reading import DefinitionError
from optuna_mde_studies.terminal.progress import Progress, console
from optuna_mde_trainers.corpus.builtin.environment import Document
from scipy.stats import spearmanr

from benchmarks.recording import texts
from benchmarks.recording.config import RecordingConfig, TextConfig
from benchmarks.recording.config import read as read_recording
from benchmarks.recording.design import Job, design, rounded
from benchmarks.recording.packing import pack
from benchmarks.recording.runs import Recorder, open_recorder
from benchmarks.tables import Recording, RecordingError, mean_of
from optuna_mde.mde.experts import load_table

STDLIB_TEXT = {"packages": ["stdlib"], "suffixes": [".py"]}
DEFINITION: dict[str, Any] = {
    "name": "tiny",
    "corpus": {
        "domains": {
            name: {"path": "json", "data_files": f"texts/{name}.jsonl"}
            for name in ("email", "asyncio", "logging")
        },
        "validation": {"json": {"path": "json", "data_files": "texts/json.jsonl"}},
        "tokenizer": {"type": "bytes"},
        "block_size": 16,
        "validation_tokens": 160,
        "held_out": 0.3,
    },
    "search": {"n_trials": 6},
    "model": {
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    },
    "training": {"max_steps": 8, "global_batch_size": 4},
    "launch": {"accelerator": "cpu", "workers": 1},
}
RECORDING: dict[str, Any] = {
    "texts": {
        name: {
            "sources": [{**STDLIB_TEXT, "within": [name]}],
            "max_bytes": 40_000,
            "document_bytes": 2_000,
        }
        for name in ("email", "asyncio", "logging", "json")
    },
    "expert_budgets": [0.5],
    "dirichlet": [{"concentration": 1, "number": 2}],
    "faces": [{"domains": 2, "number": 1}],
    "repeats": {"mixtures": 1, "seeds": 1, "reference_seeds": 1},
}
NATURAL = {"a": 0.5, "b": 0.3, "c": 0.15, "d": 0.05}
LARGE = RecordingConfig.model_validate(
    {
        "expert_budgets": [0.5, 0.25],
        "dirichlet": [
            {"concentration": 2, "number": 20},
            {"concentration": 0.4, "number": 30},
        ],
        "faces": [{"domains": 2, "number": 12}, {"domains": 3, "number": 4}],
        "repeats": {"mixtures": 8, "seeds": 2, "reference_seeds": 3},
        "seed": 3,
    }
)


# --- the design ----------------------------------------------------------------------------------


def test_design_is_deterministic_and_on_the_simplex() -> None:
    jobs = design(LARGE, NATURAL, training_seed=5)
    assert jobs == design(LARGE, NATURAL, training_seed=5)
    rates = np.array([job.rates for job in jobs])
    assert (rates >= 0).all()
    np.testing.assert_allclose(rates.sum(axis=1), 1, atol=1e-12)
    assert np.array_equal(rates, np.round(rates, 6))


def test_design_has_every_run_once() -> None:
    jobs = design(LARGE, NATURAL, training_seed=5)
    assert len(set(jobs)) == len(jobs)
    count = {kind: sum(job.kind == kind for job in jobs) for kind in {job.kind for job in jobs}}
    assert count == {
        "expert": 12,
        "natural": 1,
        "uniform": 1,
        "dirichlet": 50,
        "face": 16,
        "repeat": 8 * 2 + 2 * 3,
    }
    assert {job.seed for job in jobs if job.kind != "repeat"} == {5}
    assert {job.seed for job in jobs if job.kind == "repeat"} == {6, 7, 8}


def test_faces_have_exact_zeros_and_all_come_up() -> None:
    jobs = design(LARGE, NATURAL, training_seed=0)
    faces = [tuple(np.flatnonzero(job.rates)) for job in jobs if job.kind == "face"]
    assert {len(face) for face in faces} <= {1, 2, 3}  # 1 where a rate rounds to 0
    assert len({face for face in faces if len(face) == 2}) == 6  # of 4 domains


def test_a_partial_recording_is_useful() -> None:
    jobs = design(LARGE, NATURAL, training_seed=0)
    assert [job.kind for job in jobs[:6]] == ["expert"] * 4 + ["natural", "uniform"]
    assert all(job.budget == 1 for job in jobs[:6])
    cheap = [i for i, job in enumerate(jobs) if job.budget < 1]
    assert max(cheap) < 40
    first: dict[tuple[float, ...], int] = {}
    for place, job in enumerate(jobs):
        if job.kind == "repeat":
            assert first[job.rates] < place  # after the run that it repeats
        elif job.budget == 1:
            first[job.rates] = place
    repeats = [i for i, job in enumerate(jobs) if job.kind == "repeat"]
    assert min(repeats) < len(jobs) / 2 < max(repeats)


def test_repeated_mixtures_are_of_all_kinds() -> None:
    jobs = design(LARGE, NATURAL, training_seed=0)
    repeated = {job.rates for job in jobs if job.kind == "repeat"}
    kinds = [job.kind for job in jobs if job.rates in repeated and job.kind != "repeat"]
    assert len(repeated) == 8 + 2
    assert {"natural", "uniform", "dirichlet", "face"} == set(kinds)


@pytest.mark.parametrize("rates", [[1, 1, 1], [1e-9, 1, 0], [0.1] * 7])
def test_rounded_rates_sum_to_one(rates: list[float]) -> None:
    found = rounded(np.array(rates))
    assert sum(round(rate * 10**6) for rate in found) == 10**6
    np.testing.assert_allclose(found, np.array(rates) / sum(rates), atol=5e-6)


# --- the text ------------------------------------------------------------------------------------


def test_texts_hold_enough_and_no_more() -> None:
    config = TextConfig.model_validate(RECORDING["texts"]["email"])
    found = list(texts.documents(config))
    sizes = [len(document.text.encode()) for document in found]
    assert 40_000 <= sum(sizes) < 42_000
    assert max(sizes) <= 2_000
    assert len({document.name for document in found}) == len(found)
    assert all(isinstance(document, Document) and document.text for document in found)


def test_pieces_are_the_text() -> None:
    text = "".join(f"line {i} of a file\n" for i in range(200))
    found = list(texts.pieces(text, 500))
    assert "".join(found) == text[: sum(map(len, found))]
    assert len(text) - sum(map(len, found)) < 200  # a crumb at the end
    assert all(piece.endswith("\n") and len(piece) <= 500 for piece in found)


def test_texts_of_the_first_start_stay(tmp_path: Path) -> None:
    config = {"json": TextConfig.model_validate(RECORDING["texts"]["json"])}
    texts.write_texts(config, tmp_path)
    path = tmp_path / "texts" / "json.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    assert all(json.loads(line)["text"] for line in lines)
    path.write_text(lines[0] + "\n", encoding="utf-8")
    texts.write_texts(config, tmp_path)
    assert path.read_text(encoding="utf-8") == lines[0] + "\n"


def test_a_wrong_recording_names_the_field(tmp_path: Path) -> None:
    path = tmp_path / "recording.yaml"
    with pytest.raises(DefinitionError, match="needs this file beside its definition"):
        read_recording(path)
    path.write_text(yaml.safe_dump({**RECORDING, "expert_budgets": [2]}), encoding="utf-8")
    with pytest.raises(DefinitionError, match=r"recording.yaml: expert_budgets.0: .*less than 1"):
        read_recording(path)


# --- the runs ------------------------------------------------------------------------------------


class Interrupting(Progress):
    """Ctrl-C after two runs."""

    def finished(self, text: str) -> None:
        if self.done == 2:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def definition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("definition")
    (folder / "recording.yaml").write_text(yaml.safe_dump(RECORDING), encoding="utf-8")
    path = folder / "definition.yaml"
    path.write_text(yaml.safe_dump(DEFINITION, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def recorder(definition: Path, tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    """A recording that was interrupted after two runs and gone on with; packed half-way."""
    folder = tmp_path_factory.mktemp("recording")
    started = open_recorder(str(definition), folder, Progress("", console()))
    with pytest.raises(KeyboardInterrupt):
        started.train(Interrupting("", console()))
    before = _finished(started)
    assert 2 <= len(before) < len(started.jobs)
    partial = pack(started, definition, folder / "partial")
    assert len(partial.index) == len(before)
    recorder = open_recorder(str(definition), folder, Progress("", console()))
    recorder.train(Progress("", console()))
    after = _finished(recorder)
    assert len(after) == len(recorder.jobs)
    assert {name: after[name] for name in before} == before  # not trained a second time
    return recorder


@pytest.fixture(scope="module")
def packed(recorder: Recorder, definition: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("packed") / "tiny"
    pack(recorder, definition, target)
    return target


def _finished(recorder: Recorder) -> dict[str, int]:
    """Run folder -> when its result was written."""
    return {
        path.parent.name: path.stat().st_mtime_ns
        for path in recorder.folder.runs.glob("*/result.json")
    }


def _job(recorder: Recorder, index: int) -> Job:
    return recorder.jobs[int(index)]


def test_packed_tables_are_what_was_run(recorder: Recorder, packed: Path) -> None:
    recording = Recording.load(packed)
    assert recording.domains == ("email", "asyncio", "logging")
    assert recording.sets == (*recording.domains, "json")
    assert recording.unseen == ("json",)
    assert recording.own == recording.domains
    assert recording.index.tolist() == list(range(len(recorder.jobs)))
    for row, index in enumerate(recording.index):
        job = _job(recorder, index)
        result = recorder.finished(job)
        assert result is not None
        assert tuple(recording.mixtures[row]) == job.rates
        assert recording.kinds[row] == job.kind
        assert (recording.seeds[row], recording.budgets[row]) == (job.seed, job.budget)
        expected = [result.losses[name] for name in recording.sets]
        np.testing.assert_allclose(recording.losses[row], expected, atol=1e-6)


def test_mde_at_a_corner_is_the_experts_recorded_loss(packed: Path) -> None:
    recording = Recording.load(packed)
    assert set(recording.experts) == {1.0, 0.5}
    for budget, files in recording.experts.items():
        table, refused = load_table(recording.domains, {d: str(p) for d, p in files.items()})
        assert not refused
        columns = recording.columns(table.sets)
        mde = table.losses(np.eye(len(recording.domains)))
        for domain, row in recording.expert_rows(budget).items():
            expected = recording.losses[row][columns]
            found = mde[recording.domains.index(domain)]
            np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_packed_folder_says_what_made_it(packed: Path) -> None:
    for name in ("definition.yaml", "recording.yaml", "README.md"):
        assert (packed / name).is_file()
    assert yaml.safe_load((packed / "definition.yaml").read_text()) == DEFINITION
    readme = (packed / "README.md").read_text(encoding="utf-8")
    assert "14 of 14 designed runs" in readme
    assert "| json (unseen) |" in readme


def test_another_definition_is_refused(recorder: Recorder, tmp_path: Path) -> None:
    changed = {**DEFINITION, "training": {**DEFINITION["training"], "max_steps": 9}}
    (tmp_path / "recording.yaml").write_text(yaml.safe_dump(RECORDING), encoding="utf-8")
    (tmp_path / "definition.yaml").write_text(yaml.safe_dump(changed), encoding="utf-8")
    with pytest.raises(DefinitionError, match="begun with another definition"):
        open_recorder(
            str(tmp_path / "definition.yaml"), recorder.folder.path, Progress("", console())
        )


# --- the reader ----------------------------------------------------------------------------------


def test_noise_and_retest_are_those_of_the_repeats(packed: Path) -> None:
    recording = Recording.load(packed)
    groups = recording.repeated
    assert len(groups) == 3  # natural, uniform and one drawn mixture
    assert all(recording.kinds[rows[0]] != "repeat" for rows in groups)
    variance = np.mean([recording.losses[rows].var(axis=0, ddof=1) for rows in groups], axis=0)
    np.testing.assert_allclose(recording.noise_sd, np.sqrt(variance))
    weights = mean_of(recording, recording.unseen)
    assert recording.noise_of(weights) == pytest.approx(recording.noise_sd[-1])
    first, again = (recording.losses[[rows[i] for rows in groups], -1] for i in (0, 1))
    assert recording.retest(weights) == pytest.approx(spearmanr(first, again)[0])
    designed = recording.losses[recording.designed, -1]
    expected = 1 - variance[-1] / designed.var(ddof=1)
    assert recording.reliability(weights) == pytest.approx(expected)


def test_without_repeats_there_is_no_retest(packed: Path) -> None:
    recording = Recording.load(packed)
    rows = recording.designed
    alone = replace(
        recording,
        index=recording.index[rows],
        mixtures=recording.mixtures[rows],
        losses=recording.losses[rows],
        kinds=tuple(recording.kinds[row] for row in rows),
        seeds=recording.seeds[rows],
        budgets=recording.budgets[rows],
        seconds=recording.seconds[rows],
    )
    assert alone.repeated == []
    assert not alone.noise_sd.any()
    assert np.isnan(alone.retest(mean_of(alone)))


def test_tables_that_do_not_fit_are_refused(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="holds no packed recording"):
        Recording.load(tmp_path)
    for name in ("ratios.csv", "metrics.csv", "runs.csv", "recording.json"):
        (tmp_path / name).write_text((packed / name).read_text(encoding="utf-8"))
    lines = (packed / "runs.csv").read_text(encoding="utf-8").splitlines()
    (tmp_path / "runs.csv").write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    with pytest.raises(RecordingError, match="its three tables have other rows"):
        Recording.load(tmp_path)
