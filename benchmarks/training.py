"""What training costs beside the least that it could: ratios, each measured in one process.

    python -m benchmarks.training [--quick] [--only steps decoder disk start rates]
    python -m benchmarks.training --gpu

    steps     our whole step (Trainer, blocks from disk, log every 10 steps) beside a bare PyTorch
              loop of the same model on data in memory, at 1M and at 10M parameters
    decoder   our decoder beside transformers' Llama of the same shape: speed, losses from equal
              weights, and from each one's own
    disk      blocks read from disk a second, beside what a step of 10M parameters needs
    start     from the start of a process to the first step of a run, beside `import lightning`;
              and the same in a process that has trained before
    rates     loss after equal steps at four learning rates on three widths, with rates scaled by
              width and without

The text is the standard library's, in bytes. One thread; CPU seconds of this process, which a busy
machine changes less than the clock's; what is compared takes turns, and the median of the turns'
ratios counts.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from optuna_mde_trainers.spec import ModelConfig, OptimizerConfig, RunSpec
from optuna_mde_trainers.training.data import BlockDataModule, Blocks
from optuna_mde_trainers.training.fit import fit
from optuna_mde_trainers.training.models import build, count_parameters
from optuna_mde_trainers.training.module import LanguageModel
from optuna_mde_trainers.training.net import LanguageNet
from optuna_mde_trainers.training.optimizer import adamw, learning_rate_factor
from optuna_mde_trainers.training.schedule import Schedule
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.threads import on_one_thread

VOCABULARY = 257  # bytes, and the end of text
LARGE_VOCABULARY = 4096  # ids of bytes too, but an output projection of a usual size
SIZES: dict[str, tuple[dict[str, int], int, int, int]] = {
    # name: shape, vocabulary, tokens of a block, sequences a step
    "1M": ({"preset": "1M"}, VOCABULARY, 128, 16),  # type: ignore[dict-item]
    "10M": (
        {
            "hidden_size": 320,
            "intermediate_size": 864,
            "num_hidden_layers": 7,
            "num_attention_heads": 5,
        },
        LARGE_VOCABULARY,
        256,
        4,
    ),
}
WIDTHS = (48, 96, 192)
RATES = (4e-3, 8e-3, 1.6e-2, 3.2e-2)
PARTS = ("steps", "decoder", "disk", "start", "rates")

FIRST_STEP = """
import os, sys
from pathlib import Path
from optuna_mde_trainers.run import train
from optuna_mde_trainers.spec import RunSpec
train(RunSpec.read(Path(sys.argv[1])), Path(sys.argv[2]), on_step=lambda *_: os._exit(0))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer turns and steps")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--gpu", action="store_true", help="MFU, bf16 and resume on one GPU")
    arguments = parser.parse_args()
    if arguments.gpu:
        from benchmarks import training_gpu

        training_gpu.main()
        return
    on_one_thread("benchmarks.training")
    torch.set_num_threads(1)
    turns = 2 if arguments.quick else 5
    measures: dict[str, Callable[[Path, int], Iterator[str]]] = {
        "steps": steps,
        "decoder": decoder,
        "disk": disk,
        "start": start,
        "rates": rates,
    }
    print("| measured | value | goal |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.only:
            for row in measures[name](Path(folder), turns):
                print(f"| {row} |", flush=True)


# -- what is trained -------------------------------------------------------------------------


def text_blocks(block_size: int, count: int) -> np.ndarray:
    """Blocks `[count, block_size + 1]` uint16 of the standard library's source, in bytes."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    text = b"".join(path.read_bytes() for path in files)
    stream = np.frombuffer(text, np.uint8)[: count * block_size + 1].astype(np.uint16)
    starts = np.arange(min(count, (len(stream) - 1) // block_size)) * block_size
    return stream[starts[:, None] + np.arange(block_size + 1)]


def on_disk(blocks: np.ndarray, folder: Path) -> datasets.Dataset:
    """The same as a domain's blocks are kept."""
    features = datasets.Features(
        {"input_ids": datasets.List(datasets.Value("uint16"), length=blocks.shape[1])}
    )
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"input_ids": blocks}, features).save_to_disk(str(folder))
    return datasets.load_from_disk(str(folder))


