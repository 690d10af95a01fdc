"""Which of the URLs that a storage names are opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from optuna_mde.mde import urls
from optuna_mde.mde.urls import ALLOW, is_trusted, trust


@pytest.fixture(autouse=True)
def empty_handed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls, "_handed", set())
    monkeypatch.delenv(ALLOW, raising=False)


@pytest.mark.parametrize(
    ("url", "root", "trusted"),
    [
        ("/study/experts/web.st", "/study", True),
        ("file:///study/experts/web.st", "/study/", True),
        ("/study/web.st", "file:///study", True),
        ("/study", "/study", True),
        ("/anywhere/web.st", "/", True),
        ("/studyx/web.st", "/study", False),
        ("/study/../etc/web.st", "/study", False),
        ("file:///study/../etc/web.st", "/study", False),
        ("/etc/web.st", "/study", False),
        ("http://host/web.st", "/study", False),
        ("/http:/host/web.st", "http://host", False),
        ("s3://bucket/study/web.st", "s3://bucket/study", True),
        ("s3://bucket/study/web.st", "s3://bucket/study/", True),
        ("s3://bucket/studyx/web.st", "s3://bucket/study", False),
        ("s3://bucket/study/../web.st", "s3://bucket/study", False),
        ("https://host/a/%2e%2e/web.st", "https://host/a", False),
        ("https://host/a/..\\web.st", "https://host/a", False),
        ("https://host@evil/web.st", "https://host", False),
        ("https://host/a::http://evil/web.st", "https://host", False),
        ("simplecache::s3://bucket/web.st", "s3://bucket", False),
        ("simplecache::s3://bucket/web.st", "simplecache::s3://bucket", True),
    ],
)
def test_below_a_root(url: str, root: str, trusted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_trusted(url, [root]) is trusted
    assert not is_trusted(url, [])
    monkeypatch.setenv(ALLOW, f"/else, {root}")
    assert is_trusted(url, []) is trusted


@pytest.mark.parametrize(
    ("handed", "neighbour", "stranger"),
    [
        ("/data/experts/web.st", "/data/experts/code.st", "/data/web.st"),
        ("s3://bucket/experts/web.st", "s3://bucket/experts/code.st", "s3://bucket/web.st"),
        ("memory://web.st", "memory://web.st", "memory://code.st"),
        ("https://host", "https://host", "https://other"),
    ],
)
def test_what_a_process_was_handed_is_trusted_with_its_folder(
    handed: str, neighbour: str, stranger: str
) -> None:
    assert not is_trusted(handed, [])
    trust(handed)
    assert is_trusted(handed, [])
    assert is_trusted(neighbour, [])
    assert not is_trusted(stranger, [])


def test_relative_paths_start_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_trusted("experts/web.st", ["."])
    assert not is_trusted("../web.st", ["."])
    trust("experts/web.st")
    assert is_trusted(str(tmp_path / "experts" / "code.st"), [])
