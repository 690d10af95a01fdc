"""What MDE losses and their gradients cost, and how much memory they take.

    python -m benchmarks.mde_throughput [--quick] [--out runs/benchmark-mde-throughput]

Synthetic experts (7 domains, one validation set of T tokens, T from 10⁴ to 10⁶ by default and to
10⁷ with --full), 4,000 mixtures, one thread. Three ways to the same losses:

* ``logsumexp``: the plain one, ``torch.logsumexp(log p + log λ)`` over the experts, in float32,
  one mixture after another;
* ``exact``: `ExpertTable.losses`, every token, one logarithm for eight of them;
* ``coreset``: `Coreset.losses`, weighted tokens that reproduce the set; and with its gradient.

Plain and exact are timed on as many mixtures as their time allows and scaled to 4,000. Times are
CPU seconds, the best of three. Memory is that of the arrays, against the float32
log-probabilities; ``peak`` is the most that building took at once, by the allocator's count.
"""

from __future__ import annotations

import argparse
import csv
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm  # type: ignore[import-untyped]

from benchmarks import drawing
from benchmarks.emulator import mixtures_of_every_kind
from benchmarks.peers import Array
from benchmarks.threads import on_one_thread
from optuna_mde.mde.coreset import Coreset
from optuna_mde.mde.experts import ExpertTable

DOMAINS = 7
MIXTURES = 4000
QUICK, USUAL, FULL = (
    (10_000,),
    (10_000, 100_000, 1_000_000),
    (10_000, 100_000, 1_000_000, 10_000_000),
)
_PLAIN_ENTRIES = 20_000_000  # tokens times mixtures that are timed at most
COLUMNS = (
    "tokens",
    "logsumexp",
    "exact",
    "speed-up",
    "coreset",
    "coreset and gradient",
    "preparation",
    "coreset rms error",
    "table bytes / log-probability bytes",
    "peak bytes / log-probability bytes",
)


def main() -> None:
    """Measure, print the table and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="10,000 tokens only")
    parser.add_argument("--full", action="store_true", help="up to 10,000,000 tokens")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-mde-throughput"))
    options = parser.parse_args()
    on_one_thread("benchmarks.mde_throughput")
    options.out.mkdir(parents=True, exist_ok=True)
    sizes = QUICK if options.quick else FULL if options.full else USUAL
    rows = [measure(n) for n in tqdm(sizes, unit="size")]
    with (options.out / "mde_throughput.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([COLUMNS, *rows])
    drawing.throughput(COLUMNS, rows, options.out / "mde_throughput.png")
    print(markdown(rows))


def measure(n_tokens: int) -> tuple[float, ...]:
    """`COLUMNS` for one number of validation tokens."""
    logprobs = synthetic(n_tokens)
    plain_bytes = sum(values.nbytes for values in logprobs.values())
    named = {domain: {"set": values} for domain, values in logprobs.items()}
    tracemalloc.start()
    table = ExpertTable(list(logprobs), named)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    table_bytes = sum(tokens.ratios.nbytes for tokens in table.tables)
    start = time.process_time()
    coreset = Coreset(table)
    preparation = time.process_time() - start
    rates = mixtures_of_every_kind(2 * MIXTURES, DOMAINS, np.random.default_rng(1))[:MIXTURES]
    few = rates[: max(8, min(MIXTURES, _PLAIN_ENTRIES // n_tokens))]
    share = MIXTURES / len(few)
    stacked = np.stack(list(logprobs.values()), axis=1)
    slow = share * seconds(lambda: plain_losses(stacked, few))
    exact = share * seconds(lambda: table.losses(few))
    error = np.abs(plain_losses(stacked, few[:8]) - table.losses(few[:8])[:, 0]).max()
    assert error < 1e-4, error
    X = torch.from_numpy(rates)
    quick = seconds(lambda: coreset.losses(X))
    both = seconds(lambda: _with_gradient(coreset, X))
    missed = (
        table.losses(few[:100])[:, 0] - coreset.losses(torch.from_numpy(few[:100]))[:, 0].numpy()
    )
    rms = float(np.sqrt(np.mean(missed**2)))
    return (
        n_tokens,
        slow,
        exact,
        slow / exact,
        quick,
        both,
        preparation,
        rms,
        table_bytes / plain_bytes,
        peak / plain_bytes,
    )


def synthetic(n_tokens: int) -> dict[str, np.ndarray]:
    """Log-probabilities `[T]` of every expert, of easy and of difficult tokens."""
    rng = np.random.default_rng(0)
    base = rng.normal(-4.0, 2.0, n_tokens).astype(np.float32)
    return {
        f"d{j}": np.minimum(base + rng.normal(0.3 * (j == 0), 1.2, n_tokens), -1e-3).astype(
            np.float32
        )
        for j in range(DOMAINS)
    }


def plain_losses(logprobs: np.ndarray, rates: Array) -> Array:
    """MDE losses `[n]` as the formula says, from log-probabilities `[T, K]`."""
    tokens, logs = torch.from_numpy(logprobs), torch.from_numpy(rates).float().log()
    return np.array([-float(torch.logsumexp(tokens + row, dim=1).double().mean()) for row in logs])


def seconds(call: Callable[[], object]) -> float:
    """CPU seconds of a call, the best of three."""
    spent = []
    for _ in range(3):
        start = time.process_time()
        call()
        spent.append(time.process_time() - start)
    return min(spent)


def markdown(rows: list[tuple[float, ...]]) -> str:
    """The figures as a table."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for tokens, *figures in rows:
        cells = [f"{tokens:,.0f}", *(f"{value:.3g}" for value in figures)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _with_gradient(coreset: Coreset, rates: torch.Tensor) -> None:
    inputs = rates.clone().requires_grad_()
    torch.autograd.grad(coreset.losses(inputs).sum(), inputs)


if __name__ == "__main__":
    main()