class Case:
    """A model, its text, and a run of some steps on it."""

    def __init__(self, name: str, folder: Path, *, max_steps: int, rows: int = 4096) -> None:
        shape, self.vocabulary, self.block_size, self.batch_size = SIZES[name]
        self.max_steps = max_steps
        self.folder = folder / name
        self.config = ModelConfig.model_validate(shape)
        self.blocks = text_blocks(self.block_size, rows)
        self.stored = on_disk(self.blocks, self.folder / "blocks")
        self.settings = OptimizerConfig(lr=3e-3)

    def model(self) -> LanguageNet:
        return build(
            self.config, vocab_size=self.vocabulary, max_positions=self.block_size, seed=0
        )

    def schedule(self) -> Schedule:
        return Schedule(
            {"text": 1.0},
            {"text": len(self.blocks)},
            steps=self.max_steps,
            batch_size=self.batch_size,
        )

    def spec(self) -> RunSpec:
        return RunSpec.model_validate(
            {
                "training": {
                    **{"mixture": {"text": 1.0}, "corpus": "", "tokenizer": ""},
                    **{"max_steps": self.max_steps, "global_batch_size": self.batch_size},
                },
                "launch": {"corpus_folder": "", "accelerator": "cpu", "logger": "csv"},
            }
        )

    def ours(self) -> float:
        """CPU seconds a step of a whole run, the first step left out."""
        ends: list[float] = []
        module = LanguageModel(self.model(), self.settings, self.max_steps)
        data = BlockDataModule(
            {"text": self.stored},
            self.schedule(),
            fingerprint="",
            micro_batch_size=self.batch_size,
        )
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            spec = self.spec()
            fit(module, data, spec, Path(folder), lambda *_: ends.append(time.process_time()))
        return (ends[-1] - ends[0]) / (len(ends) - 1)

    def bare(self) -> float:
        """The same of a loop without anything."""
        model = self.model()
        optimizer = adamw(model, self.settings)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, self.max_steps, self.settings)
        )
        ids = torch.from_numpy(self.blocks.astype(np.int64))
        ends = []
        for step in range(self.max_steps):
            batch = ids[step * self.batch_size % (len(ids) - self.batch_size) :][: self.batch_size]
            optimizer.zero_grad()
            loss(model, batch).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            ends.append(time.process_time())
        return (ends[-1] - ends[0]) / (len(ends) - 1)


def loss(model: Any, batch: Tensor) -> Tensor:
    """Mean loss of blocks `[b, T + 1]`."""
    output = model(batch[:, :-1])
    logits = output if isinstance(output, Tensor) else output.logits
    return cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


def in_turns(
    one: Callable[[], float], other: Callable[[], float], turns: int
) -> tuple[float, float, float]:
    """Median ratio one / other of both in turns, and the medians of each."""
    one(), other()
    pairs = [(one(), other()) if turn % 2 else (other(), one())[::-1] for turn in range(turns)]
    ratios = [a / b for a, b in pairs]
    return statistics.median(ratios), *(
        statistics.median(side) for side in zip(*pairs, strict=True)
    )


# -- rows ------------------------------------------------------------------------------------


def steps(folder: Path, turns: int) -> Iterator[str]:
    for name, count in (("1M", 40), ("10M", 8)):
        case = Case(name, folder, max_steps=count)
        ratio, bare, ours = in_turns(case.bare, case.ours, turns)
        parameters = count_parameters(case.model()) / 1e6
        yield (
            f"step of a bare loop / ours, {parameters:.1f} M parameters "
            f"({1e3 * bare:.1f} / {1e3 * ours:.1f} ms) | {ratio:.3f} | ≥ .97"
        )


def decoder(folder: Path, turns: int) -> Iterator[str]:
    from optuna_mde_trainers.training.weights import llama_config
    from transformers import LlamaConfig, LlamaForCausalLM

    for name in SIZES:
        case = Case(name, folder / "decoder", max_steps=1)
        shape = llama_config(case.config, vocab_size=case.vocabulary)
        shape = {key: value for key, value in shape.items() if key != "architectures"}
        settings = LlamaConfig(**shape, max_position_embeddings=case.block_size, use_cache=False)
        torch.manual_seed(0)
        ours, theirs = case.model(), LlamaForCausalLM(settings)
        own = {key: value.clone() for key, value in theirs.state_dict().items()}
        theirs.load_state_dict(ours.state_dict())
        ids = torch.from_numpy(case.blocks.astype(np.int64))
        passes = 6 if name == "1M" else 2
        ratio, slow, fast = in_turns(
            _passes(theirs, case, passes), _passes(ours, case, passes), turns
        )
        yield (
            f"forward and backward of Llama / ours, {count_parameters(ours) / 1e6:.1f} M "
            f"({1e3 * slow:.1f} / {1e3 * fast:.1f} ms) | {ratio:.3f} | ≥ .95"
        )
        if name == "1M":
            equal = [_trained(model, ids, case.batch_size, 20) for model in (ours, theirs)]
            far = max(abs(a - b) for a, b in zip(*equal, strict=True))
            yield f"largest difference of 20 losses from equal weights | {far:.1e} | equal"
            theirs.load_state_dict(own)
            ends = [_trained(model, ids, case.batch_size, 150) for model in (case.model(), theirs)]
            last, other = (statistics.fmean(losses[-15:]) for losses in ends)
            yield (
                "loss after 150 steps from each one's own weights, ours / Llama's | "
                f"{last:.3f} / {other:.3f} | lower"
            )


