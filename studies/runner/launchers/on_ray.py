"""Runs as tasks of a Ray cluster, each with the GPUs that it asks for.

Ray ends a task when the worker that waits for it ends, and starts it again when its node is lost.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna_mde_studies.runner.launchers.contract import RunFailedError
from optuna_mde_studies.runner.launchers.processes import attempt

if TYPE_CHECKING:
    from optuna_mde_studies.definition.config import WorkersConfig
    from optuna_mde_trainers.spec import LaunchConfig, LaunchSpec

LOST_NODES = 3
"""Nodes that a run may lose before it has failed; it goes on from its checkpoint."""
PATIENCE_SECONDS = 10.0
"""For the head of the cluster to answer."""
_CONNECTING = threading.Lock()


@dataclass(frozen=True)
class OnRay:
    """A task for every run."""

    address: str = "auto"
    """Of the cluster, as `ray.init` takes it."""
    seconds: float | None = None
    """Longest time of a run, from its start; None: no limit."""

    def perform(self, command: Sequence[str], folder: Path, launch: LaunchSpec) -> None:
        ray = self._connected()
        task = ray.remote(attempt).options(
            num_cpus=1, num_gpus=_gpus(launch, ray), max_retries=LOST_NODES, name=folder.name
        )
        begun = task.remote(tuple(command), folder, self.seconds)
        try:
            said = ray.get(begun)
        except (KeyboardInterrupt, SystemExit):
            ray.cancel(begun, force=True)
            raise
        except ray.exceptions.RayError as error:
            words = " ".join(str(error).split())
            raise RunFailedError(f"{type(error).__name__} of Ray: {words[:300]}") from None
        if said:
            raise RunFailedError(said)

    def missing(self, launch: WorkersConfig) -> str:
        """Whether the package, the cluster or its GPUs are not there."""
        if find_spec("ray") is None:
            return (
                "launch.ray needs the package ray, which is not installed: "
                "pip install 'optuna-mde[ray]'"
            )
        try:
            held = self.capacity(launch)
        except ConnectionError as error:
            words = str(error).split(". ")[0]
            return (
                f"launch.ray: no cluster at {self.address} ({words}); start one with "
                "`ray start --head`, or give its address"
            )
        if not held:
            return (
                f"launch.devices: no node of the Ray cluster has {launch.devices_per_node} GPUs; "
                "ask for fewer"
            )
        return ""

    def capacity(self, launch: WorkersConfig) -> int:
        """Runs that the nodes of the cluster hold side by side, were it empty.

        Raises:
            ConnectionError: if there is no cluster at the address.
        """
        was_connected = _module().is_initialized()
        ray = self._connected()
        gpus = _gpus(launch, ray)
        kind, needed = ("GPU", gpus) if gpus else ("CPU", 1)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not was_connected:
            ray.shutdown()
        return int(sum(node.get(kind, 0) // needed for node in nodes))

    def _connected(self) -> Any:
        ray = _module()
        with _CONNECTING:
            if not ray.is_initialized():
                _check_listening(self.address)
                in_main = threading.current_thread() is threading.main_thread()
                before = signal.getsignal(signal.SIGTERM)
                ray.init(self.address, logging_level="error", log_to_driver=False)
                if in_main:  # it takes the signal for itself
                    signal.signal(signal.SIGTERM, before)
        return ray


def _check_listening(address: str) -> None:
    """Ray itself would try for five minutes.

    Raises:
        ConnectionError: if nobody listens at HOST:PORT; other addresses are left to Ray.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), PATIENCE_SECONDS).close()
    except OSError as error:
        raise ConnectionError(error.strerror or str(error)) from None


def _gpus(launch: LaunchConfig, ray: Any) -> int:
    """GPUs that a run asks for: `auto` takes them where the cluster has any."""
    if launch.accelerator == "auto" and not ray.cluster_resources().get("GPU"):
        return 0
    return launch.devices_per_node if launch.accelerator in ("auto", "gpu", "cuda") else 0


def _module() -> Any:
    """Ray, which takes a second to import."""
    import ray

    return ray
