"""The `optuna-mde` command, also where the plugin is installed alone."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line of `optuna_mde_studies`, or name the pip line that is missing."""
    try:
        from optuna_mde_studies.cli import main as run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("optuna_mde", "optuna_mde_studies"):
            raise
        print(
            f"optuna-mde: the command needs {error.name}, which is not installed here; "
            "pip install 'optuna-mde[studies]'",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    run()