def _passes(model: Any, case: Case, count: int) -> Callable[[], float]:
    """CPU seconds of a forward and a backward pass."""
    ids = torch.from_numpy(case.blocks.astype(np.int64))

    def run() -> float:
        began = time.process_time()
        for index in range(count):
            loss(model, ids[index * case.batch_size :][: case.batch_size]).backward()
            model.zero_grad()
        return (time.process_time() - began) / count

    return run


def _trained(model: Any, ids: Tensor, batch_size: int, count: int) -> list[float]:
    settings = OptimizerConfig(lr=5e-3)
    optimizer = adamw(model, settings)
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))
    losses = []
    for step in range(count):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * learning_rate_factor(step, count, settings)
        optimizer.zero_grad()
        value = loss(model, ids[order[step * batch_size :][:batch_size]])
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(value.detach()))
    return losses


def disk(folder: Path, turns: int) -> Iterator[str]:
    case = Case("10M", folder / "disk", max_steps=4)
    blocks = Blocks({"text": case.stored})
    draw = np.random.default_rng(0)

    def read() -> float:
        began = time.process_time()
        for _ in range(200):
            chosen = draw.integers(len(case.blocks), size=case.batch_size).tolist()
            blocks.__getitems__([("text", block) for block in chosen])
        return (time.process_time() - began) / 200

    read()
    reading = statistics.median(read() for _ in range(turns))
    step = case.bare()
    yield (
        f"blocks a second from disk / needed, 10M ({case.batch_size / reading:,.0f} / "
        f"{case.batch_size / step:.1f}) | {step / reading:,.0f} | ≥ 20"
    )


def start(folder: Path, turns: int) -> Iterator[str]:
    from optuna_mde_trainers.corpus.config import CorpusConfig
    from optuna_mde_trainers.corpus.corpora import prepare
    from optuna_mde_trainers.run import train

    source = {"path": "text", "data_files": str(Path(sysconfig.get_path("stdlib")) / "*.py")}
    config = {"domains": {"python": source}, "tokenizer": {"type": "bytes"}}
    corpus = prepare(CorpusConfig.model_validate(config), folder / "corpus")
    spec = RunSpec.model_validate(
        {
            "training": {
                **{"mixture": {"python": 1.0}, "corpus": corpus.fingerprint},
                **{"tokenizer": corpus.tokenizer_fingerprint},
                **{"max_steps": 2, "global_batch_size": 16},
            },
            "launch": {"corpus_folder": str(corpus.folder), "accelerator": "cpu"},
        }
    )
    path = folder / "spec.json"
    spec.write(path)

    def process(*arguments: str) -> Callable[[], float]:
        def run() -> float:
            import resource

            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-c", *arguments], check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

        return run

    def first_step() -> float:
        with tempfile.TemporaryDirectory(dir=folder) as runs:
            return process(FIRST_STEP, str(path), runs)()

    ratio, ours, least = in_turns(first_step, process("import lightning"), turns)
    yield (
        f"new process to the first step / `import lightning` ({ours:.2f} / {least:.2f} s) | "
        f"{ratio:.2f} | ≤ 1.5"
    )

    def warm() -> float:
        ends: list[float] = []
        with tempfile.TemporaryDirectory(dir=folder) as runs:
            began = time.process_time()
            train(spec, Path(runs), on_step=lambda *_: ends.append(time.process_time()))
        return 2 * ends[0] - ends[1] - began  # without the step itself

    warm()
    seconds = statistics.median(warm() for _ in range(turns))
    yield f"start of a run in a warm process, seconds | {seconds:.3f} | ≤ .3"


def rates(folder: Path, turns: int) -> Iterator[str]:
    """Mean training loss of the last tenth of the steps; no block comes twice."""
    count = 60 if turns < 5 else 120
    ids = torch.from_numpy(text_blocks(64, 16 * count).astype(np.int64))
    for base in (96, None):
        for width in WIDTHS:
            found = []
            for lr in RATES:
                settings = OptimizerConfig(lr=lr, base_width=base)
                config = ModelConfig(
                    hidden_size=width,
                    intermediate_size=width * 8 // 3,
                    num_attention_heads=width // 24,
                )
                model = build(config, vocab_size=VOCABULARY, max_positions=64, seed=0)
                found.append(_end(model, ids, settings, count))
            row = " · ".join(f"{value:.3f}" for value in found)
            kind = "scaled" if base else "as it is"
            yield (
                f"width {width}, rate {kind}: losses at lr {', '.join(f'{r:g}' for r in RATES)} | "
                f"{row} | best {RATES[int(np.argmin(found))]:g}"
            )


def _end(model: LanguageNet, ids: Tensor, settings: OptimizerConfig, count: int) -> float:
    optimizer = adamw(model, settings)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, count, settings)
    )
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))
    losses = []
    for step in range(count):
        optimizer.zero_grad()
        value = loss(model, ids[order[16 * step :][:16]])
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(value.detach()))
    return statistics.fmean(losses[-count // 10 :])


if __name__ == "__main__":
    main()
