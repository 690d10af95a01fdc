"""Which installed packages are taken to be the project's."""

from __future__ import annotations

from optuna_mde_trainers.corpus.builtin.packages import (
    OURSELVES,
    other_distributions,
    required_distributions,
)


def test_texts_come_from_the_packages_that_the_project_needs() -> None:
    needed = required_distributions()
    assert {"optuna", "torch", "lightning", "datasets", "numpy"} <= set(needed)
    assert OURSELVES not in needed
    assert "pytest" not in needed
    assert {"pytest", "ruff"} <= set(other_distributions())
