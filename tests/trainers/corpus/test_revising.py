"""Other domains in a corpus that runs were trained on."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna_mde_trainers.corpus.corpora import CorpusChangedError, CorpusError, prepare
from optuna_mde_trainers.corpus.revising import revise

from tests.trainers.corpus.test_corpora import documents
from tests.trainers.written import Write, config, prose

CORPUS = Path("corpus")
BPE = {"type": "bpe", "vocab_size": 400}


def test_a_split_keeps_tokenizer_sets_and_what_is_held_out(write: Write) -> None:
    web, code = write("web", prose("web", 200)), prose("code", 300)
    parts = {name: write(name, code[i::2]) for i, name in enumerate(("python", "other"))}
    asked = config({"web": web, "code": write("code", code)}, tokenizer=BPE)
    old = prepare(asked, CORPUS)
    sets = {name: old.validation_blocks(name)[:]["input_ids"] for name in old.sets}
    split = config({"web": web, **parts}, tokenizer=BPE)
    new = revise(split, CORPUS)
    assert list(new.domains) == ["web", "python", "other"]
    assert new.tokenizer_fingerprint == old.tokenizer_fingerprint
    assert new.domains["web"].fingerprint == old.domains["web"].fingerprint
    assert new.revised_from == [old.fingerprint] != [new.fingerprint]
    assert {name: info.fingerprint for name, info in new.sets.items()} == {
        name: info.fingerprint for name, info in old.sets.items()
    }
    assert new.sets["code"].domain is None
    for name, ids in sets.items():
        assert (new.validation_blocks(name)[:]["input_ids"] == ids).all()
    assert revise(split, CORPUS) == prepare(split, CORPUS) == new  # as later starts ask for it
    with pytest.raises(CorpusChangedError):
        prepare(asked, CORPUS)


def test_no_document_of_a_set_is_trained_on_after_a_split(write: Write) -> None:
    texts = prose("code", 300)
    web = write("web", prose("web", 200))
    old = prepare(config({"web": web, "code": write("code", texts)}), CORPUS)
    scored = documents(old, "validation", "code")
    parts = {name: write(name, texts[i::2]) for i, name in enumerate(("python", "other"))}
    new = revise(config({"web": web, **parts}), CORPUS)
    trained = [text for name in parts for text in documents(new, "train", name)]
    assert len(scored) >= 7
    assert len(trained) > 200
    assert not any(part in text for part in scored for text in trained)


def test_a_domain_is_added_and_the_natural_mixture_is_that_of_all(write: Write) -> None:
    sources = {name: write(name, prose(name, 200)) for name in ("web", "code")}
    prepare(config(sources), CORPUS)
    sources["books"] = write("books", prose("books", 400))
    new = revise(config(sources), CORPUS)
    assert list(new.sets) == ["web", "code"]
    assert new.natural["books"] == pytest.approx(0.5, abs=0.1)  # words differ in length


def test_what_is_no_change_of_the_domains_is_refused(write: Write) -> None:
    sources = {name: write(name, prose(name, 200)) for name in ("web", "code")}
    old = prepare(config(sources), CORPUS)
    more = {**sources, "books": write("books", prose("books", 200))}
    with pytest.raises(CorpusChangedError, match="block_size"):
        revise(config(more, block_size=32), CORPUS)
    with pytest.raises(CorpusChangedError, match="max_train_bytes: absent"):
        revise(config(more, max_train_bytes=1000), CORPUS)
    copies = write("copies", prose("code", 200)[:50])
    with pytest.raises(CorpusError, match=r"domains\.code: .*behind those that stay"):
        revise(config({"copies": copies, **sources}), CORPUS)
    write("code", prose("other", 200))
    with pytest.raises(CorpusChangedError, match="code"):
        revise(config(more), CORPUS)
    assert old == type(old).load(CORPUS)


def test_a_revision_that_was_killed_goes_on(write: Write) -> None:
    sources = {name: write(name, prose(name, 200)) for name in ("web", "code")}
    old = prepare(config(sources), CORPUS)
    CORPUS.rename(".corpus.before")  # between the two renamings
    sources["books"] = write("books", prose("books", 200))
    assert revise(config(sources), CORPUS).revised_from == [old.fingerprint]
