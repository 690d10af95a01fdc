"""How many workers a machine can hold, with cgroup files laid out as Linux has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from optuna_mde_studies.runner import resources


@pytest.fixture
def lay(tmp_path: Path):
    """Writes files below a stand-in for `/`."""

    def lay(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path

    return lay


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch):
    """16 cores by affinity."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 16),
        (
            {
                "proc/self/cgroup": "0::/jobs/one\n",
                "sys/fs/cgroup/jobs/cpu.max": "300000 100000\n",
                "sys/fs/cgroup/jobs/one/cpu.max": "max 100000\n",
            },
            3,
        ),
        (
            {  # a container that sees its own cgroup as the root, and its host's path
                "proc/self/cgroup": "0::/host/path\n",
                "sys/fs/cgroup/cpu.max": "200000 100000\n",
            },
            2,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/job\n2:memory:/job\n",
                "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "150000\n",
                "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            2,
        ),
        (
            {
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/cpu.max": "20000 100000\n",
            },
            1,
        ),
    ],
    ids=["no cgroup", "v2, limited above", "v2, container", "v1", "a fifth of a core"],
)
def test_cores_by_affinity_and_quota(lay, cores, files, expected):
    assert resources.usable_cores(lay(files)) == expected


def test_memory_is_what_the_tightest_limit_leaves(lay):
    root = lay(
        {
            "proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 8000000 kB\n",
            "proc/self/cgroup": "0::/job\n",
            "sys/fs/cgroup/job/memory.max": "3000000000\n",
            "sys/fs/cgroup/job/memory.current": "2000000000\n",
            "sys/fs/cgroup/job/memory.stat": "anon 500\ninactive_file 1500000000\n",
        }
    )
    assert resources.free_memory(root) == 2_500_000_000


def test_a_limit_of_v1_that_is_none_does_not_count(lay):
    root = lay(
        {
            "proc/meminfo": "MemAvailable: 8000000 kB\n",
            "proc/self/cgroup": "2:memory:/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "1000\n",
        }
    )
    assert resources.free_memory(root) == 8_000_000 * 1024


@pytest.mark.parametrize(
    ("requested", "experts", "cores", "memory", "expected"),
    [
        (7, 3, 1, 10**9, 7),
        ("auto", 6, 16, 10**11, 4),
        ("auto", 3, 16, 10**11, 3),
        ("auto", 6, 2, 10**11, 2),
        ("auto", 6, 16, 2_500_000_000, 2),
        ("auto", 6, 16, 10**8, 1),
        ("auto", 6, 16, None, 4),
    ],
)
def test_workers(monkeypatch, requested, experts, cores, memory, expected):
    monkeypatch.setattr(resources, "usable_cores", lambda: cores)
    monkeypatch.setattr(resources, "free_memory", lambda: memory)
    assert resources.worker_count(requested, experts) == expected
