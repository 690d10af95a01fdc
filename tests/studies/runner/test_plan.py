"""What a study will take, and what is wrong with it, before anything starts."""

from __future__ import annotations

import time

import pytest
from optuna_mde_studies.definition import reading
from optuna_mde_studies.runner import checks
from optuna_mde_studies.runner.plan import Done, left, plan
from optuna_mde_studies.runner.speed import measure
from optuna_mde_trainers.training.flops import size

PER_STEP = 4 * 32  # tokens: sequences of the tiny study's definition x its block size
SCORED = 4 * 512  # tokens of its four validation sets


def test_the_plan_counts_every_run(workplace):
    config = reading.read("tiny.yaml", ["launch.workers=2"]).config
    found = plan(config)
    told = {stage.what: (stage.runs, stage.tokens, stage.scored) for stage in found.stages}
    assert told == {
        "experts": (3, 3 * 10 * PER_STEP, 3 * SCORED),
        "search": (3, 3 * 20 * PER_STEP, 3 * SCORED),
        "confirmation": (8, 8 * 20 * PER_STEP, 8 * SCORED),
    }
    each = size(config.model, vocab_size=257, block_size=32).exact
    experts, search, _ = found.stages
    assert found.flops(search) == pytest.approx(each * 3 * (20 * PER_STEP + SCORED / 3))
    # two workers, three runs of an expert's steps at 100 tokens a second
    assert found.seconds(experts, 100) == pytest.approx(3 * (10 * PER_STEP + SCORED / 3) / 200)
    runs = [line[1] for line in found.table().lines]
    assert runs == ["3", "3", "8", "14"]


def test_no_confirmation_no_stage(workplace):
    found = plan(reading.read("tiny.yaml", ["confirm.seeds=0"]).config)
    assert [stage.what for stage in found.stages] == ["experts", "search"]


def test_one_worker_takes_as_long_as_two_with_half_the_rate(workplace):
    def seconds(workers: int, rate: float) -> float:
        found = plan(reading.read("tiny.yaml", [f"launch.workers={workers}"]).config)
        return sum(found.seconds(stage, rate) for stage in found.stages)

    assert seconds(1, 200) == pytest.approx(seconds(2, 100))


def test_the_measured_rate_is_that_of_a_run(workplace):
    from optuna_mde_studies.runner.experiment import Experiment
    from optuna_mde_studies.runner.folder import StudyFolder
    from optuna_mde_trainers.corpus import corpora
    from optuna_mde_trainers.spec import ScoreSpec

    settings = ["training.max_steps=60", "training.global_batch_size=32", "model.hidden_size=64"]
    config = reading.read("tiny.yaml", settings).config
    corpus = corpora.prepare(config.corpus, workplace / "corpus")
    experiment = Experiment(config, StudyFolder(workplace), corpus)
    training = experiment.training(corpus.natural, seed=0)
    result = experiment.train(
        experiment.launched(training, ScoreSpec(sets=["news"])), lambda step, total: None
    )
    began = time.monotonic()
    rate = measure(config)
    assert time.monotonic() - began < 30
    assert rate == pytest.approx(result.tokens / result.seconds, rel=0.8)  # the machine is shared


def test_all_mistakes_are_said_at_once(workplace):
    (workplace / "news/00.txt").parent.rename(workplace / "gone")
    definition = reading.read(
        "tiny.yaml", ["launch.accelerator=cpu", "launch.devices=3", "model.vocab_size=200"]
    )
    said = checks.problems(definition)
    assert [line.split(": ")[1] for line in said] == [
        "corpus.validation.news.data_files",
        "launch.devices",
        "model.vocab_size",
    ]
    assert said[0].startswith("tiny.yaml:8: ")
    assert "257 tokens" in said[2]
    assert not (workplace / "runs").exists()


def test_sources_are_opened(workplace):
    (workplace / "news.jsonl").write_text('{"body": "text under another name"}\n')
    (workplace / "arc.jsonl").write_text('{"question": "Why?"}\n')
    news = "corpus.validation.news={path: json, data_files: news.jsonl}"
    arc = "corpus.tasks={arc: {template: arc_easy, path: json, data_files: arc.jsonl}}"
    said = checks.problems(reading.read("tiny.yaml", [news, arc]))
    assert len(said) == 2
    assert "corpus.validation.news.text_column" in said[0]
    assert "body" in said[0]
    assert "corpus.tasks.arc" in said[1]
    assert "choices" in said[1]


def test_a_right_definition_has_no_problems(workplace):
    assert checks.problems(reading.read("tiny.yaml")) == []


@pytest.mark.parametrize(
    ("had", "experts", "others"),
    [
        (Done(4, frozenset({"code", "prose"})), 1, 1),
        (Done(6, frozenset({"code"})), 0, 0),  # no trial is left for the other experts
        (Done(5, frozenset({"code", "prose", "numbers"})), 0, 1),
    ],
)
def test_what_a_study_has_is_not_planned_again(had, experts, others, workplace):
    config = reading.read("tiny.yaml").config
    assert left(config, had) == (experts, others)
    runs = {stage.what: stage.runs for stage in plan(config, had).stages}
    assert (runs["experts"], runs["search"]) == (experts, others)


