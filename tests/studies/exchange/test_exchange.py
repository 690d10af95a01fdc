"""Studies that go out as tables and come back, and what a table must not do."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from optuna_mde import (
    MDESampler,
    add_losses,
    get_losses,
    recommend,
    report_losses,
    save_logprobs,
    suggest_mixture,
)
from optuna_mde.answers.fitted import fit_study
from optuna_mde.mde.logprobs import load_logprobs
from optuna_mde.trials.facts import read_facts

Run = Callable[..., tuple[int, str, str]]

DOMAINS = ("web", "code", "books")
LAST = ("origin", "feasible")
"""Attributes that are others after the way out and in: where a run comes from, and what was known
of the natural mixture's loss when it ended."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


TABLE = np.random.default_rng(0).dirichlet(np.ones(3), size=(3, 400))  # [expert, token, kind]


def told(storage: str, name: str, objective: Any = None, n_trials: int = 5) -> optuna.Study:
    """A study whose experts train half a run and keep their log-probabilities."""
    directions = ["minimize"] * (2 if isinstance(objective, dict) and "a" in objective else 1)
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        directions=directions,
        sampler=MDESampler(seed=0, expert_budget=0.5),
    )

    def run(trial: optuna.Trial) -> Any:
        natural = {"web": 0.6, "code": 0.3, "books": 0.1}
        mixture = suggest_mixture(trial, DOMAINS, natural=natural)
        probabilities = np.array(list(mixture.values())) @ TABLE[:, :, 0]
        tokens = {"papers": np.log(probabilities[:200]), "code": np.log(probabilities[200:])}
        losses = {name: -values.mean() for name, values in tokens.items()}
        if trial.number == 4:
            losses["papers"] = math.nan
        url = f"files/{name}-{trial.number}.safetensors" if mixture.is_expert else None
        if url:
            save_logprobs(url, tokens)
        return report_losses(
            trial,
            losses,
            objective=objective,
            limits={"code": 2.0, "papers": "natural"},
            logprobs=url,
            budget=mixture.budget,
            tokens=round(10_000 * mixture.budget),
            parameters=123_456_789,
        )

    study.optimize(run, n_trials=n_trials)
    return study


def content(study: optuna.Study) -> list[tuple[Any, ...]]:
    """All that an exchange keeps of a study's trials."""
    kept = []
    for trial in study.get_trials(deepcopy=False):
        attrs = {k: v for k, v in trial.user_attrs.items() if k not in LAST}
        attrs = {k: v for k, v in attrs.items() if not k.startswith("predicted")}
        url = attrs.pop("logprobs", None)
        file = Path(url).read_bytes() if url else None
        kept.append((trial.state, trial.values, trial.params, trial.distributions, attrs, file))
    return kept


