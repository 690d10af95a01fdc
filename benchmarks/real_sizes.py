"""What experts' files of real sizes cost: time and memory of asks and answers.

    python -m benchmarks.real_sizes [--quick] [--tokens 1000000] [--sets 20] [--experts 8]

Makes synthetic experts (float16, 320 MB at 20 sets x 8 experts x 10⁶ tokens) in a temporary
folder, and a study of 25 recorded runs in memory. Three processes after each other, one thread:

* ``first``: finds no coreset, makes it and leaves it beside the experts;
* ``other``: any process after that one;
* ``small``: the same work on 20,000 tokens a set, coreset kept: what the libraries and the model
  take.

In each of them an ask, `recommend`, and `predict` of 100 mixtures. Wall and CPU seconds of each,
and the process's highest resident memory until then; ``imports`` is that of torch, BoTorch,
Optuna and the plugin. ``error`` is that of the MDE losses that the answers stand on, as they state
it, 0 where these are of every token; ``of its own`` the resident memory at the end without
libraries' files, which all processes of a machine share.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.threads import on_one_thread

RUNS, ASKED = 25, 100
SMALL = 20_000  # tokens a set of the process to compare with
QUICK = {"tokens": 100_000, "sets": 4, "experts": 4}
STEPS = ("ask", "recommend", f"predict {ASKED}")

Measured = dict[str, Any]


def main() -> None:
    """Make the experts, measure in processes of their own, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="4 sets x 4 experts x 100,000 tokens")
    for name, usual in (("tokens", 1_000_000), ("sets", 20), ("experts", 8)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # in a process of its own
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.measure)))
        return
    on_one_thread("benchmarks.real_sizes")
    if options.quick:
        vars(options).update(QUICK)
    with tempfile.TemporaryDirectory() as folder:
        big, small = Path(folder) / "big", Path(folder) / "small"
        needed = 2 * options.tokens * options.sets * options.experts
        if shutil.disk_usage(folder).free < 2 * needed:
            sys.exit(f"{folder} has no room for {needed / 1e6:,.0f} MB of experts")
        make(big, options.tokens, options.sets, options.experts)
        make(small, SMALL, options.sets, options.experts)
        rows = {"first": apart(big), "other": apart(big)}
        apart(small)
        rows["small"] = apart(small)
        kept = sum(path.stat().st_size for path in big.rglob("*.coreset"))
    print(f"{options.sets} sets x {options.experts} experts x {options.tokens:,} tokens, float16")
    print(markdown(rows))
    print(f"The coreset's file: {kept / 1e3:,.0f} kB")


def make(folder: Path, tokens: int, sets: int, experts: int) -> None:
    """Write experts' files: tokens of one set are alike in difficulty, each expert knows some."""
    from safetensors.numpy import save_file

    folder.mkdir()
    for j in range(experts):
        arrays = {}
        for i in range(sets):
            base = np.random.default_rng(i).standard_normal(tokens, dtype=np.float32)
            own = np.random.default_rng((i, j)).standard_normal(tokens, dtype=np.float32)
            values = 2.0 * base - 4.0 + 1.2 * own + (1.0 if j == i % experts else 0.0)
            arrays[f"set{i}"] = np.minimum(values, -1e-3).astype(np.float16)
        save_file(arrays, folder / f"domain{j}.safetensors", metadata={"format": "1"})


def apart(folder: Path) -> Measured:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.real_sizes", "--measure", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    measured: Measured = json.loads(done.stdout.splitlines()[-1])
    return measured


def measure(folder: Path) -> Measured:
    """Seconds and MB of this process at the experts of a folder."""
    import botorch  # noqa: F401  # so that it counts as an import
    import optuna
    import torch

    from optuna_mde import MDESampler, predict, recommend, report_losses, suggest_mixture
    from optuna_mde.mde.logprobs import LogprobFile

    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    measured: Measured = {"imports": peak()}
    files = {path.stem: str(path) for path in sorted(folder.glob("*.safetensors"))}
    sets = list(LogprobFile.open(next(iter(files.values()))).sets)
    rng = np.random.default_rng(0)
    best = rng.dirichlet(np.ones(len(files)))
    study = optuna.create_study(sampler=MDESampler(seed=0, experts=files))

    def told(rates: np.ndarray | None) -> None:
        if rates is not None:
            study.enqueue_trial(
                {f"mix/{d}": r for d, r in zip(files, rates.tolist(), strict=True)}
            )
        trial = study.ask()
        mixture = np.array(list(suggest_mixture(trial, list(files)).values()))
        distance = np.square(np.sqrt(mixture) - np.sqrt(best)).sum()
        losses = {name: 3.0 + 0.5 * distance + 0.01 * rng.normal() for name in sets}
        study.tell(trial, report_losses(trial, losses))

    for rates in (np.full(len(files), 1 / len(files)), *rng.dirichlet(best + 1, RUNS - 1)):
        told(rates)
    asked = [dict(zip(files, r.tolist(), strict=True)) for r in rng.dirichlet(best + 1, ASKED)]
    steps: tuple[Callable[[], Any], ...] = (
        lambda: told(None),
        lambda: recommend(study),
        lambda: measured.update(error=predict(study, asked).mde_error),
    )
    for name, step in zip(STEPS, steps, strict=True):
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        measured[name] = (time.perf_counter() - wall, time.process_time() - cpu, peak())
    assert study.trials[-1].user_attrs["phase"] == "model"
    return measured | {"own": own()}


def peak() -> float:
    """Highest resident memory of this process so far, MB."""
    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def own() -> float:
    """Resident memory that is no file's, MB; NaN where the system does not tell it (only Linux
    does). Libraries' code, which all processes of a machine have in common, is not in it."""
    if not (told := Path("/proc/self/smaps_rollup")).is_file():
        return math.nan
    lines = told.read_text(encoding="ascii").splitlines()
    (anonymous,) = (line.split()[1] for line in lines if line.startswith("Anonymous:"))
    return int(anonymous) / 1e3


def markdown(rows: dict[str, Measured]) -> str:
    """The figures as a table."""
    lines = [
        "| process | imports, MB | "
        + " | ".join(f"{step}, s (CPU s), MB" for step in STEPS)
        + " | of its own, MB | error |",
        "|---" * (4 + len(STEPS)) + "|",
    ]
    for name, row in rows.items():
        cells = ["{:.3g} ({:.3g}), {:.0f}".format(*row[step]) for step in STEPS]
        lines.append(
            f"| {name} | {row['imports']:.0f} | "
            + " | ".join(cells)
            + f" | {row['own']:.0f} | {row['error']:.4f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