def test_a_trainer_of_the_users_has_no_size(cli, workplace):
    (workplace / "mine.py").write_text("")
    theirs = "launch.command=python mine.py {spec} {out}"
    code, out, _ = cli("validate", "tiny.yaml", "--set", theirs)
    assert code == 0
    assert "parameters" not in out
    assert "FLOP" not in out
    assert "--measure" not in out
    code, _, err = cli("validate", "tiny.yaml", "--set", theirs, "--measure")
    assert (code, "--tokens-per-second" in err) == (2, True)


@pytest.mark.parametrize(
    ("command", "said"), [("pithon x.py", "no program 'pithon'"), ("python x.py", "file 'x.py'")]
)
def test_a_command_that_is_not_there_is_named(command, said, workplace):
    definition = reading.read("tiny.yaml", [f"launch.command={command} {{spec}} {{out}}"])
    (problem,) = checks.problems(definition)
    assert "launch.command: " in problem
    assert said in problem


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("python mine.py {spec}", "without {out} the program has to leave result.json beside"),
        ("python mine.py {out}", "without {spec} the program has to read spec.json in {out}"),
        ("python mine.py {spec} {output} {out}", "{output} is none of {spec}, {out}, {runs}"),
        ("python mine.py {spec} {out} {runs}", None),
    ],
)
def test_validate_says_what_a_command_is_not_told(command, said, cli, workplace):
    (workplace / "mine.py").write_text("")
    code, out, err = cli("validate", "tiny.yaml", "--set", f"launch.command='{command}'")
    assert (code, err) == (0, "")
    doubts = [line for line in out.splitlines() if "launch.command: " in line]
    assert len(doubts) == (said is not None)
    assert said is None or said in doubts[0]


@pytest.mark.parametrize("changed", [False, True])
def test_validate_knows_caps_from_a_corpus_that_is_there(changed, cli, workplace):
    from optuna_mde_trainers.corpus import corpora

    config = reading.read("tiny.yaml").config
    corpora.prepare(config.corpus, workplace / "runs/tiny/corpus")
    if changed:  # `run` would build it anew
        (workplace / "code/more.txt").write_text("a text that was not there " * 99)
    target = "target={tokens: 1e9, max_epochs: 2}"
    code, out, err = cli("validate", "tiny.yaml", "--set", target)
    assert (code, ": right." in out) == ((0, True) if changed else (2, False))
    assert ("the domains' text gives rates that sum to 0.0" in err) != changed
    assert cli("validate", "tiny.yaml")[0] == 0


def test_validate_refuses_what_run_would_of_a_study_in_a_shared_storage(cli, workplace):
    from optuna_mde_studies.runner import opening
    from optuna_mde_studies.runner.folder import StudyFolder, create

    settings = ["storage=sqlite:///shared.db", "training.max_steps=30"]
    config = reading.read("tiny.yaml", settings)
    folder = StudyFolder(workplace / "runs/other").placed(config.config)
    create(folder)
    opening.begin(config, folder)
    code, _, err = cli("validate", "tiny.yaml", "--set", settings[0])
    assert code == 2
    assert "was begun with training.max_steps = 30, and now it is 20" in err


@pytest.mark.parametrize("url", ["sqlite:///none.db", "journal:none.log"])
def test_validate_makes_no_storage(url, cli, workplace):
    before = {*workplace.iterdir()}
    code, _, err = cli("validate", "tiny.yaml", "--set", f"storage={url}")
    assert (code, err) == (0, "")
    assert {*workplace.iterdir()} == before


def test_a_database_that_cannot_be_reached_is_named(cli, workplace):
    url = "postgresql+psycopg://me:secret@127.0.0.1:9/none"
    code, _, err = cli("validate", "tiny.yaml", "--set", f"storage={url}")
    assert code != 0
    assert "storage postgresql" in err
    assert "secret" not in err


def test_validate_says_what_is_left_after_a_split(cli, workplace):
    from optuna.distributions import FloatDistribution
    from optuna.trial import create_trial
    from optuna_mde_studies.runner import opening
    from optuna_mde_studies.runner.folder import StudyFolder, create, write_definition

    definition = reading.read("tiny.yaml")
    folder = StudyFolder(workplace / "runs/tiny")
    create(folder)
    write_definition(folder, definition.config)
    study = opening.begin(definition, folder)
    rates = [(1, 0, 0), (0, 1, 0), (0, 0, 1), *[(0.2, 0.3, 0.5)] * 3]
    domains = definition.config.domains
    for mixture in rates:
        params = {f"mix/{d}": float(r) for d, r in zip(domains, mixture, strict=True)}
        known = {name: FloatDistribution(0, 1) for name in params}
        study.add_trial(create_trial(params=params, distributions=known, value=3.0))
    text = (workplace / "tiny.yaml").read_text()
    line = next(line for line in text.splitlines() if line.startswith("    code:"))
    new = "\n".join(line.replace("code:", f"{name}:") for name in ("typing", "argparse"))
    text = text.replace(line, new).replace("n_trials: 6", "n_trials: 9")
    (workplace / "tiny.yaml").write_text(text)
    code, _, err = cli("validate", "tiny.yaml", "--set", "objective=news")
    assert code == 2
    assert "former_domains: {code: {split_into" in err
    former = "former_domains={code: {split_into: {typing: 0.6, argparse: 0.4}}}"
    code, out, err = cli("validate", "tiny.yaml", "--set", former)
    assert code == 0, err
    assert "9 trials (6 finished; left: 2 experts, then 1 mixture)" in out