@pytest.mark.filterwarnings("ignore:no loss on")
@pytest.mark.parametrize("objective", [None, {"a": "mean", "b": ["code"]}])
def test_a_study_comes_back_as_it_was(cli: Run, here: Path, objective: Any) -> None:
    study = told("sqlite:///one.db", "one", objective)
    assert {t.state for t in study.trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    code, out, _ = cli("export", "sqlite:///one.db", "out")
    assert (code, out.splitlines()[-1]) == (0, "out: 5 runs, 3 files of experts")
    tables = ("out/ratios.csv", "out/metrics.csv", "--runs", "out/runs.csv")
    options = ("--logprobs", "out/logprobs", "--storage", "sqlite:///two.db")
    code, out, err = cli("import", *tables, *options, "--study", "two")
    assert (code, err) == (0, "")
    assert "5 runs taken over, 3 with an expert's file" in out
    back = optuna.load_study(study_name="two", storage="sqlite:///two.db")
    assert content(back) == content(study)
    assert back.user_attrs["natural"] == study.user_attrs["natural"]
    code, _, _ = cli("export", "sqlite:///two.db", "again")
    for name in ("ratios.csv", "metrics.csv", "runs.csv"):
        assert Path("again", name).read_bytes() == Path("out", name).read_bytes()
    for path in Path("out/logprobs").iterdir():
        assert Path("again/logprobs", path.name).read_bytes() == path.read_bytes()


@pytest.mark.filterwarnings("ignore:no loss on")
def test_imported_experts_are_experts_and_are_not_trained_again(cli: Run, here: Path) -> None:
    told("sqlite:///one.db", "one", {"papers": 1})
    cli("export", "sqlite:///one.db", "out")
    options = ("--logprobs", "out/logprobs", "--storage", "sqlite:///two.db", "--study", "two")
    cli("import", "out/ratios.csv", "out/metrics.csv", "--runs", "out/runs.csv", *options)
    study = optuna.load_study(
        study_name="two", storage="sqlite:///two.db", sampler=MDESampler(seed=1)
    )
    fitted = fit_study(study, None)
    assert {file.domain for file in fitted.observations.experts} == {*DOMAINS}
    mixture = suggest_mixture(study.ask(), DOMAINS)
    assert not mixture.is_expert
    assert max(mixture.values()) < 1


def test_files_are_found_by_run_or_domain_too(cli: Run, here: Path) -> None:
    Path("r.csv").write_text("run,web,code\na,1,0\nb,0,1\nc,.5,.5\nd,.2,.8\n")
    Path("m.csv").write_text("run,papers\na,2\nb,3\nc,2.2\nd,2.5\n")
    save_logprobs("files/a.safetensors", {"papers": np.full(9, -2.0)})
    save_logprobs("files/code.safetensors", {"papers": np.full(9, -3.0)})
    options = ("--logprobs", "files", "--storage", "sqlite:///s.db", "--study", "s")
    code, out, _ = cli("import", "r.csv", "m.csv", *options)
    assert (code, out) == (
        0,
        "sqlite:///s.db, study s: 4 runs taken over, 2 with an expert's file\n",
    )
    study = optuna.load_study(study_name="s", storage="sqlite:///s.db")
    urls = [trial.user_attrs.get("logprobs") for trial in study.trials]
    assert [Path(url).name if url else url for url in urls] == [
        "a.safetensors",
        "code.safetensors",
        None,
        None,
    ]
    assert [t.value for t in study.trials] == [2, 3, 2.2, 2.5]
    assert recommend(study).mixture["web"] > 0.5


def test_a_second_import_adds_what_was_lacking_and_doubles_nothing(cli: Run, here: Path) -> None:
    Path("r.csv").write_text("run,web,code\na,1,0\nb,0,1\nc,.5,.5\n")
    Path("m.csv").write_text("run,papers\na,2\nb,3\nc,2.2\n")
    arguments = ("import", "r.csv", "m.csv", "--storage", "sqlite:///s.db", "--study", "s")
    assert cli(*arguments)[0] == 0
    study = optuna.load_study(study_name="s", storage="sqlite:///s.db")
    before = study.trials
    for name, value in (("a", -2.0), ("code", -3.0)):
        save_logprobs(f"files/{name}.safetensors", {"papers": np.full(9, value)})
    code, out, err = cli(*arguments, "--logprobs", "files")
    assert (code, err) == (0, "")
    assert "added to runs of before: experts' files (2)" in out
    assert "0 runs taken over" in out
    assert {file.domain for file in fit_study(study, None).observations.experts} == {"web", "code"}

    Path("m.csv").write_text("run,papers,faq\na,2,1\nb,3,\nc,2.2,1.5\n")
    code, out, _ = cli(*arguments, "--logprobs", "files")
    assert (code, "added to runs of before: losses on 'faq' (2)\n" in out) == (0, True)
    assert get_losses(study)[0] == {"papers": 2, "faq": 1}
    assert get_losses(study)[2] == {"papers": 2.2, "faq": 1.5}
    kept = study.user_attrs
    code, out, _ = cli(*arguments, "--logprobs", "files")
    assert (code, "added" in out) == (0, False)
    assert (study.trials, study.user_attrs) == (before, kept)
    with Path("r.csv").open("a") as ratios, Path("m.csv").open("a") as metrics:
        ratios.write("d,.2,.8\n")
        metrics.write("d,2.5,1.2\n")
    code, out, _ = cli(*arguments, "--logprobs", "files")
    assert (code, "3 runs left out, in the study already" in out) == (0, True)
    assert [trial.params for trial in study.trials[:-1]] == [trial.params for trial in before]
    assert study.trials[-1].user_attrs["losses"] == {"papers": 2.5, "faq": 1.2}


def test_other_parameters_come_back_with_their_ranges(cli: Run, here: Path) -> None:
    study = optuna.create_study(study_name="one", storage="sqlite:///s.db")
    for number in range(4):
        study.enqueue_trial({"mix/web": number / 4, "mix/code": 1 - number / 4})
        trial = study.ask()
        suggest_mixture(trial, ["web", "code"])
        trial.suggest_float("lr", 1e-4, 1e-1, log=True)
        trial.suggest_categorical("schedule", ["cosine", None, 3])
        study.tell(trial, report_losses(trial, {"papers": 1 / (number + 3)}))
    cli("export", "sqlite:///s.db", "out", "--study", "one")
    tables = ("out/ratios.csv", "out/metrics.csv", "--runs", "out/runs.csv")
    code, _, _ = cli("import", *tables, "--storage", "sqlite:///s.db", "--study", "two")
    assert code == 0
    back = optuna.load_study(study_name="two", storage="sqlite:///s.db")
    assert content(back) == content(study)


def test_losses_and_files_that_came_later_go_along(cli: Run, here: Path) -> None:
    study = optuna.create_study(study_name="one", storage="sqlite:///s.db")
    for number, rates in enumerate([(1.0, 0.0), (0.0, 1.0), (0.5, 0.5)]):
        study.enqueue_trial(dict(zip(["mix/web", "mix/code"], rates, strict=True)))
        trial = study.ask()
        suggest_mixture(trial, ["web", "code"])
        url = save_logprobs(f"files/{number}.safetensors", {"papers": np.full(9, -1.0 - number)})
        study.tell(trial, report_losses(trial, {"papers": 1.0 + number}, logprobs=url))
    later = save_logprobs("files/later.safetensors", {"faq": np.full(5, -3.0)})
    add_losses(study, {n: {"faq": 3.0 + n} for n in range(3)}, logprobs={0: later})
    cli("export", "sqlite:///s.db", "out", "--study", "one")
    tables = ("out/ratios.csv", "out/metrics.csv", "--runs", "out/runs.csv")
    options = ("--logprobs", "out/logprobs", "--storage", "sqlite:///s.db", "--study", "two")
    assert cli("import", *tables, *options)[0] == 0
    back = optuna.load_study(study_name="two", storage="sqlite:///s.db")
    assert [t.user_attrs["losses"] for t in back.trials] == [
        {"papers": 1.0 + n, "faq": 3.0 + n} for n in range(3)
    ]
    assert [t.values for t in back.trials] == [t.values for t in study.trials]
    arrays, _ = load_logprobs(back.trials[0].user_attrs["logprobs"])
    assert {name: array.tolist() for name, array in arrays.items()} == {
        "papers": [-1.0] * 9,
        "faq": [-3.0] * 5,
    }


@pytest.fixture
def small(here: Path) -> list[str]:
    """Arguments of an import of three runs into a storage that is not there yet."""
    Path("r.csv").write_text("run,web,code\na,1,0\nb,0,1\nc,.5,.5\n")
    Path("m.csv").write_text("run,papers,faq\na,2,1\nb,3,1\nc,2.2,1\n")
    save_logprobs("files/a.safetensors", {"papers": np.full(9, -2.0)})
    save_logprobs("secret.safetensors", {"papers": np.full(9, -2.0)})
    Path("files/link.safetensors").symlink_to(Path("secret.safetensors").resolve())
    return ["import", "r.csv", "m.csv", "--storage", "sqlite:///s.db", "--study", "s"]


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ("logprobs\na,../secret.safetensors", "leads out of files"),
        ("logprobs\na,link.safetensors", "leads out of files"),
        ("logprobs\na,/etc/passwd", "leads out of files"),
        ("logprobs\na,s3://bucket/x", "there is no file"),
        ("logprobs\na,a\u202e.safetensors", "there is no file"),
        ("logprobs\na,.", "there is no file"),
        ("budget\na,1.5", "budget = '1.5' is not the share of a full run"),
        ("tokens\na,1.5", "tokens = '1.5' is not a whole number"),
        ("tokens\na,100\nb,200", "runs of several sizes cannot be compared"),
        ("limits\na,[1]", "is not a JSON object"),
        ('limits\na,"{""papers"": ""low""}"', "limit on 'papers'"),
        ("objective\na,import os", "no JSON text of an objective"),
        ('objective\na,"{""goals"": [[""x"", {""gone"": 1}]]}"', "gone"),
        ('beside\na,"{""lr"": [1, ""{}""]}"', "no parameter with its distribution"),
        ('beside\na,"{""mix/web"": [1, ""{}""]}"', "no parameter with its distribution"),
        ("colour\na,red", "none of the columns tokens, parameters"),
    ],
)
def test_a_table_is_data_alone(cli: Run, small: list[str], cells: str, words: str) -> None:
    Path("runs.csv").write_text(f"run,{cells}\n", encoding="utf-8")
    code, _, err = cli(*small, "--runs", "runs.csv", "--logprobs", "files")
    assert code == 2
    assert words in err
    assert not Path("s.db").exists()


