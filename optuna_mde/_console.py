"""The `optuna-mde` command, also where the plugin is installed alone."""

from __future__ import annotations

import importlib
import sys


def main() -> None:
    """Run the command line of `optuna_mde_studies`, or name the pip line that is missing."""
    try:
        # by name: this package must not depend on those that stand on it
        cli = importlib.import_module("optuna_mde_studies.cli")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("optuna_mde", "optuna_mde_trainers"):
            raise
        print(
            f"optuna-mde: the command needs {error.name}, which is not installed; "
            "pip install 'optuna-mde[studies]'",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    cli.main()
