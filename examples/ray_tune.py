"""A search by Ray Tune: mixtures from `MDESampler`, runs wherever Ray has room.

    python examples/ray_tune.py                    # a Ray of its own on this machine
    python examples/ray_tune.py --address auto     # on a cluster that is there already

Losses of the validation sets and experts' files reach the sampler through what a run reports to
Ray; `MDESearch` is Ray's `OptunaSearch` with that added. The model is a table of byte pairs: put
your training in the place of `train`. The experts' files and Ray's own results lie in a folder
that all machines share.
"""

from __future__ import annotations

import argparse
import html.entities
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import optuna
import ray
from ray import tune

from optuna_mde import MDESampler, recommend, save_logprobs
from optuna_mde.ray_tune import MDESearch

HELD_OUT = 4096
TEXTS = {
    "code": Path(argparse.__file__).read_bytes(),
    "prose": "\n".join(topics.values()).encode()[:200_000],
    "names": Path(html.entities.__file__).read_bytes(),
}


def pairs(text: bytes) -> tuple[np.ndarray, np.ndarray]:
    codes = np.frombuffer(text, np.uint8)
    return codes[:-1], codes[1:]


def train(mixture: dict[str, float]) -> np.ndarray:
    """Log-probability of each byte after each other one, `[256, 256]`."""
    counts = np.full((256, 256), 1e-4)
    for domain, rate in mixture.items():
        seen = np.zeros_like(counts)
        np.add.at(seen, pairs(TEXTS[domain][:-HELD_OUT]), 1.0)
        counts += rate * 1000 * seen / seen.sum()
    return np.log(counts / counts.sum(1, keepdims=True))


def trainable(config: dict[str, Any]) -> None:
    mixture = config["mix"]  # Ray has nested the parameters mix/code, mix/prose, mix/names
    model = train(mixture)
    logprobs = {name: model[pairs(text[-HELD_OUT:])] for name, text in TEXTS.items()}
    losses = {name: -float(values.mean()) for name, values in logprobs.items()}  # nats per token
    report: dict[str, Any] = {"loss": sum(losses.values()) / len(losses), "losses": losses}
    if 1.0 in mixture.values():  # an expert; its path is absolute, as every run has its own folder
        name = "-".join(domain for domain, rate in mixture.items() if rate)
        report["logprobs"] = save_logprobs(f"{config['experts']}/{name}.safetensors", logprobs)
    tune.report(report)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", help="of a Ray cluster; default: one of its own")
    parser.add_argument("--n-trials", type=int, default=16)
    parser.add_argument("--storage", help="URL of a database that keeps the study; default: none")
    parser.add_argument("--out", default="runs/ray", help="folder that all machines share")
    arguments = parser.parse_args()

    out = Path(arguments.out).resolve()
    ray.init(arguments.address, include_dashboard=False)
    search = MDESearch(
        metric="loss",
        mode="min",
        sampler=MDESampler(seed=0, mixtures={"mix/": list(TEXTS)}),
        objective={"code": 1, "prose": 2},
        storage=arguments.storage and optuna.storages.RDBStorage(arguments.storage),
    )
    tuner = tune.Tuner(
        trainable,
        param_space={
            "mix": {domain: tune.uniform(0, 1) for domain in TEXTS},
            "experts": str(out / "experts"),
        },
        tune_config=tune.TuneConfig(
            search_alg=search,
            num_samples=arguments.n_trials,
            max_concurrent_trials=2,  # as many as run at once
        ),
        run_config=tune.RunConfig(storage_path=str(out)),
    )
    tuner.fit()
    print(recommend(search.study))


if __name__ == "__main__":
    main()