def test_what_does_not_fit_the_study_is_refused(cli: Run, small: list[str]) -> None:
    assert cli(*small)[0] == 0

    def refused(ratios: str, metrics: str, *options: str) -> str:
        Path("r.csv").write_text(ratios)
        Path("m.csv").write_text(metrics)
        code, _, err = cli(*small, *options)
        assert code == 2
        return err

    ratios, metrics = Path("r.csv").read_text(), Path("m.csv").read_text()
    code, out, _ = cli(*small)
    assert (code, "3 runs left out, in the study already" in out) == (0, True)
    assert "0 runs taken over" in out
    ratios, metrics = ratios.replace("\na", "\nx"), metrics.replace("\na", "\nx")
    assert "has the domains web, code" in refused(ratios.replace("web", "wiki"), metrics)
    assert "the validation sets papers, faq" in refused(ratios, metrics.replace("faq", "news"))
    assert "no losses on 'faq'" in refused(ratios, "run,papers\nx,1\n")
    two = '{"p": ["papers"], "f": ["faq"]}'
    assert "1 objective(s)" in refused("run,web,code\nx,1,0\n", metrics, "--objective", two)
    assert "--objective: " in refused(
        "run,web,code\nx,1,0\n", metrics, "--objective", "{papers: -1}"
    )
    study = optuna.load_study(study_name="s", storage="sqlite:///s.db")
    assert len(study.trials) == 3


