"""A study that begins with the runs of another one."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.trial import TrialState
from optuna_mde_studies.definition.reading import read
from optuna_mde_studies.report import costs, overview
from optuna_mde_studies.runner import warm
from optuna_mde_studies.runner.experiment import Experiment
from optuna_mde_studies.runner.folder import StudyError, StudyFolder
from optuna_mde_studies.runner.opening import open_study
from optuna_mde_studies.runner.trials import num_finished
from optuna_mde_trainers.corpus.blocks import Corpus

from optuna_mde import MDESampler, report_losses, revise_domains, suggest_mixture
from optuna_mde.answers.fitted import fit_study


@pytest.fixture
def begun(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Begins a study that differs from the finished tiny one in some fields, on its corpus."""
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def begun(*overrides: str, warm_start: str = "[tiny]") -> tuple[Experiment, optuna.Study]:
        settings = ("name=second", f"warm_start={warm_start}", *overrides)
        definition = read("tiny.yaml", settings)
        folder = StudyFolder(Path("runs/second"))
        folder.path.mkdir()
        shutil.copytree("runs/tiny/corpus", folder.corpus)
        experiment = Experiment(definition.config, folder, Corpus.load(folder.corpus))
        return experiment, open_study(folder, definition.config)

    return begun


def tiny() -> optuna.Study:
    return optuna.load_study(study_name="tiny", storage="sqlite:///runs/tiny/study.db")


def test_runs_are_taken_over_once_and_judged_anew(begun):
    experiment, study = begun("objective={news: 1}")
    said: list[str] = []
    warm.start(experiment, study, said.append)
    old = tiny().get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    assert said == [f"warm start from tiny: {len(old)} runs taken over, 3 with an expert's file"]
    for there, here in zip(old, study.trials, strict=True):
        assert here.state == there.state
        assert here.params == there.params
        assert here.user_attrs["losses"] == there.user_attrs["losses"]
        assert here.user_attrs["origin"]["trial"] == there.number
        if here.values is not None:
            assert here.values == [there.user_attrs["losses"]["news"]]
    warm.start(experiment, study, said.append)
    assert len(study.trials) == len(old)
    assert num_finished(study) == 0
    assert costs.ledger(overview.read(study)) == []


def test_its_experts_are_not_trained_again(begun):
    experiment, study = begun()
    warm.start(experiment, study, print)
    shutil.rmtree("runs/tiny")
    study = optuna.load_study(
        study_name="second",
        storage="sqlite:///runs/second/study.db",
        sampler=MDESampler(seed=0, objective={"news": 1}),
    )
    files = fit_study(study, None).observations.experts
    assert sorted(file.domain for file in files) == ["code", "numbers", "prose"]
    assert not suggest_mixture(study.ask(), experiment.domains).is_expert


def test_a_run_that_finishes_there_later_comes_too(begun):
    experiment, study = begun()
    warm.start(experiment, study, print)
    number = len(study.trials)
    other = tiny()
    other.enqueue_trial({"mix/code": 0.5, "mix/prose": 0.25, "mix/numbers": 0.25})
    trial = other.ask()
    suggest_mixture(trial, experiment.domains)
    losses = other.trials[-2].user_attrs["losses"]
    other.tell(trial, report_losses(trial, losses, objective={"code": 1, "news": 2}))
    warm.start(experiment, study, print)
    assert len(study.trials) == number + 1
    assert study.trials[-1].params["mix/code"] == 0.5


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("training.max_steps=21",), "training.max_steps is 20 there and 21 here"),
        (("model.hidden_size=32",), "model.hidden_size is 16 there and 32 here"),
        (("corpus.block_size=16",), "corpus.block_size is 32 there and 16 here"),
    ],
)
def test_runs_of_another_size_are_refused(begun, overrides, words: str):
    experiment, study = begun(*overrides)
    with pytest.raises(StudyError, match=words) as raised:
        warm.start(experiment, study, print)
    assert "cannot be compared" in str(raised.value)
    assert study.trials == []


def test_other_tokens_are_refused_and_other_text_is_said(begun):
    experiment, study = begun("training.seed=5")
    path = Path("runs/tiny/corpus/corpus.json")
    kept = json.loads(path.read_text())
    for domain in (
        kept["domains"] if isinstance(kept["domains"], list) else kept["domains"].values()
    ):
        domain["fingerprint"] = "x"
    path.write_text(json.dumps(kept))
    said: list[str] = []
    warm.start(experiment, study, said.append)
    assert "other text in code, prose and numbers" in said[0]
    assert "another training seed" in said[1]
    for found in kept["sets"].values():
        found["fingerprint"] = "x"
    path.write_text(json.dumps(kept))
    study = optuna.create_study()
    with pytest.raises(StudyError, match="its validation set code holds other tokens"):
        warm.start(experiment, study, print)


