"""The `optuna-mde` command, also where the plugin is installed alone."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line of `optuna_mde_studies`, or name the pip line that is missing."""
