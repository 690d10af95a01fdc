"""When a corpus is built, read again or refused, and what is left in its folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from optuna_mde_trainers.corpus import blocks
from optuna_mde_trainers.corpus.blocks import Corpus
from optuna_mde_trainers.corpus.corpora import (
    CorpusChangedError,
    CorpusError,
    fingerprint,
    prepare,
)

from tests.trainers.written import Write, config, prose


def test_a_finished_corpus_is_read_and_not_built_again(write: Write) -> None:
    asked = config({"web": write("web", prose("w", 200))})
    corpus = prepare(asked, Path("runs/study/corpus"))
    stamp = (corpus.folder / blocks.CORPUS_FILE).stat().st_mtime_ns
    said: list[str] = []
    assert prepare(asked, Path("runs/study/corpus"), progress=said.append) == corpus
    assert said == []
    assert (corpus.folder / blocks.CORPUS_FILE).stat().st_mtime_ns == stamp
    assert corpus.source == fingerprint(asked)


def test_the_same_sources_give_the_same_corpus(write: Write) -> None:
    asked = config({"web": write("web", prose("w", 200))})
    one, two = prepare(asked, Path("one")), prepare(asked, Path("two"))
    assert (one.fingerprint, one.sets) == (two.fingerprint, two.sets)
    assert one.train_blocks("web")[:]["input_ids"].tolist() == (
        two.train_blocks("web")[:]["input_ids"].tolist()
    )


def test_the_fingerprint_is_of_what_is_trained_on(write: Write) -> None:
    web, code = write("web", prose("w", 200)), write("code", prose("c", 200))
    new = {"new": write("new", prose("n", 50))}
    base = prepare(config({"web": web, "code": code}), Path("base"))
    more = prepare(config({"web": web, "code": code}, validation=new), Path("more"))
    assert more.fingerprint == base.fingerprint
    assert more.source != base.source
    assert more.sets["web"] == base.sets["web"]
    others = [
        prepare(config({"web": web}), Path("fewer")),
        prepare(config({"web": web, "code": code}, block_size=8), Path("shorter")),
        prepare(config({"web": web, "code": code}, seed=1), Path("seed")),
        prepare(config({"web": code, "code": web}), Path("swapped")),
    ]
    assert len({corpus.fingerprint for corpus in [base, *others]}) == 5


def test_a_changed_source_or_definition_is_refused_by_name(write: Write) -> None:
    web = write("web", prose("w", 200))
    built = prepare(config({"web": web}), Path("corpus"))
    with pytest.raises(CorpusChangedError, match="block_size: 16 → 32") as error:
        prepare(config({"web": web}, block_size=32), Path("corpus"))
    assert error.value.changes == ["block_size: 16 → 32"]
    write("web", prose("w", 201))
    with pytest.raises(CorpusChangedError, match=r"web\.jsonl: [\d,]+ bytes.* → .*start afresh"):
        prepare(config({"web": web}), Path("corpus"))
    assert Corpus.load("corpus") == built


def test_what_a_killed_builder_left_is_no_corpus(write: Write) -> None:
    asked = config({"web": write("web", prose("w", 200))})
    left = Path(".corpus.partial/train/old")
    left.mkdir(parents=True)
    assert list(prepare(asked, Path("corpus")).domains) == ["web"]
    assert not left.parent.parent.exists()
    assert sorted(path.name for path in Path("corpus/train").iterdir()) == ["web"]


def test_a_builder_that_fails_leaves_no_corpus(write: Write) -> None:
    asked = config({"web": write("web", prose("w", 1))})
    for _ in range(2):
        with pytest.raises(CorpusError):
            prepare(asked, Path("corpus"))
        assert not Path("corpus").exists()


def test_files_of_others_are_left_alone(write: Write) -> None:
    Path("corpus").mkdir()
    Path("corpus/thesis.tex").touch()
    with pytest.raises(CorpusError, match="corpus holds other files"):
        prepare(config({"web": write("web", prose("w", 200))}), Path("corpus"))
    assert Path("corpus/thesis.tex").exists()


def test_two_processes_build_one_corpus(write: Write, tmp_path: Path) -> None:
    asked = config({"web": write("web", prose("w", 200))})
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from optuna_mde_trainers.corpus.corpora import CorpusConfig, prepare\n"
        "said = []\n"
        "config = CorpusConfig.model_validate_json(sys.argv[1])\n"
        "print(prepare(config, Path('corpus'), progress=said.append).fingerprint, len(said) > 0)\n"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, asked.model_dump_json()],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache")},
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0].split() for process in started]
    here = prepare(asked, Path("corpus")).fingerprint
    assert sorted(outputs) == [[here, "False"], [here, "True"]]
