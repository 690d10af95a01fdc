from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.trainers.tasks import ARC

Called = Callable[..., str]


@pytest.fixture
def called() -> Called:
    """Runs the command in this process; its output, which has to be a success."""
    from optuna_mde_studies.cli import app

    def call(*arguments: str | Path) -> str:
        result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    return call


@pytest.fixture
def runs(tiny_run: Path, tmp_path: Path) -> list[Path]:
    """Two runs of the tiny study, one of them an expert."""
    folders = sorted(path.parent for path in (tiny_run / "runs/tiny/runs").glob("*/result.json"))
    experts = [folder for folder in folders if (folder / "logprobs.safetensors").exists()]
    others = [folder for folder in folders if folder not in experts]
    return [
        Path(shutil.copytree(folder, tmp_path / "runs" / folder.name))
        for folder in (experts[0], others[0])
    ]


def test_score_takes_files_templates_and_sources(
    called: Called, runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("faq.jsonl").write_text(
        "".join(json.dumps({"text": f"Question {n}: why? Because {n}."}) + "\n" for n in range(90))
    )
    Path("a.jsonl").write_text("".join(json.dumps({**row, "question": "?"}) + "\n" for row in ARC))
    printed = called(
        *("score", *runs, "--accelerator", "cpu", "--validation-tokens", "320"),
        *("--set", "faq=faq.jsonl"),
        *("--set", "arc={template: arc_easy, path: json, data_files: a.jsonl}"),
    )
    for run in runs:
        faq, arc = (
            json.loads((run / f"scores/{name}.json").read_text()) for name in ("faq", "arc")
        )
        assert f"{run}: faq: {faq['loss']:.4f} nats per token\n" in printed
        assert f"{run}: arc: {arc['loss']:.4f} nats per token, accuracy " in printed
        assert faq["tokens"] == 320
        assert arc["task"]["examples"] == 2
    assert [(run / "scores/faq.safetensors").exists() for run in runs] == [True, False]


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("faq", "write NAME=SOURCE"),
        ("faq=faq", "no file ending in .jsonl"),
        ("faq={path: json", "--set faq: "),
        ("faq={path: json, data_file: a.jsonl}", "data_file"),
        ("arc={template: arc}", "arc_easy, arc_challenge"),
    ],
)
def test_a_set_that_is_none_is_one_sentence(runs: list[Path], written: str, words: str) -> None:
    from optuna_mde_studies.cli import app
    from optuna_mde_trainers.spec import RunError

    result = CliRunner().invoke(app, ["score", str(runs[0]), "--set", written])
    assert isinstance(result.exception, RunError)
    assert words in str(result.exception)


def test_evaluate_prints_what_it_writes(called: Called, runs: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "rows.jsonl").write_text('{"q": "a", "a": 0}\n{"q": "b", "a": 1}\n')
    (tasks / "letters.yaml").write_text(
        f"""
task: letters
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tasks / "rows.jsonl"}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}:"
doc_to_choice: ["a", "b"]
doc_to_target: a
metric_list: [{{metric: acc}}]
"""
    )
    printed = called(
        *("evaluate", runs[0], "--tasks", "letters", "--num-fewshot", "0"),
        *("--include-path", tasks, "--device", "cpu"),
    )
    path = runs[0] / "evaluations" / "letters-0shot.json"
    accuracy = json.loads(path.read_text())["results"]["letters"]["acc,none"]
    assert f"{runs[0]}: letters: acc {accuracy:.4f} ± " in printed
    assert str(path) in printed
