"""Sets that a finished corpus gains, against a corpus that was built with them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from optuna_mde_trainers.corpus import blocks
from optuna_mde_trainers.corpus.blocks import Corpus
from optuna_mde_trainers.corpus.corpora import CorpusChangedError, CorpusError, prepare

from tests.trainers.tasks import ARC, written
from tests.trainers.written import Write, config, prose


@pytest.mark.parametrize("tokenizer", [{"type": "bytes"}, {"type": "bpe", "vocab_size": 300}])
def test_a_set_that_is_added_is_the_one_that_was_there_from_the_start(
    write: Write, tokenizer: dict[str, object]
) -> None:
    """Copies of training text are left out of it as well."""
    text = prose("w", 200)
    web, news = write("web", text), write("news", prose("n", 60))
    new = write("new", [*text[:20], *prose("x", 60)])
    task = written(Path("arc.jsonl"), ARC, prompt="?", choices="choices.text")
    task |= {"answer": "answerKey", "labels": "choices.label"}
    options = {"tokenizer": tokenizer}
    built = prepare(config({"web": web}, validation={"news": news}, **options), Path("grown"))
    asked = config(
        {"web": web}, validation={"news": news, "new": new}, tasks={"arc": task}, **options
    )
    grown, fresh = prepare(asked, Path("grown")), prepare(asked, Path("fresh"))
    assert list(grown.sets) == ["web", "news", "new", "arc"]
    assert grown.sets == fresh.sets
    assert grown.fingerprint == fresh.fingerprint == built.fingerprint
    assert grown.validation_blocks("new")[:]["input_ids"].tolist() == (
        fresh.validation_blocks("new")[:]["input_ids"].tolist()
    )
    assert (grown.made_from, grown.held, grown.source) == (
        fresh.made_from,
        fresh.held,
        fresh.source,
    )
    stamp = (grown.folder / blocks.CORPUS_FILE).stat().st_mtime_ns
    assert prepare(asked, Path("grown")) == grown == Corpus.load("grown")
    assert (grown.folder / blocks.CORPUS_FILE).stat().st_mtime_ns == stamp


def test_sets_that_nobody_asks_for_stay_and_others_of_their_names_are_refused(
    write: Write,
) -> None:
    web, new = write("web", prose("w", 200)), write("new", prose("n", 60))
    grown = prepare(config({"web": web}, validation={"new": new}), Path("corpus"))
    assert prepare(config({"web": web}), Path("corpus")) == grown
    other = write("other", prose("o", 60))
    with pytest.raises(CorpusChangedError, match=r"validation\.new\.data_files: .* → .*other"):
        prepare(config({"web": web}, validation={"new": other}), Path("corpus"))


def test_a_set_that_cannot_be_added_leaves_the_corpus_as_it_was(write: Write) -> None:
    web = write("web", prose("w", 200))
    built = prepare(config({"web": web}), Path("corpus"))
    with pytest.raises(CorpusError, match=r"validation\.few: its text gives"):
        prepare(config({"web": web}, validation={"few": write("few", ["a b"])}), Path("corpus"))
    assert Corpus.load("corpus") == built
    left = built.folder / "validation" / "new"  # by an extension that was killed
    shutil.copytree(built.folder / "validation" / "web", left)
    grown = prepare(
        config({"web": web}, validation={"new": write("new", prose("n", 60))}), Path("corpus")
    )
    assert len(grown.validation_blocks("new")) == grown.sets["new"].blocks
