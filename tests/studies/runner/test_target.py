"""How often a target run reads each domain, and the rates that this allows."""

from __future__ import annotations

import optuna
import pytest
from optuna_mde_studies.definition import reading
from optuna_mde_studies.definition.config import TargetConfig
from optuna_mde_studies.definition.consistency import cap_problems
from optuna_mde_studies.runner.target import bounds, caps, epochs, share, source_tokens

from tests.studies.tiny import TOKENS, experiment

SOURCES = {"web": 8_000, "books": 500, "forum": 50}


def test_at_its_cap_a_domain_is_read_max_epochs_times():
    capped = caps(TargetConfig(tokens=1e4, max_epochs=4), SOURCES)
    assert capped == {"books": 0.2, "forum": 0.02}  # web has text enough for any rate
    read = epochs({**capped, "web": 0.78}, 1e4, SOURCES)
    assert read == pytest.approx({"web": 0.975, "books": 4.0, "forum": 4.0})
    one = caps(TargetConfig(tokens=1e4, max_epochs={"forum": 2}), SOURCES)
    assert one == {"forum": 0.01}
    assert caps(TargetConfig(tokens=1e4), SOURCES) == caps(None, SOURCES) == {}


def test_of_two_upper_ends_the_lower_holds():
    given = {"books": (0.1, 0.5), "web": (0.0, 0.3)}
    assert bounds(given, {"books": 0.2, "forum": 0.02}) == {
        "books": (0.1, 0.2),
        "web": (0.0, 0.3),
        "forum": (0.0, 0.02),
    }


def test_proposals_keep_to_the_caps(workplace):
    most = TOKENS["numbers"] * 3 / 50_000
    found = experiment("target={tokens: 5e4, max_epochs: 3}", "search.bounds={code: [0, 0.5]}")
    assert found.bounds == {"code": (0.0, 0.5), "numbers": (0.0, pytest.approx(most))}
    found.folder.path.mkdir(parents=True)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        mixture = found.propose(study.ask(), study).training.mixture
        assert mixture["numbers"] <= most + 1e-9
        assert mixture["code"] <= 0.5 + 1e-9


def test_caps_that_leave_no_mixture_are_named(workplace):
    config = reading.read("tiny.yaml", ["search.bounds={code: [0.2, 0.4]}"]).config
    domains = ("code", "prose", "numbers")
    assert not list(cap_problems(config, {"numbers": 0.3, "prose": 0.4}, domains))
    ((field, said),) = cap_problems(config, {"numbers": 0.3, "prose": 0.2}, domains)
    assert field == ("target", "max_epochs")
    assert "sum to 0.9 at most" in said
    ((_, said),) = cap_problems(config, {"code": 0.1}, domains)
    assert "code has text for a rate of 0.1 at most" in said
    assert "0.2 or more" in said


def test_a_cap_of_no_domain_is_named(workplace):
    with pytest.raises(reading.DefinitionError, match=r"target\.max_epochs\.boks: no domain"):
        reading.read("tiny.yaml", ["target={tokens: 1e4, max_epochs: {boks: 4}}"])


def test_the_whole_source_counts(workplace):
    assert source_tokens(experiment().corpus) == TOKENS


def test_a_matched_corpus_is_repeated_as_often_as_by_the_target_run(workplace):
    from optuna_mde_trainers.corpus import corpora

    # a full run reads 20 steps x 4 sequences x 32 tokens; the target twenty times that
    overrides = ["target={tokens: 51200, repetition: matched}", "experts.max_epochs=null"]
    config = reading.read("tiny.yaml", overrides).config
    part = share(config)
    assert part == 1 / 20
    corpus = corpora.prepare(config.corpus, workplace / "corpus", share=part)
    whole = corpora.prepare(config.corpus, workplace / "whole")
    sources = source_tokens(corpus)
    assert sources == pytest.approx(source_tokens(whole), rel=0.02)
    mixture = {"code": 0.5, "prose": 0.3, "numbers": 0.2}
    kept = {name: info.tokens for name, info in corpus.domains.items()}
    of_target = epochs(mixture, 51_200, sources)
    for name, times in epochs(mixture, 2_560, kept).items():
        assert abs(times / of_target[name] - 1) < 0.1  # whole blocks are kept
    assert share(reading.read("tiny.yaml", ["target={tokens: 51200}"]).config) is None
    assert share(reading.read("tiny.yaml").config) is None


def test_a_target_shorter_than_a_run_is_refused(workplace):
    with pytest.raises(reading.DefinitionError, match=r"2000 are fewer than the 2,560 of one run"):
        reading.read("tiny.yaml", ["target={tokens: 2000}"])
