"""The main job, by its command: from text to a confirmed mixture, and started again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from optuna_mde_trainers.corpus.tokenizer import END_OF_TEXT, train_bpe


def study_of(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="tiny", storage=f"sqlite:///{folder}/runs/tiny/study.db")


def stamps(folder: Path) -> dict[str, int]:
    """When every run's result was written."""
    results = (folder / "runs/tiny/runs").glob("*/result.json")
    return {str(path): path.stat().st_mtime_ns for path in results}


def test_the_study_is_an_ordinary_optuna_study(tiny_run):
    study = study_of(tiny_run)
    trials = study.trials
    assert [trial.state for trial in trials] == (
        [TrialState.PRUNED] * 3 + [TrialState.COMPLETE] * 3  # experts train half a run
    )
    assert [trial.number for trial in trials] == list(range(6))
    mixtures = [
        {name.removeprefix("mix/"): rate for name, rate in trial.params.items()}
        for trial in trials
    ]
    for mixture in mixtures:
        assert sum(mixture.values()) == pytest.approx(1, abs=1e-9)
    corners = sorted(max(m, key=lambda name: m[name]) for m in mixtures[:3])
    assert corners == ["code", "numbers", "prose"]
    assert all(set(mixture.values()) == {0.0, 1.0} for mixture in mixtures[:3])
    assert mixtures[3] == pytest.approx(study.user_attrs["natural"])


def test_every_run_is_a_folder_of_its_own_and_told_as_it_came_out(tiny_run):
    study, root = study_of(tiny_run), tiny_run / "runs/tiny"
    assert len({trial.user_attrs["run"] for trial in study.trials}) == 6
    for trial in study.trials:
        result = json.loads((root / trial.user_attrs["run"] / "result.json").read_text())
        assert trial.user_attrs["losses"] == pytest.approx(result["losses"])
        losses = result["losses"]
        if trial.number >= 3:
            assert trial.value == pytest.approx((losses["code"] + 2 * losses["news"]) / 3)
        assert set(losses) == {"code", "prose", "numbers", "news"}
    seeds = {trial.user_attrs["spec"]["training"]["seed"] for trial in study.trials}
    assert seeds == {0}
    with_logprobs = [trial.number for trial in study.trials if "logprobs" in trial.user_attrs]
    assert with_logprobs == [0, 1, 2]
    for trial in study.trials[:3]:
        assert (root / trial.user_attrs["logprobs"]).is_file()


def test_the_output_says_what_happens_and_ends_with_the_tables(tiny_run):
    output = (tiny_run / "output.txt").read_text()
    lines = output.split("\n")
    for said in ("building the corpus", "searching: 6 trials, the first 3 of them experts"):
        assert any(said in line for line in lines)
    assert sum("/6 search] trial" in line for line in lines) == 6
    assert sum("/8 confirmation] " in line for line in lines) == 8
    assert any(
        line.startswith(("Train on ", "No mixture ", "The recommended mixture did"))
        for line in lines
    )
    assert "Gain on natural, with 2 fresh seeds (95 % interval): " in output
    for row in ("recommended", "natural", "uniform", "best expert (", "best seen"):
        assert any(line.startswith(row) for line in lines)
    assert "confirming: recommended, natural, uniform, best expert (" in output
    assert "to minimise, nats per token: 0.33 code + 0.67 news" in output
    assert "2 fresh seeds" in output
    assert "Intervals are for the training seed that these runs share" in output
    assert "A run of the recommended mixture with another seed is expected between" in output
    assert "report: runs/tiny/report.html" in output


def test_the_confirmation_pairs_fresh_seeds(tiny_run):
    kept = json.loads((tiny_run / "runs/tiny/confirm.json").read_text())
    assert next(iter(kept["mixtures"])) == "recommended"
    assert {len(runs) for runs in kept["losses"].values()} == {2}
    specs = [
        json.loads(path.read_text())["training"]
        for path in (tiny_run / "runs/tiny/runs").glob("*/spec.json")
    ]
    for seed in kept["seeds"]:
        paired = [spec for spec in specs if spec["seed"] == seed]
        assert len(paired) == len(kept["mixtures"])
        assert seed != 0


def test_run_again_when_done_it_trains_nothing(tiny_run, command):
    before = stamps(tiny_run)
    again = command("run", "tiny.yaml", folder=tiny_run)
    assert again.returncode == 0
    assert stamps(tiny_run) == before
    assert len(study_of(tiny_run).trials) == 6
    first = (tiny_run / "output.txt").read_text()
    tables = first[first.index("\nnats per token") :]
    assert again.stdout.endswith(tables)


def test_more_trials_go_on_where_the_study_stopped(tiny_run, command, tmp_path):
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    before = stamps(tmp_path)
    more = command("run", "tiny.yaml", "--set", "search.n_trials=7", folder=tmp_path)
    assert more.returncode == 0, more.stderr
    assert len(study_of(tmp_path).trials) == 7
    after = stamps(tmp_path)
    assert {path: after[path] for path in before} == before
    assert json.loads((tmp_path / "runs/tiny/confirm.json").read_text())["told"] == 7


