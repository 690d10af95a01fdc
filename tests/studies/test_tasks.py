"""A study whose objective is end tasks, from one definition."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import optuna
import pytest
import yaml

from optuna_mde import predict
from optuna_mde.mde.experts import load_table
from optuna_mde.mde.logprobs import load_logprobs
from tests.conftest import Command


def _questions(path: Path, texts: list[str]) -> None:
    """Which line follows, the right one or one of another place."""
    lines = [line.strip() for text in texts for line in text.splitlines() if len(line) > 20]
    rows = [
        {
            "question": first[-12:],
            "choices": {"text": [second[:12], other[:12]], "label": ["A", "B"]},
            "answerKey": "A",
        }
        for first, second, other in zip(lines, lines[1:], reversed(lines), strict=False)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:40]), encoding="utf-8")


@pytest.mark.slow
def test_experts_and_mixtures_with_two_tasks_in_the_objective(
    texts: Path, tmp_path: Path, command: Command
) -> None:
    shutil.copytree(texts, tmp_path, dirs_exist_ok=True)
    for name in ("code", "news"):
        files = sorted((tmp_path / name).glob("*.txt"))[:9]
        _questions(tmp_path / f"{name}.jsonl", [file.read_text("utf-8") for file in files])
    definition = yaml.safe_load((tmp_path / "tiny.yaml").read_text("utf-8"))
    definition["corpus"]["block_size"] = 64
    definition["corpus"]["tasks"] = {
        f"{name}_next": {"template": "arc_easy", "path": "json", "data_files": f"{name}.jsonl"}
        for name in ("code", "news")
    }
    definition["objective"] = {"code_next": 1, "news_next": 2}
    definition["score"] = {"at": [0.5]}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(definition), encoding="utf-8")
    done = command("run", "tiny.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr

    root = tmp_path / "runs/tiny"
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{root}/study.db")
    assert len(study.trials) == 6
    for trial in study.trials:
        result = json.loads((root / trial.user_attrs["run"] / "result.json").read_text())
        losses = result["losses"]
        assert set(losses) == {"code", "prose", "numbers", "news", "code_next", "news_next"}
        assert result["tasks"]["news_next"]["examples"] == 40
        assert 0 <= result["tasks"]["news_next"]["accuracy"] <= 1
        (point,) = result["points"]
        assert set(point["losses"]) == set(losses)
        if trial.number < 3:
            kept, _ = load_logprobs(root / trial.user_attrs["run"] / point["logprobs"])
            assert set(kept) == set(losses)
            arrays, _ = load_logprobs(root / trial.user_attrs["logprobs"])
            for name, values in arrays.items():
                assert -values.mean(dtype=np.float64) == pytest.approx(losses[name], abs=1e-6)
        else:
            value = (losses["code_next"] + 2 * losses["news_next"]) / 3
            assert trial.value == pytest.approx(value)

    # Mixture of Data Experts on the targets, in closed form.
    natural = study.user_attrs["natural"]
    experts = {
        max(trial.params, key=trial.params.__getitem__).removeprefix("mix/"): trial
        for trial in study.trials[:3]
    }
    files = {name: str(root / trial.user_attrs["logprobs"]) for name, trial in experts.items()}
    table, refused = load_table(list(natural), files)
    assert refused == {}
    rates = np.array(list(natural.values()))
    probabilities = np.exp([load_logprobs(files[name])[0]["news_next"] for name in natural])
    mixed = table.losses(rates)[table.sets.index("news_next")]
    assert mixed == pytest.approx(-np.log(rates @ probabilities).mean(), abs=1e-5)
    assert predict(study, natural).mde_error == 0
