"""How well the demo study predicts, and whether its recommendation holds.

    python -m benchmarks.demo [--out runs/benchmark-demo]

1. The demo study up to its experts and six further runs; then the surrogate predicts the
   objective of 24 fresh Dirichlet(1) mixtures, which are trained for this and never told.
   Beside it: the seed noise (5 seeds of the uniform and of the natural mixture) and the re-test
   correlation (12 of the fresh mixtures with another seed), the ceiling of every prediction.
2. The rest of the study, and its confirmation with 4 fresh seeds.

Some 80 runs of the demo: about 6 minutes on two idle cores. What is trained already is kept.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from optuna_mde_studies.definition.reading import read
from optuna_mde_studies.runner.changes import keep_definition
from optuna_mde_studies.runner.folder import StudyFolder, create
from optuna_mde_studies.runner.messages import RunOrder
from optuna_mde_studies.runner.session import Session
from optuna_mde_studies.terminal.progress import Progress, console
from optuna_mde_trainers.spec import ScoreSpec
from scipy.stats import spearmanr

from optuna_mde import predict
from optuna_mde.answers.intervals import Z90

FURTHER_RUNS = 6
FRESH = 24
RETESTED = 12
REPEATS = 5
CONFIRM_SEEDS = 4
SEED = 20_000  # of repeats: no run of the study or of its confirmation has it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-demo"))
    folder = StudyFolder(parser.parse_args().out)
    definition = read("demo", [f"confirm.seeds={CONFIRM_SEEDS}"])
    early = len(definition.config.domains) + FURTHER_RUNS
    terminal = console()
    with Progress("benchmark demo", terminal) as progress:
        predicted = predict_fresh(folder, progress, early)
        create(folder)
        with folder.owned():
            keep_definition(folder, definition)
            with Session(definition, folder, progress) as session:
                outcome = session.run()
    assert outcome.confirmation is not None
    differences = outcome.confirmation.differences(definition.config.goals)
    figures = {
        **predicted,
        "confirmed": {
            d.other: [round(v, 4) for v in (d.mean, d.low, d.high)]
            for group in differences.values()
            for d in group
        },
    }
    (folder.path / "benchmark.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(markdown(figures))


def predict_fresh(folder: StudyFolder, progress: Progress, n_trials: int) -> dict[str, float]:
    """Predictions after ``n_trials``, against runs that the study never hears of."""
    definition = read("demo", [f"confirm.seeds={CONFIRM_SEEDS}", f"search.n_trials={n_trials}"])
    kept = folder.path / "predicted.json"
    if kept.is_file():
        figures: dict[str, float] = json.loads(kept.read_text())
        return figures
    create(folder)
    with folder.owned():
        keep_definition(folder, definition)
        with Session(definition, folder, progress) as session:
            session.search()
            figures = _measure(session)
    kept.write_text(json.dumps(figures, indent=1) + "\n")
    return figures


def _measure(session: Session) -> dict[str, float]:
    experiment, config = session.experiment, session.config
    domains = experiment.domains
    rates = np.random.default_rng(SEED).dirichlet(np.ones(len(domains)), FRESH)
    mixtures = [dict(zip(domains, row.tolist(), strict=True)) for row in rates]
    prediction = predict(session.study, mixtures)
    search_seed = config.training.seed
    uniform = dict.fromkeys(domains, 1.0 / len(domains))

    def train(stage: str, runs: list[tuple[dict[str, float], int]]) -> np.ndarray:
        orders = [
            RunOrder(
                f"{stage} {i}",
                experiment.launched(experiment.training(m, seed=seed), ScoreSpec()),
            )
            for i, (m, seed) in enumerate(runs, 1)
        ]
        losses = [result.losses for result in session.train(orders, stage)]
        return np.array([config.goals.values(loss)[0] for loss in losses])

    observed = train("fresh mixture", [(m, search_seed) for m in mixtures])
    again = train("re-test", [(m, SEED) for m in mixtures[:RETESTED]])
    repeats = [
        train("repeat", [(m, SEED + i) for i in range(REPEATS)])
        for m in (uniform, experiment.natural)
    ]
    seed_sd = float(np.sqrt(np.mean([np.var(values, ddof=1) for values in repeats])))
    mean, sd = prediction.objective_mean, prediction.objective_sd
    total = np.sqrt(sd**2 + prediction.objective_noise_sd**2)
    error = observed - mean
    return {
        "told runs": len(session.study.get_trials(deepcopy=False)),
        "spearman": float(spearmanr(mean, observed)[0]),
        "re-test spearman": float(spearmanr(observed[:RETESTED], again)[0]),
        "rmse": float(np.sqrt(np.mean(error**2))),
        "seed sd": seed_sd,
        "90 % coverage": float(np.mean(np.abs(error) <= Z90 * total)),
        "sd over fresh mixtures": float(observed.std(ddof=1)),
    }


def markdown(figures: dict[str, object]) -> str:
    """The figures as a table."""
    lines = ["| figure | value |", "|---|---|"]
    for name, value in figures.items():
        if isinstance(value, dict):
            for other, (mean, low, high) in value.items():
                lines.append(f"| recommended − {other} | {mean:+.4f} [{low:+.4f}, {high:+.4f}] |")
        else:
            shown = f"{value:.4f}" if isinstance(value, float) else str(value)
            lines.append(f"| {name} | {shown} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
