"""The processes of one run: which of them this one is, and how it starts the others.

Ranks come from outside (`torchrun`, `srun`) when the variables of the environment agree with what
the spec asks for; else rank 0 starts the others of its node. A run on a single device looks at no
variable at all: what a cluster or an earlier launch left behind means nothing to it.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from optuna_mde_trainers.spec import RunError

if TYPE_CHECKING:
    from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
    from optuna_mde_trainers.spec import LaunchConfig

AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"  # torchrun listens itself at MASTER_PORT
GRACE_SECONDS = 15.0  # for the other ranks to end when this one has


class RanksError(RunError):
    """The processes of a run cannot be found or started; the message says the mend."""


@dataclass(frozen=True)
class Rank:
    """One process of a run."""

    number: int = 0
    """From 0; the process that writes."""
    world_size: int = 1
    local_number: int = 0
    """Among those of its node."""
    local_size: int = 1
    """Processes of its node."""
    address: str = "127.0.0.1"
    """Where rank 0 listens."""
    port: int = 0
    is_launched: bool = False
    """Whether something else has started all ranks."""

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes."""
        return self.number == 0


def this_rank(launch: LaunchConfig) -> Rank:
    """Which process of the run this one is.

    Raises:
        RanksError: If several nodes are asked for and nothing has started their processes.
    """
    local_size, world_size = launch.devices_per_node, launch.world_size
    if world_size == 1:
        return Rank()
    environment = os.environ
    if environment.get("WORLD_SIZE") == str(world_size) and all(
        name in environment for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    ):
        return Rank(
            number=int(environment["RANK"]),
            world_size=world_size,
            local_number=int(environment["LOCAL_RANK"]),
            local_size=local_size,
            address=environment["MASTER_ADDR"],
            port=int(environment["MASTER_PORT"]),
            is_launched=True,
        )
    # In a batch script, outside of `srun`, Slurm sets SLURM_NTASKS and SLURM_PROCID too.
    if environment.get("SLURM_STEP_NUM_TASKS") == str(world_size):
        return _rank_of_slurm(world_size, local_size)
    if launch.num_nodes > 1:
        raise RanksError(
            f"launch.num_nodes is {launch.num_nodes}, and nothing has started the {world_size} "
            f"processes of this run: use srun --ntasks-per-node={local_size}, or torchrun "
            f"--nnodes={launch.num_nodes} --nproc-per-node={local_size}"
        )
    return Rank(world_size=world_size, local_size=local_size, port=_free_port())


def _rank_of_slurm(world_size: int, local_size: int) -> Rank:
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    environment = os.environ
    nodes = environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_NODELIST", "127.0.0.1"))
    # Another port for every step of a job, the same for all of its processes.
    step = int(environment.get("SLURM_JOB_ID", 0)) * 31 + int(environment.get("SLURM_STEP_ID", 0))
    return Rank(
        number=int(environment["SLURM_PROCID"]),
        world_size=world_size,
        local_number=int(environment["SLURM_LOCALID"]),
        local_size=local_size,
        address=environment.get("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(nodes)),
        port=int(environment.get("MASTER_PORT", 15_000 + step % 15_000)),
        is_launched=True,
    )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def other_ranks(rank: Rank, command: Sequence[str]) -> Iterator[None]:
    """Start the other ranks, unless something else has, and see them end.

    Args:
        rank: Rank 0.
        command: Arguments of Python that make a process take part; it finds its rank in the
            environment.

    Raises:
        RanksError: If one of them fails; with the end of what it said.
    """
    if rank.world_size == 1 or rank.is_launched:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        started = [
            _start(rank, number, command, open(f"{folder}/{number}", "w+b"))  # noqa: SIM115
            for number in range(1, rank.world_size)
        ]
        try:
            yield
        except RuntimeError as error:  # as torch says that a connection is lost
            failed = _failure(started)
            _stop(started)
            if failed is None:
                raise
            raise RanksError(failed) from error
        except BaseException:
            _stop(started)
            raise
        deadline = time.monotonic() + GRACE_SECONDS
        for process, _ in started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
        _stop(started)


def _start(
    rank: Rank, number: int, command: Sequence[str], output: IO[bytes]
) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    environment = {
        **{name: value for name, value in os.environ.items() if name != AGENT_STORE},
        "RANK": str(number),
        "LOCAL_RANK": str(number),
        "WORLD_SIZE": str(rank.world_size),
        "MASTER_ADDR": rank.address,
        "MASTER_PORT": str(rank.port),
    }
    process = subprocess.Popen(
        [sys.executable, *command],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
    )
    return process, output


def _failure(started: Sequence[tuple[subprocess.Popen[bytes], IO[bytes]]]) -> str | None:
    """What the rank said that has failed; the others then lose it, sooner than it has ended."""
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline:
        codes = [process.poll() for process, _ in started]
        for number, ((_, output), code) in enumerate(zip(started, codes, strict=True), start=1):
            if code:
                output.seek(0)
                lines = output.read().decode(errors="replace").strip().splitlines()
                return f"rank {number} has failed: {lines[-1] if lines else 'without a word'}"
        if None not in codes:
            break
        time.sleep(0.1)
    return None


def _stop(started: Sequence[tuple[subprocess.Popen[bytes], IO[bytes]]]) -> None:
    for process, output in started:
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_SECONDS)
        if process.poll() is None:
            process.kill()
            process.wait()
        output.close()


