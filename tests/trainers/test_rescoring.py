from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna_mde_trainers.corpus.blocks import Corpus
from optuna_mde_trainers.corpus.prompts.source import TaskSource
from optuna_mde_trainers.corpus.sources import DomainSource
from optuna_mde_trainers.rescoring import FinishedRun, Source, prepare_sets, score
from optuna_mde_trainers.run import train
from optuna_mde_trainers.spec import LaterScore, RunError, RunSpec
from safetensors.numpy import load_file

from optuna_mde.mde.logprobs import load_logprobs
from tests.trainers.conftest import ALPHABETS
from tests.trainers.tasks import ARC, written

MakeSpec = Callable[..., RunSpec]


def _sets(folder: Path) -> dict[str, Source]:
    texts = [{"text": f"{alphabet} " * 9} for alphabet in ALPHABETS.values()]
    rows = [{**row, "question": "?"} for row in ARC]  # blocks are short
    arc = written(folder / "arc.jsonl", rows, prompt="?", choices="choices.text")
    arc |= {"answer": "answerKey", "labels": "choices.label"}
    return {
        "later/text": DomainSource.model_validate(written(folder / "later.jsonl", texts)),
        "arc": TaskSource.model_validate(arc),
    }


def _score(run: Path, sets: dict[str, Source], folder: Path, **options: Any) -> Any:
    finished = FinishedRun.read(run)
    corpus = prepare_sets(finished, sets, folder, validation_tokens=96)
    return corpus, score(finished, corpus, accelerator="cpu", **{"logprobs": False, **options})


def _contents(run: Path) -> dict[str, tuple[bytes, int]]:
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in run.iterdir()
        if path.is_file() and path.suffix != ".lock"
    }


def test_sets_of_later_are_scored_and_nothing_else_is_touched(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    """As if they had been in the corpus."""
    spec = make_spec(max_steps=4)
    train(spec, tmp_path)
    run = spec.folder(tmp_path)
    before = _contents(run)
    sets = _sets(tmp_path)
    corpus, found = _score(run, sets, tmp_path / "sets")
    assert _contents(run) == before
    assert corpus.domains == {}
    assert list(found) == ["later/text", "arc"]

    same = train(
        make_spec({"corpus_folder": str(corpus.folder)}, {"sets": list(sets)}, max_steps=4),
        tmp_path,
    )
    for name, scored in found.items():
        assert scored.loss == same.losses[name]
        assert scored.bits_per_byte == same.bits_per_byte[name]
        assert scored.fingerprint == same.set_fingerprints[name]
        assert scored.task == same.tasks.get(name)
        assert scored.logprobs is None
        assert LaterScore.read(run / "scores" / f"{name.replace('/', '%2F')}.json") == scored
    assert "arc/logprob" in load_file(run / "scores" / "arc.choices.safetensors")


def test_an_expert_leaves_its_log_probabilities(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(mixture={"digits": 1.0}, score={"logprobs": True}, max_steps=4)
    train(spec, tmp_path)
    run = spec.folder(tmp_path)
    _, found = _score(run, _sets(tmp_path), tmp_path / "sets")
    for name, scored in found.items():
        arrays, metadata = load_logprobs(run / "scores" / str(scored.logprobs))
        assert list(arrays) == [name]
        assert len(arrays[name]) == scored.tokens
        assert -arrays[name].mean(dtype=np.float64) == pytest.approx(scored.loss, abs=1e-6)
        assert metadata["domain"] == "digits"
        assert json.loads(metadata["sets"]) == {name: scored.fingerprint}


def test_two_devices_share_a_set(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(mixture={"digits": 1.0}, score={"logprobs": True}, max_steps=4)
    kept = []
    for devices in (1, 2):
        train(spec, tmp_path / str(devices))
        run = spec.folder(tmp_path / str(devices))
        folder = tmp_path / f"sets{devices}"
        _, found = _score(run, _sets(tmp_path), folder, devices=devices)
        arrays, _ = load_logprobs(run / "scores" / str(found["arc"].logprobs))
        texts, _ = load_logprobs(run / "scores" / str(found["later/text"].logprobs))
        kept.append((found, arrays | texts))
    (alone, one), (shared, two) = kept
    for name, scored in alone.items():
        assert shared[name].loss == pytest.approx(scored.loss, abs=1e-6)
        np.testing.assert_allclose(two[name], one[name], atol=1e-5)


def test_what_is_scored_already_is_taken_as_it_is(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(max_steps=4)
    train(spec, tmp_path)
    run = spec.folder(tmp_path)
    sets = _sets(tmp_path)
    _, first = _score(run, sets, tmp_path / "sets")
    (run / "model.safetensors").unlink()
    _, again = _score(run, sets, tmp_path / "again")
    assert again == first
    other = {"arc": sets["later/text"]}
    with pytest.raises(RunError, match=r"arc\.json is of another set called 'arc'"):
        _score(run, other, tmp_path / "other")
    with pytest.raises(RunError, match=r"scored on a set called 'mixed' when it was trained"):
        _score(run, {"mixed": sets["arc"]}, tmp_path / "mixed")
    with pytest.raises(RunError, match="gone"):
        _score(run, {"new": sets["arc"]}, tmp_path / "new")


def test_a_run_of_the_first_release_is_scored_by_its_corpus(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    """It has no tokenizer beside its weights."""
    spec = make_spec(max_steps=4)
    train(spec, tmp_path)
    run = spec.folder(tmp_path)
    sets = _sets(tmp_path)
    _, found = _score(run, sets, tmp_path / "sets")
    for path in (run / "scores").iterdir():
        path.unlink()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (run / name).unlink()
    _, again = _score(run, sets, tmp_path / "again")
    assert again == found


def test_a_folder_without_a_finished_run_is_named(tmp_path: Path, tiny_corpus: Corpus) -> None:
    with pytest.raises(RunError, match=r"holds no finished run \(no spec\.json\)"):
        FinishedRun.read(tmp_path)
