"""A tiny study on real text: three domains of local files, runs of well under a second."""

from __future__ import annotations

import argparse
import atexit
import inspect
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import typing
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics

import pytest

# One thread a process: the tests run side by side. Read by torch when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What tests read and tokenise is kept apart from the user's cache; processes that they start, too.
os.environ["OPTUNA_MDE_CACHE"] = tempfile.mkdtemp(prefix="mde-tests-")
atexit.register(shutil.rmtree, os.environ["OPTUNA_MDE_CACHE"], ignore_errors=True)

# A shell's background jobs ignore Ctrl-C, and so would every process that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

DEFINITION = """\
name: tiny
corpus:
  domains:
    code: {path: text, data_files: 'code/*.txt'}
    prose: {path: text, data_files: 'prose/*.txt'}
    numbers: {path: text, data_files: 'numbers/*.txt'}
  validation:
    news: {path: text, data_files: 'news/*.txt'}
  tokenizer: {type: bytes}
  block_size: 32
  validation_tokens: 512
objective: {code: 1, news: 2}
search: {n_trials: 6}
model: {hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2}
optimizer: {lr: 1e-2}
training: {max_steps: 20, global_batch_size: 4}
launch: {accelerator: cpu, workers: 2}
confirm: {seeds: 2}
"""

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the definition `tiny.yaml` and the texts that it names."""
    folder = tmp_path_factory.mktemp("texts")
    prose = "\n".join(topics.values())
    sources = {
        "code": inspect.getsource(argparse) + inspect.getsource(typing),
        "prose": prose[:150_000],
        "numbers": "\n".join(f"{i} {i * i} {i**3 % 9973}" for i in range(8000)),
        "news": prose[-60_000:],
    }
    for name, text in sources.items():
        (folder / name).mkdir()
        size = len(text) // 50
        for i in range(50):
            part = text[i * size : (i + 1) * size]
            (folder / name / f"{i:02}.txt").write_text(part, encoding="utf-8")
    (folder / "tiny.yaml").write_text(DEFINITION, encoding="utf-8")
    return folder


@pytest.fixture
def workplace(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder of the test's own, with the tiny study's definition and texts."""
    shutil.copytree(texts, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def command() -> Command:
    """Runs `optuna-mde` in a folder; gives its exit code and what it printed."""

    def command(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [Path(sys.executable).with_name("optuna-mde"), *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    return command


@pytest.fixture(scope="session")
def tiny_run(texts: Path, tmp_path_factory: pytest.TempPathFactory, command: Command) -> Path:
    """A folder in which `optuna-mde run tiny.yaml` has ended well; copy it to change it."""
    folder = tmp_path_factory.mktemp("tiny")
    shutil.copytree(texts, folder, dirs_exist_ok=True)
    done = command("run", "tiny.yaml", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "output.txt").write_text(done.stdout, encoding="utf-8")
    return folder
