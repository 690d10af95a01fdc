"""The site that `docs/` is built to."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site; a link or an anchor that leads nowhere fails the build."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def text(page: Path) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(site):
    import optuna_mde

    reference = (site / "api/index.html").read_text(encoding="utf-8")
    for name in optuna_mde.__all__:  # every public name has its docstring there
        assert re.search(rf'id="optuna_mde\.[\w.]*\b{name}"', reference), name
    told = text(site / "command-line/index.html")
    for command in ("run", "confirm", "recommend", "validate", "train", "score"):
        assert f"Usage: optuna-mde {command} " in told
    # pages outside docs/, and what they and the others link to
    assert "Regret" in text(site / "benchmarks/index.html")
    assert "class RunSpec" in text(site / "source/trainers/spec/runs.py/index.html")
