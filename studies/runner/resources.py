"""How many runs fit on this machine side by side: cores and GPUs that are ours, free memory."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from optuna_mde_studies.runner.launchers import capacity

if TYPE_CHECKING:
    from optuna_mde_studies.definition.config import WorkersConfig

MAX_WORKERS = 4
WORKER_BYTES = 1_000_000_000
"""torch and lightning with a small model and its data: .6 GB measured, the rest is margin."""

TOKENISING_BYTES = 600_000_000
"""A process that tokenises: .4 GB measured with a vocabulary of 50,000, the rest is margin."""

UNLIMITED = 2**60
"""A limit from here on is none: cgroup v1 writes 2**63 rounded down to a page."""


VISIBLE = "CUDA_VISIBLE_DEVICES"
DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Without any of them no GPU is found, and torch need not be imported to say so."""


@dataclass(frozen=True)
class Places:
    """Room for runs side by side on this machine."""

    workers: int
    """Worker processes to start."""
    shares: tuple[tuple[str, ...], ...] = ()
    """GPUs of one run each, by their names in `CUDA_VISIBLE_DEVICES`. Empty: runs take none, or
    those that the definition lists."""

    def variables(self, worker: int) -> dict[str, str]:
        """Variables of the environment with which a worker sees its own GPUs alone.

        Workers beyond the shares begin with the first one again: small runs may share a GPU.
        """
        if not self.shares:
            return {}
        return {VISIBLE: ",".join(self.shares[worker % len(self.shares)])}


def places(
    launch: WorkersConfig, n_experts: int, environment: Mapping[str, str] = os.environ
) -> Places:
    """As many workers as were asked for; else one a GPU (`launch.devices` of them each), and
    without GPUs min(4, K, cores, free memory / 1 GB). On a Ray cluster, as many as its nodes hold.

    More than K on CPUs would only make the first proposals without the experts' knowledge.
    """
    found = _gpu_count(launch.accelerator) if launch.runs_here else 0
    if found and isinstance(launch.devices, list):
        shares: tuple[tuple[str, ...], ...] = ()
        fitting = 1
    elif found:
        shares = gpu_shares(visible_gpus(found, environment), launch.devices_per_node)
        fitting = max(1, len(shares))
    else:
        shares, fitting = (), max(1, min(MAX_WORKERS, n_experts, usable_cores()))
    if isinstance(launch.workers, int):
        return Places(launch.workers, shares)
    fitting = capacity(launch) or fitting
    memory = free_memory()
    by_memory = fitting if memory is None else memory // WORKER_BYTES
    return Places(max(1, min(fitting, by_memory)), shares)


def visible_gpus(found: int, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The first GPUs that this process may use, by number or identifier as it was told them.

    Args:
        found: how many CUDA finds here; it reads a list up to the first name that is none.
        environment: `CUDA_VISIBLE_DEVICES` in it is kept to.
    """
    told = environment.get(VISIBLE)
    names = map(str, range(found)) if told is None else (name.strip() for name in told.split(","))
    return tuple(names)[:found]


def gpu_shares(gpus: Sequence[str], per_run: int) -> tuple[tuple[str, ...], ...]:
    """Disjoint shares of `per_run` GPUs; what is left over stays idle."""
    whole = len(gpus) // per_run
    return tuple(tuple(gpus[n * per_run : (n + 1) * per_run]) for n in range(whole))


def _gpu_count(accelerator: str) -> int:
    if accelerator in ("cpu", "mps"):
        return 0
    if accelerator == "auto" and not any(Path(driver).exists() for driver in DRIVERS):
        return 0
    import torch

    return torch.cuda.device_count()


def tokenising_count() -> int:
    """Processes that read and tokenise text: as many as cores and memory allow."""
    memory = free_memory()
    by_memory = usable_cores() if memory is None else memory // TOKENISING_BYTES
    return max(1, min(usable_cores(), by_memory))


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use, by affinity and by the quota of its cgroups (v1 and v2)."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        cores = os.cpu_count() or 1
    return max(1, min([cores, *(math.floor(quota + 0.5) for quota in _quotas(root))]))


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that may still be used, by the system and by cgroup limits. None: cannot be known."""
    free = [limit - used for limit, used in _memory_limits(root) if limit < UNLIMITED]
    available = _meminfo(root)
    if available is not None:
        free.append(available)
    return min(free, default=None)


def _quotas(root: Path) -> Iterator[float]:
    for folder in _cgroups(root, "cpu"):
        v2 = _words(folder / "cpu.max")
        if len(v2) == 2 and v2[0] != "max":
            yield int(v2[0]) / int(v2[1])
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota is not None and quota > 0 and period:
            yield quota / period


def _memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and use of every cgroup around this process; pages that only cache files are free."""
    for folder in _cgroups(root, "memory"):
        cached = _inactive_files(folder / "memory.stat")
        for limit_file, use_file in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, used = _number(folder / limit_file), _number(folder / use_file)
            if limit is not None and used is not None:
                yield limit, max(0, used - cached)


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the cgroups that hold this process, from the innermost outwards.

    A container may see its own cgroup as the root of the file system while /proc names the path
    on the host: folders that are not there are passed over, the root always counts.
    """
    mount = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = mount / controller if controllers else mount
        inner = base / path.lstrip("/")
        for folder in (inner, *inner.parents):
            if folder.is_dir():
                yield folder
            if folder == base:
                break


def _meminfo(root: Path) -> int | None:
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _inactive_files(path: Path) -> int:
    for line in _lines(path):
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            return int(value)
    return 0


def _number(path: Path) -> int | None:
    words = _words(path)
    if len(words) != 1:
        return None
    return int(words[0]) if words[0].lstrip("-").isdigit() else None


def _words(path: Path) -> list[str]:
    lines = _lines(path)
    return lines[0].split() if lines else []


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