def end_with_parent() -> None:
    """End this process when the one that started it is gone, be it by SIGKILL."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def environment_of(rank: Rank) -> ClusterEnvironment:
    """Lightning's view of the ranks: from here, never from the variables."""
    from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    class Ranks(ClusterEnvironment):
        creates_processes_externally = True
        main_address = rank.address
        main_port = rank.port

        @staticmethod
        def detect() -> bool:
            return True

        def world_size(self) -> int:
            return rank.world_size

        def set_world_size(self, size: int) -> None:
            assert size == rank.world_size

        def global_rank(self) -> int:
            return rank.number

        def set_global_rank(self, number: int) -> None:
            assert number == rank.number

        def local_rank(self) -> int:
            return rank.local_number

        def node_rank(self) -> int:
            return rank.number // rank.local_size

    # It is set from RANK, LOCAL_RANK or SLURM_PROCID when Lightning is imported, and a logger of
    # what it takes for another rank writes nothing.
    rank_zero_only.rank = rank.number  # type: ignore[attr-defined]
    return Ranks()


@contextmanager
def process_group(rank: Rank, launch: LaunchConfig) -> Iterator[None]:
    """All ranks, connected; Lightning finds the connection and uses it.

    Processes that a launcher started stay connected until they end, and may perform several runs.
    """
    import torch.distributed

    if not torch.distributed.is_initialized():
        _connect(rank, launch)
        if rank.is_launched:
            atexit.register(torch.distributed.destroy_process_group)
    try:
        yield
    finally:
        if not rank.is_launched:
            torch.distributed.destroy_process_group()


def _connect(rank: Rank, launch: LaunchConfig) -> None:
    from datetime import timedelta

    import torch.distributed

    on_gpus = launch.accelerator != "cpu" and torch.cuda.is_available()
    if on_gpus:
        torch.cuda.set_device(_device_index(rank, launch))
    patience = timedelta(hours=1)  # rank 0 may score for that long while the others wait
    store = None
    if not (rank.is_launched and os.environ.get(AGENT_STORE) == "True"):
        store = torch.distributed.TCPStore(  # type: ignore[attr-defined]
            rank.address, rank.port, rank.world_size, is_master=rank.writes, timeout=patience
        )
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpus else "gloo",
        store=store,
        rank=rank.number,
        world_size=rank.world_size,
        timeout=patience,
    )


def _device_index(rank: Rank, launch: LaunchConfig) -> int:
    if isinstance(launch.devices, list):
        return launch.devices[rank.local_number]
    return rank.local_number


def told_by_rank_zero(rank: Rank, value: Any) -> Any:
    """The value that rank 0 has, on all ranks."""
    if rank.world_size == 1:
        return value
    import torch.distributed

    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]
