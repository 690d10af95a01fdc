"""Installed packages: where they lie, which versions they have, which ones this project needs."""

from __future__ import annotations

import importlib.metadata
import platform
import sysconfig
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

STDLIB = "stdlib"
OURSELVES = "optuna-mde"  # its text changes with every commit, which would change the corpus
IMPORT_NAMES = {"scikit-learn": "sklearn"}  # distributions whose folder has another name


def package_folder(package: str) -> Path | None:
    """Folder of an installed distribution's package, or None; `stdlib` is Python's own."""
    if package == STDLIB:
        return Path(sysconfig.get_path("stdlib"))
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return None
    name = IMPORT_NAMES.get(package, package.replace("-", "_"))
    folder = Path(str(distribution.locate_file(name)))
    return folder if folder.is_dir() else None


def package_version(package: str) -> str:
    """Version as pip shows it; Python's own for `stdlib`."""
    return platform.python_version() if package == STDLIB else importlib.metadata.version(package)


def required_distributions() -> list[str]:
    """Installed distributions that optuna-mde[studies] asks for, directly or not, sorted.

    Texts come from these first, so that installing an unrelated package beside them does not
    change the corpus. Empty when optuna-mde runs without being installed.
    """
    todo = [(OURSELVES, extra) for extra in ("", "studies")]
    seen: set[tuple[str, str]] = set()
    installed: set[str] = set()
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            lines = importlib.metadata.distribution(name).requires or []
        except importlib.metadata.PackageNotFoundError:
            continue
        installed.add(name)
        for line in lines:
            try:
                requirement = Requirement(line)
            except InvalidRequirement:  # old packages; nobody needs their requirements here
                continue
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                child = canonicalize_name(requirement.name)
                todo += [(child, wanted) for wanted in ("", *sorted(requirement.extras))]
    return sorted(installed - {OURSELVES})


def other_distributions() -> list[str]:
    """Installed distributions that `required_distributions` does not name, sorted."""
    names = {
        canonicalize_name(distribution.name)
        for distribution in importlib.metadata.distributions()
        if distribution.name
    }
    return sorted(names - set(required_distributions()) - {OURSELVES})