def test_an_export_overwrites_nothing_and_opens_no_foreign_file(cli: Run, here: Path) -> None:
    study = optuna.create_study(study_name="s", storage="sqlite:///s.db")
    for number, rates in enumerate(itertools.permutations([0.0, 1.0])):
        study.enqueue_trial(dict(zip(["mix/web", "mix/code"], rates, strict=True)))
        trial = study.ask()
        suggest_mixture(trial, ["web", "code"])
        value = report_losses(trial, {"papers": number + 1.0})
        trial.set_user_attr("logprobs", "/etc/passwd")
        study.tell(trial, value)
    code, out, _ = cli("export", "sqlite:///s.db", "out")
    assert code == 0
    assert "/etc/passwd lies outside the study's folder and is not opened" in out
    assert not Path("out/logprobs").exists()
    code, _, err = cli("export", "sqlite:///s.db", "out")
    assert code == 2
    assert "is there already" in err


def test_a_definition_takes_runs_over_before_it_begins(cli: Run, workplace: Path) -> None:
    rates = {"a": (1, 0, 0), "b": (0, 1, 0), "c": (0, 0, 1), "d": (0.2, 0.2, 0.6)}
    rows = "".join(f"{run},{','.join(map(str, parts))}\n" for run, parts in rates.items())
    Path("r.csv").write_text("run,code,prose,numbers\n" + rows)
    Path("m.csv").write_text("run,code,news\na,2,5\nb,4,3\nc,5,5\nd,4,4\n")
    save_logprobs("files/a.safetensors", {"code": np.full(9, -2.0), "news": np.full(9, -5.0)})
    arguments = ("import", "r.csv", "m.csv", "--study", "tiny.yaml", "--logprobs", "files")
    code, out, err = cli(*arguments)
    assert (code, err) == (0, "")
    assert "runs/tiny: 4 runs taken over, 1 with an expert's file" in out
    shutil.rmtree("files")
    code, out, _ = cli("status", "tiny.yaml")
    assert out.startswith("tiny: 0 of 6 trials finished, 4 taken over\n")
    study = optuna.load_study(study_name="tiny", storage="sqlite:///runs/tiny/study.db")
    assert study.trials[0].value == pytest.approx((2 + 2 * 5) / 3)
    file = Path("runs/tiny", study.trials[0].user_attrs["logprobs"])
    assert file.is_file()
    wider = {"code": np.full(9, -2.0), "news": np.full(9, -5.0), "prose": np.full(9, -4.0)}
    save_logprobs("files/a.safetensors", wider)
    code, out, _ = cli(*arguments)
    assert (code, "added to runs of before: experts' files (1)" in out) == (0, True)
    code, out, _ = cli(*arguments)
    assert (code, "added" in out, len(study.trials)) == (0, False, 4)
    shutil.rmtree("files")
    assert {*load_logprobs(str(Path("runs/tiny", _added_file(study))))[0]} == {*wider}
    code, _, err = cli("import", "r.csv", "m.csv", "--study", "tiny.yaml", "--objective", "mean")
    assert code == 2
    assert "a definition says what its study is judged by" in err
    Path("m.csv").write_text("run,code,other\na,2,5\nb,4,3\nc,5,5\nd,4,4\n")
    code, _, err = cli("import", "r.csv", "m.csv", "--study", "runs/tiny")
    assert code == 2
    assert "validation sets code, prose, numbers, news" in err


def _added_file(study: optuna.Study) -> str:
    """Of the first trial, relative to the study's folder."""
    first = next(trial for trial in read_facts(study).trials if trial.number == 0)
    return first.logprob_urls[-1]


@pytest.mark.filterwarnings("ignore:no loss on")
def test_in_python_one_line_takes_another_studys_runs(here: Path) -> None:
    """What the documentation says of warm starts without a definition."""
    other = told("sqlite:///one.db", "one")
    study = optuna.create_study(sampler=MDESampler(seed=1))
    study.add_trials(other.get_trials(states=[TrialState.COMPLETE, TrialState.PRUNED]))
    files = fit_study(study, None).observations.experts
    assert {file.domain for file in files} == {*DOMAINS}
    assert not suggest_mixture(study.ask(), DOMAINS).is_expert
