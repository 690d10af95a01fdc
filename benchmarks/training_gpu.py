"""The rows of `benchmarks.training` that need a GPU: `python -m benchmarks.training --gpu`.

    mfu      280M and 1B, blocks of 2,048 tokens, bf16-mixed, compiled: tokens a second and the
             share of the device's peak, from the 10th of 30 steps on (goals 40 % and 45 %)
    bf16     log-probabilities of 280M with its products in bfloat16 against float32: mean over the
             tokens, which is the loss, and single ones
    resume   a run killed (-9) and started again against an undisturbed one (goal 1e-4)

Random tokens: what is measured does not depend on them. Written where no GPU was at hand.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from optuna_mde_trainers.spec import ModelConfig, RunSpec
from optuna_mde_trainers.training.checkpoints import OnStep
from optuna_mde_trainers.training.data import BlockDataModule
from optuna_mde_trainers.training.fit import fit
from optuna_mde_trainers.training.flops import size
from optuna_mde_trainers.training.ledger import device_name, peak_flops
from optuna_mde_trainers.training.models import build
from optuna_mde_trainers.training.module import LanguageModel
from optuna_mde_trainers.training.schedule import Schedule

from benchmarks.training import on_disk

VOCABULARY = 50_304
BLOCK_SIZE = 2048
STEPS, WARM = 30, 10
# preset: sequences of a forward pass, which fit 80 GB
MICRO_BATCHES = {"280M": 16, "1B": 8}
GOALS = {"280M": 0.40, "1B": 0.45}
SEQUENCES = 64  # a step

KILLED = """
import os, signal, sys
from pathlib import Path
from benchmarks.training_gpu import run
def on_step(step, steps):
    if step == 17:
        os.kill(os.getpid(), signal.SIGKILL)
run("70M", Path(sys.argv[1]), on_step, every=5, compiled=False)
"""


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("no GPU: torch finds no CUDA device here")
    print(f"{device_name(torch.device('cuda'))}, torch {torch.__version__}\n")
    print("| measured | value | goal |\n|---|---|---|")
    for name, goal in GOALS.items():
        print(f"| {mfu(name)} | ≥ {goal:.0%} |", flush=True)
    print(f"| {bf16()} | |", flush=True)
    print(f"| {resume()} | ≤ 1e-4 |", flush=True)


def run(
    name: str,
    folder: Path,
    on_step: OnStep | None = None,
    *,
    every: int = 1000,
    compiled: bool = True,
) -> list[float]:
    """Train a preset for some steps in a folder; the losses of its steps."""
    micro_batch_size = MICRO_BATCHES.get(name, 16)
    spec = RunSpec.model_validate(
        {
            "training": {
                **{"mixture": {"noise": 1.0}, "corpus": "", "tokenizer": ""},
                **{"model": {"preset": name}, "max_steps": STEPS, "precision": "bf16-mixed"},
                **{"global_batch_size": SEQUENCES, "micro_batch_size": micro_batch_size},
            },
            "launch": {
                **{"corpus_folder": "", "accelerator": "auto", "compile": compiled},
                **{"num_workers": 2, "checkpoint_every_n_steps": every},
            },
        }
    )
    stored = folder / "blocks"
    if not stored.exists():
        draw = np.random.default_rng(0)
        noise = draw.integers(VOCABULARY, size=(STEPS * SEQUENCES, BLOCK_SIZE + 1))
        on_disk(noise.astype(np.uint16), stored)
    import datasets

    blocks = datasets.load_from_disk(str(stored))
    data = BlockDataModule(
        {"noise": blocks},
        Schedule({"noise": 1.0}, {"noise": len(blocks)}, steps=STEPS, batch_size=SEQUENCES),
        fingerprint="",
        micro_batch_size=micro_batch_size,
        num_workers=2,
    )
    model = build(spec.training.model, vocab_size=VOCABULARY, max_positions=BLOCK_SIZE, seed=0)
    module = LanguageModel(model, spec.training.optimizer, STEPS)
    fit(module, data, spec, folder, on_step)
    return [float(loss) for loss in module.train_losses]


def mfu(name: str) -> str:
    ends: dict[int, float] = {}

    def on_step(step: int, steps: int) -> None:
        if step in (WARM, STEPS):
            torch.cuda.synchronize()
            ends[step] = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        run(name, Path(folder), on_step)
    tokens = (STEPS - WARM) * SEQUENCES * BLOCK_SIZE
    rate = tokens / (ends[STEPS] - ends[WARM])
    exact = size(
        ModelConfig.model_validate({"preset": name}),
        vocab_size=VOCABULARY,
        block_size=BLOCK_SIZE,
    ).exact
    peak = peak_flops(torch.device("cuda"), "bf16-mixed")
    share = f"{rate * exact / peak:.1%} MFU" if peak else "peak unknown"
    memory = torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.reset_peak_memory_stats()
    return f"{name}, {rate / 1e3:,.0f} thousand tokens a second, {memory:.0f} GB | {share}"


@torch.no_grad()
def bf16() -> str:
    config = ModelConfig.model_validate({"preset": "280M"})
    model = build(config, vocab_size=VOCABULARY, max_positions=BLOCK_SIZE, seed=0).cuda().eval()
    draw = torch.Generator().manual_seed(0)
    for weight in model.parameters():  # its layers start as the identity
        noise = torch.randn(weight.shape, generator=draw).to(weight.device)
        weight.add_(0.3 * noise / weight.shape[-1] ** 0.5)
    ids = torch.randint(VOCABULARY, (4, BLOCK_SIZE + 1), generator=draw).cuda()

    def logprobs() -> torch.Tensor:
        logits = model(ids[:, :-1]).float().log_softmax(dim=-1)
        return logits.gather(-1, ids[:, 1:, None])[..., 0].double()

    exact = logprobs()
    with torch.autocast("cuda", torch.bfloat16):
        rounded = logprobs()
    far = (rounded - exact).abs()
    return (
        "280M, log-probabilities in bf16 - float32: of the mean / largest of a token | "
        f"{float((rounded.mean() - exact.mean()).abs()):.1e} / {float(far.max()):.1e}"
    )


def resume() -> str:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        straight = run("70M", Path(one), every=5, compiled=False)
        command = [sys.executable, "-c", KILLED, other]
        killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": _path()})
        assert killed.returncode == -signal.SIGKILL
        steps: list[int] = []
        resumed = run(
            "70M", Path(other), lambda step, _: steps.append(step), every=5, compiled=False
        )
    assert steps[0] == 16, json.dumps(steps)
    far = max(abs(a - b) for a, b in zip(straight, resumed, strict=True))
    return f"70M, killed at step 17 and resumed: largest difference of {STEPS} losses | {far:.1e}"


def _path() -> str:
    return os.pathsep.join(path or os.getcwd() for path in sys.path)
