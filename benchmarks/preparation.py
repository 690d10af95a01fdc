"""What preparing a corpus costs: tokenising against bare `tokenizers`, cores, cache, memory.

    python -m benchmarks.preparation [--megabytes 64] [--tokenizer tokenizer.json]

Text: Python source of the installed packages, as one jsonl.zst file. Tokenizer: a byte-level BPE
of 50,257 tokens trained on it, unless one is given. Every figure is of this machine as it is now;
those that matter are ratios of two measured one after the other:

    encoding / bare      MB a CPU second of our encoder and of `encode_batch_fast`, one thread each
    two processes / one  seconds of `prepare`, nothing cached
    again / first        seconds of a second study on the same text
    memory               peak of the largest process, for the text and for a quarter of it
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import zstandard

VOCABULARY = 50_257
BATCH = 200  # documents that are encoded at once
TRAINED_ON = 30_000_000  # characters

PREPARE = """
import resource, sys, time
from pathlib import Path
from optuna_mde_trainers.corpus.corpora import CorpusConfig, prepare
if __name__ == "__main__":
    config = CorpusConfig.model_validate_json(sys.argv[1])
    began, cpu = time.monotonic(), time.process_time()
    prepare(config, Path(sys.argv[2]), processes=int(sys.argv[3]))
    seconds = time.monotonic() - began
    parent = time.process_time() - cpu
    processes = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    peaks = [resource.getrusage(which).ru_maxrss for which in processes]
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(seconds, max(peaks) // 1024, parent, usage.ru_utime + usage.ru_stime)
"""


@dataclass(frozen=True)
class Cost:
    """Of one preparation."""

    seconds: float
    memory: int
    """Peak of the largest process, MB."""
    cpu: float
    """CPU seconds of the parent."""
    children: float
    """CPU seconds of its children."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json with <|endoftext|>")
    given = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        texts = list(_texts(given.megabytes * 1_000_000))
        tokenizer = given.tokenizer or _train(texts, folder / "tokenizer.json")
        for line in chain(_encoding(texts, tokenizer), _preparing(texts, tokenizer, folder)):
            print(line, flush=True)


def _texts(wanted: int) -> Iterator[str]:
    """Distinct Python files of the installed packages, until there is enough."""
    size = 0
    root = Path(zstandard.__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        if len(text) > 200:
            yield text
            size += len(text)
        if size > wanted:
            return


def _train(texts: list[str], file: Path) -> Path:
    from optuna_mde_trainers.corpus.tokenizer import END_OF_TEXT, train_bpe

    size, some = 0, []
    for text in texts[::2]:
        some.append(text)
        size += len(text)
        if size > TRAINED_ON:
            break
    train_bpe(some, VOCABULARY, END_OF_TEXT).save(str(file))
    return file


def _encoding(texts: list[str], tokenizer_file: Path) -> Iterator[str]:
    from optuna_mde_trainers.corpus.encoding import Encoder
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.encode_special_tokens = True
    ours = Encoder(str(tokenizer_file))
    some = texts[1::4]
    bare = _rate(some, lambda batch: tokenizer.encode_batch_fast(batch, add_special_tokens=False))
    first = _rate(some, ours.encode)
    later = _rate(texts[3::4], ours.encode)
    yield f"bare tokenizers     {bare:6.2f} MB per CPU second"
    yield f"our encoder         {first:6.2f} on its first text, {first / bare:.2f} of bare"
    yield f"                    {later:6.2f} on the next one, {later / bare:.2f} of bare"


def _rate(texts: list[str], encode: Callable[[list[str]], object]) -> float:
    """MB of text per CPU second."""
    began = time.process_time()
    for start in range(0, len(texts), BATCH):
        encode(texts[start : start + BATCH])
    seconds = time.process_time() - began
    return sum(len(text.encode()) for text in texts) / 1e6 / seconds


def _preparing(texts: list[str], tokenizer_file: Path, folder: Path) -> Iterator[str]:
    size = sum(len(text.encode()) for text in texts) / 1e6
    _write(texts, folder / "all.jsonl.zst")
    _write(texts[::4], folder / "quarter.jsonl.zst")
    one = _prepare("all", tokenizer_file, folder, 1)
    again = _prepare("all", tokenizer_file, folder, 1, study="again")
    two = _prepare("all", tokenizer_file, folder, 2)
    smaller = _prepare("quarter", tokenizer_file, folder, 1)
    yield (
        f"one process         {one.seconds:6.1f} s for {size:.0f} MB, {one.cpu:.1f} CPU seconds, "
        f"{size / one.cpu:.2f} MB each"
    )
    yield (
        f"two processes       {two.seconds:6.1f} s, {one.seconds / two.seconds:.2f} times faster; "
        f"{two.cpu:.1f} CPU seconds in the parent, {two.children:.1f} in its two children"
    )
    less = one.cpu / again.cpu
    yield f"a second study      {again.seconds:6.1f} s, {less:.1f} times less CPU time"
    yield f"memory              {one.memory} MB, {smaller.memory} MB for a quarter of the text"


def _write(texts: list[str], file: Path) -> None:
    with zstandard.open(file, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps({"text": text}) + "\n" for text in texts)


def _prepare(
    name: str, tokenizer_file: Path, folder: Path, processes: int, study: str = "first"
) -> Cost:
    """One preparation in a process of its own."""
    config = {
        "domains": {"code": {"path": "json", "data_files": str(folder / f"{name}.jsonl.zst")}},
        "tokenizer": {"type": "pretrained", "path": str(tokenizer_file)},
        "block_size": 1024,
        "validation_tokens": 65_536,
    }
    script = folder / "prepare.py"
    script.write_text(PREPARE)
    command = [
        sys.executable, str(script), json.dumps(config),
        str(folder / f"{name}-{processes}-{study}"), str(processes),
    ]  # fmt: skip
    cache = folder / f"cache-{name}-{processes}"
    done = subprocess.run(
        command,
        env={**os.environ, "OPTUNA_MDE_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    seconds, memory, cpu, children = map(float, done.stdout.split())
    return Cost(seconds, round(memory), cpu, children)


if __name__ == "__main__":
    main()
