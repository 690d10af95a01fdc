"""How many workers a machine can hold, with cgroup files laid out as Linux has them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from optuna_mde_studies.definition import reading
from optuna_mde_studies.definition.config import WorkersConfig
from optuna_mde_studies.runner import resources
from optuna_mde_studies.runner.folder import StudyFolder
from optuna_mde_studies.runner.resources import Places
from optuna_mde_studies.runner.workers import Pool


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
    launch = WorkersConfig(workers=requested, accelerator="cpu")
    assert resources.places(launch, experts) == Places(expected)


@pytest.mark.parametrize(
    ("launch", "told", "workers", "seen"),
    [
        ({}, None, 4, ["0", "1", "2", "3"]),  # one worker a GPU
        ({}, "4,6", 2, ["4", "6"]),  # what others may use is left to them
        ({}, " GPU-ab , MIG-cd,-1,5", 2, ["GPU-ab", "MIG-cd"]),  # CUDA reads it up to the -1
        ({"devices": 2}, None, 2, ["0,1", "2,3"]),
        ({"devices": 3}, "7,5,3,1", 1, ["7,5,3"]),
        ({"workers": 2}, None, 2, ["0", "1"]),
        ({"workers": 8, "devices": 1}, None, 8, ["0", "1", "2", "3", "0", "1", "2", "3"]),
        ({"devices": [1, 2]}, None, 1, [None]),  # the user says which
        ({"devices": 4, "num_nodes": 2}, None, 3, [None] * 3),  # what starts them gives GPUs
        ({"accelerator": "cpu"}, None, 3, [None] * 3),
    ],
)
def test_each_worker_sees_gpus_of_its_own(monkeypatch, launch, told, workers, seen):
    # torch's count obeys CUDA_VISIBLE_DEVICES: names up to the first that is none
    names = [] if told is None else [name.strip() for name in told.split(",")]
    found = 4 if told is None else (names.index("-1") if "-1" in names else len(names))
    monkeypatch.setattr("torch.cuda.device_count", lambda: found)
    monkeypatch.setattr(resources, "usable_cores", lambda: 16)
    monkeypatch.setattr(resources, "free_memory", lambda: 10**11)
    environment = {} if told is None else {resources.VISIBLE: told}
    config = WorkersConfig(**{"accelerator": "gpu", **launch})
    places = resources.places(config, 3, environment)
    assert places.workers == workers
    assert [places.variables(n).get(resources.VISIBLE) for n in range(workers)] == seen


def environ(pid: int) -> str:
    """The variables that a process was started with; there are none before it is."""
    end = time.monotonic() + 20
    while not (text := Path(f"/proc/{pid}/environ").read_text("utf-8")):
        assert time.monotonic() < end
        time.sleep(0.01)
    return text


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="/proc")
def test_workers_start_with_their_variables(tmp_path, monkeypatch):
    monkeypatch.setenv(resources.VISIBLE, "3,5")
    room = Places(2, (("3",), ("5",)))
    with Pool(StudyFolder(tmp_path), room, reading.read("demo").config) as pool:
        pids = [worker.process.pid for worker in pool._workers]
        texts = [environ(pid) for pid in pids]
    for text, gpu in zip(texts, "35", strict=True):
        variables = text.split("\0")
        assert f"CUDA_VISIBLE_DEVICES={gpu}" in variables
        assert "OMP_NUM_THREADS=1" in variables
    assert os.environ[resources.VISIBLE] == "3,5"
