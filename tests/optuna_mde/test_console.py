"""The package and its command where nothing but the plugin is installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

import optuna_mde


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_importing_the_package_stays_light() -> None:
    code = (
        "import sys; from optuna_mde import MDESampler, report_losses, suggest_mixture;"
        "print([m for m in ('torch', 'scipy', 'botorch', 'lightning') if m in sys.modules])"
    )
    assert run(code).stdout == "[]\n"


@pytest.mark.parametrize("missing", ["typer", "optuna_mde_studies"])
def test_the_command_names_the_pip_line_that_is_missing(missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None; "
        "from optuna_mde._console import main; main()"
    )
    result = run(code)
    assert result.returncode == 2
    assert "pip install 'optuna-mde[studies]'" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name", optuna_mde.__all__)
def test_public_names_exist(name: str) -> None:
    assert getattr(optuna_mde, name).__name__ == name
    assert name in dir(optuna_mde)


def test_other_names_do_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'sampling'"):
        _ = optuna_mde.sampling
