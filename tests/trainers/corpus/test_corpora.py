"""What a corpus holds, and which definitions and texts give none."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from optuna_mde_trainers.corpus.blocks import Corpus
from optuna_mde_trainers.corpus.builtin import environment
from optuna_mde_trainers.corpus.corpora import (
    CorpusConfig,
    CorpusError,
    fingerprint,
    inventory,
    prepare,
)
from pydantic import ValidationError

from tests.trainers.written import Write, config, prose


def documents(corpus: Corpus, split: str, name: str) -> list[str]:
    """Texts between the ends of text of the blocks; those of a validation set are excerpts."""
    ids = _stream(corpus, split, name)
    ends = [i for i, token in enumerate(ids) if token == 256]
    return [bytes(ids[a + 1 : b]).decode() for a, b in pairwise(ends)]


def found_in(parts: Iterable[str], texts: Iterable[str]) -> list[bool]:
    """Whether each part comes from one of the texts."""
    texts = list(texts)
    return [any(part in text for text in texts) for part in parts]


def _stream(corpus: Corpus, split: str, name: str) -> list[int]:
    read = corpus.train_blocks if split == "train" else corpus.validation_blocks
    rows = read(name)[:]["input_ids"]
    assert rows.shape[1] == corpus.block_size + 1
    assert (rows[1:, 0] == rows[:-1, -1]).all()
    return [int(rows[0, 0]), *rows[:, 1:].reshape(-1).tolist()]


# -- what a corpus holds -------------------------------------------------------------------


def test_documents_are_trained_on_or_held_out_and_none_is_both(write: Write) -> None:
    texts = {name: prose(name, 200) for name in ("web", "code")}
    sources = {name: write(name, texts[name]) for name in texts}
    corpus = prepare(config(sources), Path("corpus"))
    for name in texts:
        trained = documents(corpus, "train", name)
        scored = documents(corpus, "validation", name)
        assert set(trained) < set(texts[name])
        assert len(set(trained)) == len(trained) == pytest.approx(180, abs=15)
        assert len(scored) >= 7
        assert all(found_in(scored, texts[name]))
        assert not any(found_in(scored, trained))
        assert trained != [text for text in texts[name] if text in set(trained)]  # shuffled
    assert list(corpus.domains) == ["web", "code"]
    assert {name: info.domain for name, info in corpus.sets.items()} == {n: n for n in texts}


def test_counts_of_a_corpus_are_those_of_its_blocks(write: Write) -> None:
    sources = {name: write(name, prose(name, 200)) for name in ("web", "code")}
    corpus = prepare(config(sources, validation={"new": write("new", prose("n", 30))}), Path("c"))
    for name, info in corpus.domains.items():
        assert info.blocks == len(corpus.train_blocks(name))
        assert info.tokens == info.blocks * 16 == len(_stream(corpus, "train", name)) - 1
    for name, info in corpus.sets.items():
        assert info.tokens == info.blocks * 16 == 512
        ids = _stream(corpus, "validation", name)
        assert info.bytes == sum(token != 256 for token in ids[1:])
    assert corpus.sets["new"].domain is None
    assert corpus.vocab_size == 257


def test_copies_are_kept_once_over_domains_splits_and_sets(write: Write) -> None:
    shared, one, two = prose("s", 100), prose("a", 100), prose("b", 100)
    sources = {"one": write("one", shared + one + one), "two": write("two", two + shared)}
    unseen = write("new", prose("n", 50) + one)
    said: list[str] = []
    corpus = prepare(config(sources, validation={"new": unseen}), Path("c"), progress=said.append)
    trained = [*documents(corpus, "train", "one"), *documents(corpus, "train", "two")]
    assert len(set(trained)) == len(trained)
    assert not any(found_in(shared, documents(corpus, "train", "two")))
    for name in corpus.sets:
        assert not any(found_in(documents(corpus, "validation", name), trained))
    assert all(found_in(documents(corpus, "validation", "new"), prose("n", 50)))
    assert said[0].startswith("one: 200 documents, 0.0 MB (100 copies")


def test_natural_is_the_share_of_text_before_it_is_cut(write: Write) -> None:
    texts = {"web": prose("w", 600), "code": prose("c", 200)}
    sources = {name: write(name, texts[name] * 2) for name in texts}
    corpus = prepare(config(sources, max_train_bytes=10_000), Path("c"))
    sizes = {name: sum(map(len, found)) for name, found in texts.items()}
    expected = {name: size / sum(sizes.values()) for name, size in sizes.items()}
    assert corpus.natural == pytest.approx(expected, abs=0.02)
    assert math.fsum(corpus.natural.values()) == pytest.approx(1, abs=1e-12)
    assert all(10_000 <= info.bytes < 11_000 for info in corpus.domains.values())


def test_a_source_may_have_a_validation_split_of_its_own(write: Write) -> None:
    train, held = prose("w", 100), prose("v", 40)
    write("web", train)
    write("held", held + train)
    files = {"train": "web.jsonl", "validation": "held.jsonl"}
    web = {"path": "json", "data_files": files, "validation_split": "validation"}
    corpus = prepare(config({"web": web}), Path("c"))
    assert len(documents(corpus, "train", "web")) >= 99  # the last may be cut by its block
    assert all(found_in(documents(corpus, "validation", "web"), held))


def test_one_long_document_is_no_validation_set(write: Write) -> None:
    lines = [f"line {i} of a long document\n" for i in range(5_000)]
    texts = ["".join(lines[i::50]) for i in range(50)]
    source = write("new", texts)
    corpus = prepare(
        config({"web": write("web", prose("w", 200))}, validation={"new": source}), Path("c")
    )
    parts = documents(corpus, "validation", "new")
    assert len(parts) >= 7
    assert all(found_in(parts, texts))
    assert sum(part.startswith("line ") for part in parts) == len(parts)


def test_few_documents_give_longer_excerpts(write: Write) -> None:
    texts = ["".join(f"{name} {i}\n" for i in range(200)) for name in "xy"]
    corpus = prepare(
        config({"web": write("web", prose("w", 200))}, validation={"new": write("new", texts)}),
        Path("c"),
    )
    assert corpus.sets["new"].tokens == 512


def test_bpe_is_trained_on_the_domains_alike(write: Write) -> None:
    sources = {
        "web": write("web", prose("wxyz", 2_000)),
        "code": write("code", prose("ijkl", 200)),
    }
    corpus = prepare(
        config(sources, tokenizer={"type": "bpe", "vocab_size": 300, "train_bytes": 20_000}),
        Path("c"),
    )
    vocabulary = corpus.tokenizer().get_vocab()
    assert corpus.vocab_size == 300
    assert {"ijkl", "wxyz"} <= {token.removeprefix("Ġ") for token in vocabulary}


# -- the environment -----------------------------------------------------------------------


def test_a_corpus_of_the_environment_is_the_same_in_another_process(tmp_path: Path) -> None:
    asked = CorpusConfig.model_validate(
        {
            "domains": {name: {"environment": name} for name in ("python", "cython")},
            "validation": {"prose": {"environment": "prose"}},
            "tokenizer": {"vocab_size": 512, "train_bytes": 100_000},
            "max_train_bytes": 200_000,
        }
    )
    said: list[str] = []
    corpus = prepare(asked, tmp_path / "corpus", progress=said.append)
    assert said[0].startswith("python: ")
    assert " files, " in said[0]
    assert said[-1].startswith("packed 2 domains")
    assert corpus.natural["python"] > 0.6
    assert corpus.natural["python"] + corpus.natural["cython"] == pytest.approx(1)
    for info in corpus.sets.values():
        assert info.tokens == 8192
        assert 1.3 < info.bytes / info.tokens < 4
    text = corpus.tokenizer().decode(_stream(corpus, "train", "cython"))
    assert "cdef " in text
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from optuna_mde_trainers.corpus.corpora import CorpusConfig, prepare\n"
        "config = CorpusConfig.model_validate_json(sys.argv[1])\n"
        "corpus = prepare(config, Path(sys.argv[2]))\n"
        "print(corpus.fingerprint, corpus.source, corpus.sets['prose'].fingerprint)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, asked.model_dump_json(), str(tmp_path / "again")],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = [corpus.fingerprint, corpus.source, corpus.sets["prose"].fingerprint]
    assert done.stdout.split() == expected


def test_small_domains_of_the_environment_are_dropped_with_a_line(write: Write) -> None:
    sources = {
        "web": write("web", prose("w", 200)),
        "cython": {"environment": "cython"},
    }
    said: list[str] = []
    asked = config(sources, min_domain_bytes=50_000_000, min_domains=1)
    corpus = prepare(asked, Path("corpus"), progress=said.append)
    assert list(corpus.domains) == list(corpus.sets) == ["web"]
    assert corpus.natural == {"web": 1.0}
    reason = corpus.dropped["cython"]
    assert reason.endswith("MB of training text in this environment, less than 50.0 MB")
    assert f"cython is left out: {reason}" in said
    with pytest.raises(CorpusError, match=r"only web hold enough text .* 4 domains are needed"):
        prepare(config(sources, min_domain_bytes=50_000_000), Path("other"))


def test_an_unseen_set_of_the_environment_that_is_too_small_is_dropped(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = environment.Collection((), enough=1)
    monkeypatch.setitem(environment.COLLECTIONS, "cython", nothing)
    asked = config(
        {"web": write("web", prose("w", 200))}, validation={"cython": {"environment": "cython"}}
    )
    said: list[str] = []
    corpus = prepare(asked, Path("corpus"), progress=said.append)
    assert list(corpus.sets) == ["web"]
    assert (
        corpus.dropped["cython"] == "its text gives 0 tokens, and validation_tokens asks for 512"
    )
    assert f"cython is left out: {corpus.dropped['cython']}" in said


# -- errors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"validation_tokens": 10}, r"10 tokens are less than one block of block_size 16"),
        ({"validation": {"web": {"environment": "pyi"}}}, "'web' is a domain"),
        (
            {"validation": {"new": {"path": "x/y", "validation_split": "v"}}},
            r"new\.validation_split belongs to domains",
        ),
        ({"validation": {"..": {"environment": "pyi"}}}, r"'\.\.' cannot be a name"),
        ({"held_out": 1.0}, "less than 1"),
        ({"max_bytes": 1}, "Extra inputs are not permitted"),
    ],
)
def test_a_wrong_definition_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**{"domains": {"web": {"environment": "python"}}, **fields})


def test_the_default_of_validation_tokens_is_checked_as_well() -> None:
    with pytest.raises(ValidationError, match="less than one block of block_size 10000"):
        CorpusConfig.model_validate(
            {"domains": {"web": {"environment": "python"}}, "block_size": 10_000}
        )


def test_text_that_does_not_fill_a_validation_set_is_an_error(write: Write) -> None:
    small, web = write("small", prose("s", 20)), write("web", prose("w", 200))
    with pytest.raises(
        CorpusError,
        match=r"domains\.small: its held-out text gives [\d,]+ tokens, and validation_tokens asks "
        r"for 512; give more text, raise held_out or lower validation_tokens",
    ):
        prepare(config({"small": small}), Path("corpus"))
    with pytest.raises(CorpusError, match=r"validation\.new: its text gives .* asks for 8,192"):
        prepare(
            config({"web": web}, validation={"new": small}, validation_tokens=8192, held_out=0.9),
            Path("corpus"),
        )


def test_a_domain_of_copies_is_an_error(write: Write) -> None:
    texts = prose("w", 200)
    sources = {"web": write("web", texts), "mirror": write("mirror", texts)}
    with pytest.raises(CorpusError, match=r"domains\.mirror: no training text is left"):
        prepare(config(sources), Path("corpus"))


def test_a_missing_file_is_named_before_anything_is_built(write: Write) -> None:
    asked = config({"web": {"path": "json", "data_files": "gone.jsonl"}})
    for call in (inventory, fingerprint, lambda c: prepare(c, Path("corpus"))):
        with pytest.raises(CorpusError, match=r"domains\.web\.data_files: .*'gone\.jsonl'"):
            call(asked)
    assert not Path("corpus").exists()