def test_a_study_that_is_not_there_is_named(begun):
    experiment, study = begun(warm_start="[gone]")
    with pytest.raises(StudyError, match="there is no study 'gone'"):
        warm.start(experiment, study, print)
    with pytest.raises(StudyError, match="there is no study 'gone'"):
        warm.offers(experiment.folder, experiment.config)


@pytest.fixture
def warm_file(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A definition beside the finished tiny study that takes over its runs; not begun."""
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    definition = yaml.safe_load(Path("tiny.yaml").read_text())
    definition |= {"name": "warm", "warm_start": ["tiny"], "confirm": {"seeds": 0}}
    Path("warm.yaml").write_text(yaml.safe_dump(definition, sort_keys=False))
    return Path("warm.yaml")


def split_code(study: optuna.Study) -> None:
    """As a study is left whose domain `code` was split: its expert is none of either half."""
    revise_domains(study, {"code": {"typing": 0.5, "argparse": 0.5}})


def test_the_plan_has_the_experts_that_the_other_study_lacks(warm_file, cli):
    split_code(tiny())
    code, out, err = cli("validate", str(warm_file))
    assert code == 0, err
    assert "6 trials (after the runs of tiny: 1 expert, then 5 mixtures)" in out
    assert "warm start from tiny: 2 runs to take over, experts of numbers and prose; 4 runs" in out
    assert re.search(r"^experts +1 ", out, re.MULTILINE)
    assert re.search(r"^search +5 ", out, re.MULTILINE)


@pytest.mark.parametrize("asked", ["validate", "run"])
@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.max_steps=21", "training.max_steps is 20 there and 21 here"),
        ("corpus.tokenizer={type: bpe}", "corpus.tokenizer makes bytes there and"),
        ("objective={later: 1}", "its runs have no losses on later"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_a_corpus_is_built(
    asked, override, words, warm_file, cli
):
    definition = yaml.safe_load(warm_file.read_text())
    sets = definition["corpus"]["validation"]
    sets["later"] = sets["news"]
    warm_file.write_text(yaml.safe_dump(definition, sort_keys=False))
    code, _, err = cli(asked, str(warm_file), "--set", override)
    assert code != 0
    assert f"warm_start: tiny: {words}" in err
    assert not Path("runs/warm").exists()


def test_validate_compares_the_text_once_it_is_there(warm_file, cli):
    shutil.copytree("runs/tiny/corpus", "runs/warm/corpus")
    path = Path("runs/tiny/corpus/corpus.json")
    kept = json.loads(path.read_text())
    for found in kept["sets"].values():
        found["fingerprint"] = "x"
    path.write_text(json.dumps(kept))
    code, _, err = cli("validate", str(warm_file))
    assert code != 0
    assert "its validation set code holds other tokens" in err


@pytest.mark.slow
def test_run_announces_and_trains_the_expert_that_is_missing(warm_file, tmp_path, command):
    split_code(tiny())
    done = command("run", str(warm_file), "--set", "search.n_trials=3", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "searching: 3 trials, the first of them an expert, on " in done.stdout
    assert "steps of the experts, out of 20: code 10\n" in done.stdout
    study = optuna.load_study(study_name="warm", storage="sqlite:///runs/warm/study.db")
    own = [trial for trial in study.trials if "origin" not in trial.user_attrs]
    assert [t.number for t in own if max(t.params.values()) == 1] == [own[0].number]
    assert own[0].params["mix/code"] == 1


@pytest.mark.slow
def test_a_warm_study_trains_no_expert(begun, tiny_run, tmp_path, command):
    """The whole command: as many new runs as were asked for, none of them an expert."""
    definition = yaml.safe_load((tmp_path / "tiny.yaml").read_text())
    definition |= {"name": "warm", "warm_start": ["tiny"], "confirm": {"seeds": 0}}
    (tmp_path / "warm.yaml").write_text(yaml.safe_dump(definition))
    done = command("run", "warm.yaml", "--set", "search.n_trials=2", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    study = optuna.load_study(
        study_name="warm", storage=f"sqlite:///{tmp_path}/runs/warm/study.db"
    )
    own = [trial for trial in study.trials if "origin" not in trial.user_attrs]
    assert len(own) == 2
    assert all(max(trial.params.values()) < 1 for trial in own)
    status = command("status", "warm.yaml", folder=tmp_path).stdout
    assert status.startswith("warm: 2 of 2 trials finished, 6 taken over")
    planned = command("validate", "warm.yaml", "--set", "search.n_trials=2", folder=tmp_path)
    assert "3 domains, 2 trials (all finished) of 20 steps" in planned.stdout
    checked = command("check", "warm.yaml", folder=tmp_path)
    assert checked.returncode == 0, checked.stdout