def test_another_training_is_refused_with_the_mend(tiny_run, command):
    refused = command("run", "tiny.yaml", "--set", "training.max_steps=21", folder=tiny_run)
    assert refused.returncode == 2
    assert refused.stderr == (
        "--set training.max_steps=21: training.max_steps: the study in runs/tiny was begun with "
        "training.max_steps = 20, and now it is 21: runs under both cannot be compared. Take the "
        "old value, or start afresh with `--out OTHER_FOLDER`\n"
    )


def test_other_text_is_noticed(tiny_run, command, tmp_path):
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    (tmp_path / "prose/00.txt").write_text("something else", encoding="utf-8")
    refused = command("run", "tiny.yaml", "--set", "search.n_trials=7", folder=tmp_path)
    assert refused.returncode == 2
    assert "prose/00.txt" in refused.stderr
    assert "Put the text back as it was, or start afresh with `--out" in refused.stderr
    assert "delete" not in refused.stderr
    assert len(study_of(tmp_path).trials) == 6
    done = command("run", "tiny.yaml", folder=tmp_path)  # nothing to train: the answer stands
    assert done.returncode == 0
    assert "prose/00.txt" in done.stdout
    assert "recommended" in done.stdout


def test_without_fresh_seeds_nothing_is_trained_after_the_search(tiny_run, command, tmp_path):
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    before = stamps(tmp_path)
    (tmp_path / "runs/tiny/confirm.json").unlink()
    options = ("--set", "search.n_trials=7", "--set", "confirm.seeds=0")
    more = command("run", "tiny.yaml", *options, folder=tmp_path)
    assert more.returncode == 0, more.stderr
    assert len(stamps(tmp_path)) == len(before) + 1
    assert "recommended" in more.stdout
    assert "fresh seeds" not in more.stdout
    assert "7 finished runs" in (tmp_path / "runs/tiny/report.html").read_text(encoding="utf-8")
    asked = command("confirm", "runs/tiny", folder=tmp_path)
    assert asked.returncode == 2
    assert "say how many with --seeds" in asked.stderr


def test_confirm_with_more_seeds_trains_the_new_ones_only(tiny_run, command, tmp_path):
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    before = stamps(tmp_path)
    kept = json.loads((tmp_path / "runs/tiny/confirm.json").read_text())
    more = command("confirm", "runs/tiny", "--seeds", "3", folder=tmp_path)
    assert more.returncode == 0, more.stderr
    assert "3 fresh seeds" in more.stdout
    after = stamps(tmp_path)
    assert {path: after[path] for path in before} == before
    assert len(after) == len(before) + len(kept["mixtures"])
    now = json.loads((tmp_path / "runs/tiny/confirm.json").read_text())
    assert now["mixtures"] == kept["mixtures"]
    assert {name: runs[:2] for name, runs in now["losses"].items()} == kept["losses"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    ["{preset: 1M}", "{pretrained_config: {model_type: gpt2, n_embd: 32, n_layer: 1, n_head: 2}}"],
    ids=["preset", "gpt2"],
)
def test_any_model_runs_the_study(tiny_run, command, tmp_path, model):
    for path in tiny_run.iterdir():
        if path.name != "runs":
            (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / path.name)
    options = ("--set", f"model={model}", "--set", "confirm.seeds=0", "--set", "launch.workers=1")
    done = command("run", "tiny.yaml", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "recommended" in done.stdout


@pytest.mark.slow
def test_token_ids_run_the_study(texts, command, tmp_path):
    """An `.npy` and a `.bin` file and a column of ids, in the place of the same texts."""
    words = {d: [p.read_text() for p in sorted((texts / d).iterdir())] for d in ("code", "prose")}
    numbers = [p.read_text() for p in sorted((texts / "numbers").iterdir())]
    tokenizer = train_bpe([*words["code"], *words["prose"]], 300, END_OF_TEXT)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    end = tokenizer.token_to_id(END_OF_TEXT)
    flat = {
        name: [i for text in documents for i in [*tokenizer.encode(text).ids, end]]
        for name, documents in words.items()
    }
    np.save(tmp_path / "code.npy", np.array(flat["code"]))
    np.array(flat["prose"], np.uint16).tofile(tmp_path / "prose.bin")
    lines = [json.dumps({"ids": tokenizer.encode(text).ids}) + "\n" for text in numbers]
    (tmp_path / "numbers.jsonl").write_text("".join(lines))
    shutil.copytree(texts / "news", tmp_path / "news")
    shutil.copy(texts / "tiny.yaml", tmp_path)
    own = {"tokenizer": "tokenizer.json"}
    domains = {
        "code": {"path": "npy", "data_files": "code.npy", **own},
        "prose": {"path": "bin", "data_files": "prose.bin", "dtype": "uint16", **own},
        "numbers": {
            **{"path": "json", "data_files": "numbers.jsonl", "tokens_column": "ids"},
            **own,
        },
    }
    options = (
        f"corpus.domains={json.dumps(domains)}",
        "corpus.tokenizer={type: pretrained, path: tokenizer.json}",
        "confirm.seeds=0",
    )
    done = command("run", "tiny.yaml", *(f"--set={o}" for o in options), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "recommended" in done.stdout
    held = json.loads((tmp_path / "runs/tiny/corpus/corpus.json").read_text())["domains"]
    for name, ids in flat.items():
        assert 0.8 * len(ids) < held[name]["tokens"] < len(ids)  # the rest is held out
