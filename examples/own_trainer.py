"""A training loop of your own, driven by `MDESampler`, with experts for Mixture of Data Experts.

    python examples/own_trainer.py
    python examples/own_trainer.py --storage sqlite:///own.db    # as often as you have workers

The model guesses each byte from the three before it; put yours in the place of `train`. Everything
that a study needs of a trainer is in `objective`. With a storage, any number of processes on any
number of machines share the study, as long as all of them can read the folder of the experts.
"""

from __future__ import annotations

import argparse
import html.entities
from collections.abc import Mapping
from pathlib import Path
from pydoc_data.topics import topics

import optuna
import torch
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from optuna_mde import MDESampler, recommend, report_losses, save_logprobs, suggest_mixture

STEPS, BATCH_SIZE, CONTEXT, HELD_OUT = 100, 1024, 3, 4096
TEXTS = {
    "code": Path(argparse.__file__).read_bytes(),
    "prose": "\n".join(topics.values()).encode()[:200_000],
    "names": Path(html.entities.__file__).read_bytes(),
}


def windows(text: bytes) -> Tensor:
    """Each byte behind the three before it: `[n, 4]`."""
    return torch.tensor(list(text)).unfold(0, CONTEXT + 1, 1)


TRAIN = {domain: windows(text[:-HELD_OUT]) for domain, text in TEXTS.items()}
VALIDATION = {domain: windows(text[-HELD_OUT:]) for domain, text in TEXTS.items()}


def train(mixture: Mapping[str, float], steps: int) -> nn.Module:
    """A model trained on a mixture, with the same seed whatever the mixture is."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Embedding(256, 16),
        nn.Flatten(),
        nn.Linear(16 * CONTEXT, 64),
        nn.ReLU(),
        nn.Linear(64, 256),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        rows = []
        for domain, rate in mixture.items():  # exact counts: drawing domains would add noise
            places = torch.randint(len(TRAIN[domain]), (round(rate * BATCH_SIZE),))
            rows.append(TRAIN[domain][places])
        batch = torch.cat(rows)
        optimizer.zero_grad()
        cross_entropy(model(batch[:, :-1]), batch[:, -1]).backward()
        optimizer.step()
    return model


@torch.no_grad()
def score(model: nn.Module) -> dict[str, Tensor]:
    """Log-probability of every validation token, `[T]` for each set, always in the same order."""
    return {
        name: -cross_entropy(model(rows[:, :-1]), rows[:, -1], reduction="none")
        for name, rows in VALIDATION.items()
    }


def objective(trial: optuna.Trial) -> float | tuple[float, ...]:
    mixture = suggest_mixture(trial, list(TEXTS))
    logprobs = score(train(mixture, steps=round(STEPS * mixture.budget)))
    losses = {name: -values.mean().item() for name, values in logprobs.items()}  # nats per token
    url = None
    if mixture.is_expert:
        url = save_logprobs(f"experts/{trial.number}.safetensors", logprobs)
    return report_losses(
        trial, losses, objective={"code": 1, "prose": 2}, logprobs=url, budget=mixture.budget
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--storage", help="URL of a database that workers share; default: none")
    parser.add_argument("--study", default="own", help="name of the study")
    parser.add_argument("--n-trials", type=int, default=16, help="finished trials, of all workers")
    arguments = parser.parse_args()

    storage = None
    if arguments.storage:
        storage = RDBStorage(
            arguments.storage,
            heartbeat_interval=60,  # the trial of a worker that died is noticed, and tried again
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=2),
        )
    study = optuna.create_study(
        storage=storage,
        study_name=arguments.study,
        load_if_exists=True,
        sampler=MDESampler(seed=0, expert_budget=0.5),  # experts train half a run
    )
    enough = MaxTrialsCallback(arguments.n_trials, (TrialState.COMPLETE, TrialState.PRUNED))
    study.optimize(objective, callbacks=[enough])
    print(recommend(study))


if __name__ == "__main__":
    main()
