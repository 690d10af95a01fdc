"""Runs as jobs of Slurm, through submitit.

A job outlives the worker that waits for it: its number is in the run's folder, and the worker that
takes the trial over waits for the same job. Slurm's signal before a job's end queues it again.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna_mde_studies.runner.launchers.contract import RunFailedError
from optuna_mde_studies.runner.launchers.processes import attempt

if TYPE_CHECKING:
    from optuna_mde_studies.definition.config import WorkersConfig
    from optuna_mde_trainers.spec import LaunchConfig, LaunchSpec

JOBS_FOLDER = "slurm"
"""In the run's folder: what submitit keeps of the job."""
JOB_FILE = "job"
"""In it: the number of the job that is waited for."""
MARGIN_MINUTES = 10
"""A job's time beyond the run's limit, for its start."""
GPU_OPTIONS = {"gpus_per_node", "gpus_per_task", "gres"}
OWN_OPTIONS = {
    "nodes": "launch.num_nodes",
    "ntasks_per_node": "launch.devices",
    "num_gpus": "launch.devices",
    "array_parallelism": "launch.workers",
}
"""Options of submitit that fields of the definition say."""


@dataclass(frozen=True)
class OnSlurm:
    """A job for every run."""

    options: Mapping[str, Any]
    """Those of sbatch, as submitit names them; and `cluster`, of submitit: slurm or local."""
    seconds: float | None = None
    """Longest time of a run, from its start; None: Slurm's alone."""
    ranks_by_srun: bool = True
    """Whether the processes of a run on several nodes are started one a device."""

    def perform(self, command: Sequence[str], folder: Path, launch: LaunchSpec) -> None:
        job = self._waiting(folder) or self._submitted(command, folder, launch)
        from submitit.core.utils import FailedJobError, UncompletedJobError

        try:
            said = next(filter(None, job.results()), "")
        except (FailedJobError, UncompletedJobError) as error:
            lines = [line for line in str(error).splitlines() if line.strip(" -")]
            said = f"ended as {job.state}: {lines[-1][:300]} (more in {folder / JOBS_FOLDER})"
        # not where the wait itself is ended: the job goes on, and is waited for again
        (folder / JOBS_FOLDER / JOB_FILE).unlink(missing_ok=True)
        if said:
            raise RunFailedError(f"job {job.job_id} of Slurm: {said}")

    def missing(self, launch: WorkersConfig) -> str:
        """What is wrong with the options, or not there."""
        if find_spec("submitit") is None:
            return (
                "launch.launcher: slurm needs the package submitit, which is not installed: "
                "pip install 'optuna-mde[slurm]'"
            )
        from submitit import SlurmExecutor

        known = {*SlurmExecutor._valid_parameters(), "cluster"} - OWN_OPTIONS.keys()
        for name in self.options:
            if name in OWN_OPTIONS:
                return f"launch.slurm.{name}: {OWN_OPTIONS[name]} says it; leave it out"
            if name not in known:
                return (
                    f"launch.slurm.{name}: submitit has no such option; it has "
                    f"{', '.join(sorted(known))}, and additional_parameters for what else sbatch "
                    "takes"
                )
        minutes = self.options.get("time", 1)
        if isinstance(minutes, bool) or not isinstance(minutes, int) or minutes < 1:
            return f"launch.slurm.time: a whole number of minutes (got {minutes!r})"
        if self._cluster not in ("slurm", "local"):
            return f"launch.slurm.cluster: slurm or local (got {self._cluster!r})"
        if self._cluster == "slurm" and shutil.which("srun") is None:
            return (
                "launch.launcher: slurm, and there is no srun here; start on a machine of the "
                "cluster, or try it on this one with launch.slurm.cluster: local"
            )
        return ""

    @property
    def _cluster(self) -> str:
        return str(self.options.get("cluster", "slurm"))

    def _waiting(self, folder: Path) -> Any:
        """The job that another worker has begun to wait for, if it has not ended."""
        import submitit

        path = folder / JOBS_FOLDER / JOB_FILE
        if self._cluster != "slurm" or not path.is_file():
            return None
        number, tasks = path.read_text("utf-8").split()
        job: submitit.SlurmJob[str] = submitit.SlurmJob(
            path.parent, number, tasks=range(int(tasks))
        )
        return None if job.done(force_check=True) else job

    def _submitted(self, command: Sequence[str], folder: Path, launch: LaunchSpec) -> Any:
        import submitit

        executor = submitit.AutoExecutor(folder / JOBS_FOLDER, cluster=self._cluster)
        executor.update_parameters(**self.parameters(launch, folder.name))
        job = executor.submit(Attempt(), tuple(command), folder, self.seconds)
        (folder / JOBS_FOLDER / JOB_FILE).write_text(f"{job.job_id} {job.num_tasks}", "utf-8")
        return job

    def parameters(self, launch: LaunchConfig, name: str) -> dict[str, Any]:
        """What submitit is told of a run's job."""
        options = {k: v for k, v in self.options.items() if k not in ("cluster", "time")}
        minutes = self.options.get("time")
        if minutes is None:
            assert self.seconds is not None, "the definition is checked for it"
            minutes = math.ceil(self.seconds / 60) + MARGIN_MINUTES
        spread = launch.num_nodes > 1 and self.ranks_by_srun
        said: dict[str, Any] = {
            "name": str(options.pop("job_name", name)),
            "timeout_min": minutes,
            "nodes": launch.num_nodes,
            "tasks_per_node": launch.devices_per_node if spread else 1,
        }
        on_gpus = launch.accelerator in ("gpu", "cuda")
        if on_gpus and not GPU_OPTIONS & options.keys():
            said["gpus_per_node"] = launch.devices_per_node
        return said | {f"slurm_{option}": value for option, value in options.items()}


class Attempt:
    """The job's work, which goes on after Slurm's time limit or a preemption: our trainer from its
    checkpoint, a command as it can."""

    def __call__(self, command: Sequence[str], folder: Path, seconds: float | None) -> str:
        return attempt(command, folder, seconds)

    def checkpoint(self, *arguments: Any) -> Any:
        """What submitit queues again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *arguments)
