"""What a study loses whose every process is killed: `python -m benchmarks.killed`.

`optuna-mde run` is killed with SIGKILL, with all that it has started, after a random time, and
started again, until it has been killed as often as was asked for; then it may end. As many trials
must be finished as were asked for, every finished run must be as it was, and no run may have
trained more steps twice than lie between two checkpoints, for every time that it was killed.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
from lightning.pytorch import Callback, Trainer
from optuna_mde_studies.runner.folder import StudyFolder, at, stored_config
from optuna_mde_studies.runner.trials import FINISHED

MAIN = "from optuna_mde_studies.cli import main; main()"
CHECKPOINT = 20
"""Steps between two checkpoints."""


class Steps(Callback):
    """Writes down every step that a run trains, in whichever process.

    Args:
        file: A line is added to it for each.
    """

    def __init__(self, file: str) -> None:
        self.file = file

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        checkpoints = (getattr(callback, "checkpoint", None) for callback in trainer.callbacks)
        run = next(path for path in checkpoints if path is not None).parent.name
        with open(self.file, "a") as file:
            file.write(f"{run} {trainer.global_step}\n")


def repeated(file: Path) -> dict[str, tuple[int, int]]:
    """Run -> steps that were trained again, and how often it was begun anew."""
    steps: dict[str, list[int]] = collections.defaultdict(list)
    for line in file.read_text().splitlines():
        if len(parts := line.split()) == 2:
            steps[parts[0]].append(int(parts[1]))
    return {
        run: (
            len(trained) - len(set(trained)),
            sum(b <= a for a, b in itertools.pairwise(trained)),
        )
        for run, trained in steps.items()
    }


def results(folder: StudyFolder) -> dict[Path, bytes]:
    """Every result that there is."""
    return {path: path.read_bytes() for path in folder.runs.glob("*/result.json")}


def main() -> None:
    """Kills a study as often as was asked for, and prints a line about it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", nargs="?", default="demo")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-killed"))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--longest", type=float, default=30.0, help="seconds between two kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="as of optuna-mde run")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    rng, file = random.Random(asked.seed), (asked.out / "steps.txt").resolve()
    callback = [{"benchmarks.killed.Steps": {"file": str(file)}}]
    overrides = [
        f"launch.callbacks={json.dumps(callback)}",
        f"launch.checkpoint_every_n_steps={CHECKPOINT}",
        *asked.set,
    ]
    command = [sys.executable, "-c", MAIN, "run", asked.study, "--out", str(asked.out)]
    command += [f"--set={override}" for override in overrides]
    folder, kills, kept = at(asked.out), 0, dict[Path, bytes]()
    while True:
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
        try:
            process.wait(rng.uniform(1.0, asked.longest) if kills < asked.kills else None)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            time.sleep(1)
            kills += 1
        found = results(folder)
        assert all(found[path] == before for path, before in kept.items()), "a result has changed"
        kept = found
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, process.returncode
    config = stored_config(folder)
    study = optuna.load_study(study_name=config.name, storage=folder.storage())
    trials = study.get_trials(deepcopy=False)
    finished = [trial for trial in trials if trial.state in FINISHED]
    assert len(finished) == config.search.n_trials
    again = repeated(file)
    assert all(steps <= CHECKPOINT * begun for steps, begun in again.values()), again
    print("| killed | trials | interrupted | runs kept | steps trained again, most a kill |")
    most = max((steps / begun for steps, begun in again.values() if begun), default=0)
    lost = len(trials) - len(finished)
    print(f"| {kills} | {len(finished)} | {lost} | {len(kept)} | {most:.0f} of {CHECKPOINT} |")


if __name__ == "__main__":
    main()
