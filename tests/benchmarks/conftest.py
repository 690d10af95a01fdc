"""A small recording that MDE explains up to a smooth remainder."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.tables import Recording
from optuna_mde import save_logprobs
from optuna_mde.mde.experts import ExpertTable

DOMAINS = ("web", "code", "math")
SETS = (*DOMAINS, "books", "news")
TOKENS = 300
NOISE = 0.01
BUDGETS = (1.0, 0.5)


def _logprobs(budget: float) -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    found: dict[str, dict[str, np.ndarray]] = {d: {} for d in DOMAINS}
    for i, name in enumerate(SETS):
        base = rng.normal(-4.0, 1.5, TOKENS)
        for j, domain in enumerate(DOMAINS):
            skill = rng.normal(1.0 if i == j else 0.3 * (i + j) % 1, 1.0, TOKENS)
            values = base + budget**0.2 * skill
            found[domain][name] = np.minimum(values, -1e-3).astype(np.float32)
    return found


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    folder: Path = tmp_path_factory.mktemp("recording")
    rng = np.random.default_rng(1)
    tables = {b: ExpertTable(DOMAINS, _logprobs(b)) for b in BUDGETS}
    bend = rng.normal(0.0, 0.1, (len(SETS), len(DOMAINS)))
    faces = rng.dirichlet(np.ones(3), 12)
    faces[:, 0] = 0.0
    faces /= faces.sum(axis=1, keepdims=True)
    natural = np.array([0.6, 0.3, 0.1])
    others = np.concatenate([rng.dirichlet(np.ones(3), 40), faces])
    runs = [("expert", 0, b, x) for b in BUDGETS for x in np.eye(3)]
    runs += [("natural", 0, 1.0, natural), ("uniform", 0, 1.0, np.full(3, 1 / 3))]
    runs += [("dirichlet" if x.min() > 0 else "face", 0, 1.0, x) for x in others]
    runs += [("repeat", seed, 1.0, x) for seed in (1, 2) for x in others[:6]]
    losses = []
    for kind, _, budget, x in runs:
        clean = tables[budget].losses(x)
        if kind != "expert":
            clean = tables[1.0].losses(x**0.9 / (x**0.9).sum()) + (1 - (x**2).sum()) * (bend @ x)
            clean = clean + rng.normal(0.0, NOISE, len(SETS))
        losses.append(clean)
    _write(folder / "ratios.csv", DOMAINS, [x.tolist() for *_, x in runs])
    _write(folder / "metrics.csv", SETS, [y.tolist() for y in losses])
    _write(folder / "runs.csv", ("kind", "seed", "budget", "seconds"), [(*r[:3], 1) for r in runs])
    experts = []
    for budget in BUDGETS:
        for domain, values in _logprobs(budget).items():
            name = f"{domain}-{budget:g}.safetensors"
            save_logprobs(folder / "experts" / name, values, domain=domain)
            experts.append(
                {"domain": domain, "budget": budget, "file": name, "epochs": 8 * budget}
            )
    about = {
        "name": "small",
        "domains": DOMAINS,
        "sets": SETS,
        "natural": dict(zip(DOMAINS, natural.tolist(), strict=True)),
        "experts": experts,
    }
    (folder / "recording.json").write_text(json.dumps(about))
    return Recording.load(folder)


def _write(path: Path, names: tuple[str, ...], rows: list) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["index", *names])
        writer.writerows([i, *row] for i, row in enumerate(rows))
