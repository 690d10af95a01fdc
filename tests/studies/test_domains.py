"""A study whose domains change after it has begun, by its command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import optuna
import pytest

from tests.conftest import Command
from tests.trainers.written import prose

SPLIT = """\
    typing: {path: text, data_files: 'code/[0-2]*.txt'}
    argparse: {path: text, data_files: 'code/[3-4]*.txt'}
"""
FORMER = "former_domains: {code: {split_into: {typing: 0.6, argparse: 0.4}}}\n"


def edited(folder: Path, *changes: tuple[str, str]) -> None:
    """The definition with some of its text replaced."""
    path = folder / "tiny.yaml"
    text = path.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def copied(tiny_run: Path, folder: Path) -> Path:
    shutil.copytree(tiny_run, folder, dirs_exist_ok=True)
    return folder


CODE = "    code: {path: text, data_files: 'code/*.txt'}\n"
MORE = ("n_trials: 6", "n_trials: 9")


@pytest.mark.slow
def test_a_split_trains_the_new_experts_and_goes_on(
    tiny_run: Path, tmp_path: Path, command: Command
) -> None:
    folder = copied(tiny_run, tmp_path)
    edited(folder, (CODE, ""), ("    numbers:", SPLIT + "    numbers:"), MORE)
    edited(folder, ("search:", FORMER + "search:"), ("seeds: 2", "seeds: 0"))
    planned = command("validate", "tiny.yaml", folder=folder)
    assert planned.returncode == 0, planned.stderr
    assert "typing and argparse are new, and need an expert each" in planned.stdout
    assert "9 trials (6 finished; left: 2 experts, then 1 mixture)" in planned.stdout
    done = command("run", "tiny.yaml", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{folder}/runs/tiny/study.db")
    later = study.trials[6:]
    assert [t.user_attrs["phase"] == "expert" for t in later] == [True, True, False]
    corners = {max(t.params, key=t.params.__getitem__) for t in later[:2]}
    assert corners == {"mix/typing", "mix/argparse"}
    assert {name for t in later for name in t.user_attrs["losses"]} == {
        name for t in study.trials[:6] for name in t.user_attrs["losses"]
    }
    assert study.user_attrs["revisions"] == {"mix/": [{"code": {"typing": 0.6, "argparse": 0.4}}]}
    kept = json.loads((folder / "runs/tiny/recommendation.json").read_text(encoding="utf-8"))
    assert "typing" in json.dumps(kept)
    assert (folder / "runs/tiny/report.html").stat().st_size > 0
    again = command("run", "tiny.yaml", folder=folder)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "revising" not in again.stdout


@pytest.mark.slow
def test_a_domain_may_be_added(tiny_run: Path, tmp_path: Path, command: Command) -> None:
    folder = copied(tiny_run, tmp_path)
    added = "    books: {path: text, data_files: 'books/*.txt'}\n"
    (folder / "books").mkdir()
    for i, text in enumerate(prose("books", 60, words=200)):
        (folder / f"books/{i}.txt").write_text(text, encoding="utf-8")
    edited(folder, ("  validation:", added + "  validation:"), ("n_trials: 6", "n_trials: 7"))
    edited(folder, ("seeds: 2", "seeds: 0"))
    done = command("run", "tiny.yaml", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{folder}/runs/tiny/study.db")
    assert study.trials[6].params["mix/books"] == 1.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            [(CODE, ""), ("{code: 1, news: 2}", "news")],
            "former_domains: {code: {split_into",
        ),
        ([("code/*.txt", "code/0*.txt")], "former_domains: {code: {revised_as: NAME}}"),
        (
            [("search:", "former_domains: {prose: {revised_as: text}}\nsearch:")],
            "prose is in corpus.domains still",
        ),
        (
            [(CODE, ""), ("search:", "former_domains: {code: {merged_into: cod}}\nsearch:")],
            "no domain is called 'cod'",
        ),
        (
            [(CODE, ""), ("search:", "former_domains: {code: {split_into: {prose: 2}}}\nsearch:")],
            "less than or equal to 1",
        ),
    ],
)
def test_what_may_not_change_is_refused_with_its_mend(
    tiny_run: Path,
    tmp_path: Path,
    command: Command,
    changes: list[tuple[str, str]],
    said: str,
) -> None:
    folder = copied(tiny_run, tmp_path)
    root = folder / "runs/tiny"
    before = {path: path.read_bytes() for path in root.glob("*.*")}
    edited(folder, *changes, MORE)
    done = command("run", "tiny.yaml", folder=folder)
    assert done.returncode == 2, done.stdout
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert {path: path.read_bytes() for path in root.glob("*.*")} == before
