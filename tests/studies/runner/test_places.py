"""Runs on other machines: Slurm by submitit's own executor and by a stand-in for its commands,
ranks by torchrun, and a Ray cluster of two nodes."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna_mde_studies.definition import reading
from optuna_mde_studies.runner import agreement, checks, launchers, resources
from optuna_mde_studies.runner.folder import StudyFolder
from optuna_mde_studies.runner.launchers import RunFailedError
from optuna_mde_studies.runner.launchers.local import (
    CommandLauncher,
    InProcessLauncher,
    SubprocessLauncher,
    under_torchrun,
)
from optuna_mde_studies.runner.launchers.on_ray import OnRay
from optuna_mde_studies.runner.launchers.on_slurm import OnSlurm
from optuna_mde_trainers.spec import RunSpec

from tests.studies import their_trainer
from tests.studies.runner.specs import ignore, short_spec

THEIRS = (sys.executable, their_trainer.__file__, "{spec}", "{out}")
LOCAL = {"cluster": "local", "time": 2}


@pytest.fixture
def spec(workplace: Path) -> RunSpec:
    return short_spec(workplace)


def on_devices(spec: RunSpec, **launch: Any) -> RunSpec:
    return spec.model_copy(update={"launch": spec.launch.model_copy(update=launch)})


# --- Slurm ---------------------------------------------------------------------------------------


def test_a_job_performs_a_run(spec, tmp_path):
    pytest.importorskip("submitit")
    result = CommandLauncher(THEIRS, OnSlurm(LOCAL)).run(spec, tmp_path, ignore)
    assert result.losses["code"] == their_trainer.loss("code", spec.training.mixture)
    failing = CommandLauncher((sys.executable, "-c", "exit('no data')", "{out}"), OnSlurm(LOCAL))
    with pytest.raises(RunFailedError, match=r"^job \d+ of Slurm: exit code 1: no data \(all of"):
        failing.run(spec, tmp_path / "other", ignore)


SBATCH = """
import os, re, subprocess, sys
from pathlib import Path
here = Path(__file__).parent
text = Path(sys.argv[1]).read_text()
number = str(1 + len(list(here.glob("job-*"))))
(here / f"job-{number}").write_text(text)
def asked(name):
    found = re.search(rf"--{name}=(\\d+)", text)
    return found[1] if found else "1"
nodes = asked("nodes")
tasks = str(int(nodes) * int(asked("ntasks-per-node")))
variables = {"SLURM_JOB_ID": number, "SLURM_JOB_NUM_NODES": nodes, "SLURM_NTASKS": tasks}
job = subprocess.Popen(
    ["bash", sys.argv[1]], env=os.environ | variables, start_new_session=True,
    stdin=subprocess.DEVNULL, stdout=open(here / "said", "w"), stderr=subprocess.STDOUT,
)
(here / f"pid-{number}").write_text(str(job.pid))
print("Submitted batch job", number)
"""
SRUN = """
import os, subprocess, sys
words = sys.argv[1:]
command = words[next(n for n, word in enumerate(words) if "python" in word):]
tasks, nodes = int(os.environ["SLURM_NTASKS"]), int(os.environ["SLURM_JOB_NUM_NODES"])
ranks = [
    subprocess.Popen(command, env=os.environ | {
        "SLURM_STEP_NUM_TASKS": str(tasks), "SLURM_STEP_NODELIST": "localhost",
        "SLURM_PROCID": str(n),
        "SLURM_LOCALID": str(n % (tasks // nodes)), "SLURM_NODEID": str(n // (tasks // nodes)),
    })
    for n in range(tasks)
]
sys.exit(max(rank.wait() for rank in ranks))
"""
SACCT = """
from pathlib import Path
print("JobID|State")
for path in Path(__file__).parent.glob("pid-*"):
    alive = Path("/proc", path.read_text()).exists()
    print(f"{path.name[4:]}|{'RUNNING' if alive else 'COMPLETED'}")
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the three commands that submitit calls; keeps what was submitted."""
    pytest.importorskip("submitit")
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, code in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT}.items():
        path = folder / name
        path.write_text(f"#!{sys.executable}\n{code}", "utf-8")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def test_what_a_job_asks_for(slurm, spec, tmp_path):
    asked = ["launch.slurm={partition: a100, qos: low, additional_parameters: {licenses: big}}"]
    asked += ["launch.time_limit=30", "launch.accelerator=gpu", "launch.devices=2"]
    asked += [f"launch.command={json.dumps(shlex.join(THEIRS))}"]
    definition = reading.read("tiny.yaml", asked)
    assert checks.problems(definition) == []
    launch = definition.config.launch
    on_gpus = on_devices(spec, accelerator="gpu", devices=2)
    launchers.launcher(launch).run(on_gpus, tmp_path, ignore)
    (job,) = slurm.glob("job-*")
    lines = set(job.read_text("utf-8").splitlines())
    assert lines >= {
        "#SBATCH --partition=a100",
        "#SBATCH --qos=low",
        "#SBATCH --licenses=big",
        "#SBATCH --time=40",  # the limit of a run, and some for its start
        "#SBATCH --gpus-per-node=2",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks-per-node=1",
        f"#SBATCH --job-name={spec.folder_name}",
    }


WAITS = """
import pathlib, runpy, sys, time
out = pathlib.Path(sys.argv[2])
(out / "begun").touch()
while not (out / "go").exists():
    time.sleep(0.05)
runpy.run_path(sys.argv[3], run_name="__main__")
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_job_outlives_the_worker_that_waits_for_it(slurm, spec, tmp_path, number):
    spec.write(tmp_path / "asked.json")
    command = (sys.executable, "-c", WAITS, "{spec}", "{out}", their_trainer.__file__)
    worker = (
        "from pathlib import Path\n"
        "from optuna_mde_studies.runner.launchers.local import CommandLauncher\n"
        "from optuna_mde_studies.runner.launchers.on_slurm import OnSlurm\n"
        "from optuna_mde_trainers.spec import RunSpec\n"
        f"launcher = CommandLauncher({command!r}, OnSlurm({{'time': 2}}))\n"
        "launcher.run(RunSpec.read(Path('asked.json')), Path('runs'), lambda step, total: None)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", worker], cwd=tmp_path)
    folder = spec.folder(tmp_path / "runs")
    end = time.monotonic() + 60
    while not (folder / "begun").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(number)
    process.wait()
    (folder / "go").touch()
    taken_over = CommandLauncher(command, OnSlurm({"time": 2}))
    assert taken_over.run(spec, tmp_path / "runs", ignore).losses
    assert len(list(slurm.glob("job-*"))) == 1


# --- ranks ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ranks_by_srun_on_two_nodes_and_by_torchrun(slurm, spec, tmp_path):
    here = InProcessLauncher().run(spec, tmp_path / "here", ignore)
    settings = {
        "num_nodes": ["launch.slurm={time: 5}", "launch.num_nodes=2"],
        "devices": ["launch.launcher=torchrun", "launch.devices=2"],
    }
    for field, asked in settings.items():
        launcher = launchers.launcher(reading.read("tiny.yaml", asked).config.launch)
        spread = on_devices(spec, accelerator="cpu", **{field: 2})
        there = launcher.run(spread, tmp_path / field, ignore)
        assert there.losses == pytest.approx(here.losses, abs=1e-4)
        assert there.ledger.devices == 2
    assert launcher == SubprocessLauncher(command=under_torchrun(2))
    (job,) = slurm.glob("job-*")
    assert "#SBATCH --nodes=2" in job.read_text("utf-8")


# --- Ray -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray cluster on this machine: a head, and two nodes of two CPUs and two GPUs in name."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "num_gpus": 2, "object_store_memory": 80_000_000}
    head = {**node, "num_cpus": 0, "num_gpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(**node)
    cluster.wait_for_nodes()
    yield cluster
    import ray

    ray.shutdown()
    cluster.shutdown()


LEAVES_PLACE = """
import json, os, pathlib, sys, time
out = pathlib.Path(sys.argv[1])
began = time.time()
time.sleep(2)
place = [os.environ["CUDA_VISIBLE_DEVICES"], began, time.time()]
(out / "place").write_text(json.dumps(place))
(out / "result.json").write_text(json.dumps({"losses": {"code": 1.0}}))
"""


@pytest.mark.slow
def test_runs_are_placed_with_their_gpus(cluster, spec, tmp_path):
    asked = [f"launch.ray={cluster.address}", "launch.accelerator=gpu", "launch.devices=2"]
    asked += ["launch.command='train {spec}'"]
    definition = reading.read("tiny.yaml", asked)
    assert checks.problems(definition) == []  # though this machine has neither GPUs nor `train`
    assert resources.places(definition.config.launch, 3).workers == 2
    place = launchers.launcher(definition.config.launch).place
    launcher = CommandLauncher((sys.executable, "-c", LEAVES_PLACE, "{out}"), place)
    specs = [
        on_devices(spec, accelerator="gpu", devices=2).model_copy(
            update={"training": spec.training.model_copy(update={"seed": seed})}
        )
        for seed in range(2)
    ]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda each: launcher.run(each, tmp_path, ignore), specs))
    places = [json.loads((each.folder(tmp_path) / "place").read_text()) for each in specs]
    (one, began_one, ended_one), (other, began_other, ended_other) = places
    assert {one, other} == {"0,1"}  # of two nodes
    assert max(began_one, began_other) < min(ended_one, ended_other)
    failing = CommandLauncher((sys.executable, "-c", "exit('no data')", "{out}"), place)
    with pytest.raises(RunFailedError, match=r"^exit code 1: no data"):
        failing.run(specs[0], tmp_path / "other", ignore)


@pytest.mark.slow
def test_a_study_on_a_cluster(cluster, workplace, command):
    options = [f"launch.ray={cluster.address}", "launch.workers=2", "confirm.seeds=0"]
    options += [f"launch.command={json.dumps(shlex.join(THEIRS))}"]
    done = command("run", "tiny.yaml", *(f"--set={o}" for o in options), folder=workplace)
    assert done.returncode == 0, done.stdout + done.stderr
    storage = f"sqlite:///{workplace}/runs/tiny/study.db"
    study = optuna.load_study(study_name="tiny", storage=storage)
    assert len(study.trials) == 6
    for trial in study.trials:
        mixture = trial.user_attrs["spec"]["training"]["mixture"]
        assert trial.user_attrs["losses"]["code"] == their_trainer.loss("code", mixture)


BEGINS = """
import os, pathlib, runpy, sys, time
out = pathlib.Path(sys.argv[2])
(out / f"begun-{os.getpid()}").touch()
while not (out / "go").exists():
    time.sleep(0.05)
runpy.run_path(sys.argv[3], run_name="__main__")
"""


def node_of(cluster: Any, pid: int) -> Any:
    """The node among whose processes one is."""
    raylets = {node.all_processes["raylet"][0].process.pid: node for node in cluster.worker_nodes}
    while pid not in raylets:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return raylets[pid]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="/proc")
def test_a_run_whose_node_is_lost_begins_again_on_another(cluster, spec, tmp_path):
    command = (sys.executable, "-c", BEGINS, "{spec}", "{out}", their_trainer.__file__)
    launcher = CommandLauncher(command, OnRay(cluster.address))
    folder = spec.folder(tmp_path)

    def begun(number: int) -> list[Path]:
        end = time.monotonic() + 60
        while len(found := list(folder.glob("begun-*"))) < number:
            assert time.monotonic() < end
            time.sleep(0.05)
        return found

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(launcher.run, on_devices(spec, accelerator="cpu"), tmp_path, ignore)
        (first,) = begun(1)
        pid = int(first.name.removeprefix("begun-"))
        cluster.remove_node(node_of(cluster, pid), allow_graceful=False)
        begun(2)
        (folder / "go").touch()
        assert running.result(60).losses


@pytest.mark.parametrize("asked", ["ray=auto", "slurm={time: 5, setup: [rm]}"])
def test_a_machine_that_joins_takes_no_cluster_from_the_storage(workplace, asked):
    config = reading.read("tiny.yaml", [f"launch.{asked}", "launch.time_limit=3"]).config
    url = f"sqlite:///{workplace}/study.db"
    study = optuna.create_study(study_name="tiny", storage=url)
    agreement.publish(study, config)
    folder = StudyFolder(workplace / "other", url)
    launch = agreement.join(folder, "tiny").launch
    assert (launch.launcher, launch.slurm, launch.ray) == ("subprocess", None, None)
    assert launch.time_limit == 3


# --- what a definition may ask for ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["slurm={partition: a}"], "slurm needs time, the minutes of a job, or launch.time_limit"),
        (["slurm={time: 5}", "launcher=subprocess"], "slurm is of launcher: slurm"),
        (["ray=auto", "launcher=torchrun"], "ray is of launcher: ray, and it is torchrun"),
        (["ray=auto", "num_nodes=2"], "num_nodes must be 1 with launcher: ray"),
        (["ray=auto", "devices=[0, 1]"], "devices must be a number with launcher: ray"),
        (["launcher=torchrun", "command='a {spec}'"], "write torchrun into command"),
    ],
)
def test_what_a_launcher_does_not_take_is_refused(workplace, settings, said):
    with pytest.raises(reading.DefinitionError, match=said):
        reading.read("tiny.yaml", [f"launch.{setting}" for setting in settings])


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (
            "slurm={time: 5, partitoin: a}",
            r"launch\.slurm\.partitoin: submitit has no such option",
        ),
        ("slurm={time: 5, nodes: 2}", r"launch\.slurm\.nodes: launch\.num_nodes says it"),
        ("slurm={time: 2h}", r"launch\.slurm\.time: a whole number of minutes \(got '2h'\)"),
        ("slurm={time: 5, cluster: pbs}", r"launch\.slurm\.cluster: slurm or local"),
        ("slurm={time: 5}", r"there is no srun here.*launch\.slurm\.cluster: local"),
        ("ray=127.0.0.1:1", r"launch\.ray: no cluster at 127\.0\.0\.1:1"),
    ],
)
def test_what_validate_says_of_a_launcher(workplace, setting, said):
    pytest.importorskip("ray" if setting.startswith("ray") else "submitit")
    settings = [f"launch.{setting}", "launch.workers=auto"]
    (found,) = checks.problems(reading.read("tiny.yaml", settings))
    assert re.search(said, found)


@pytest.mark.parametrize(("name", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_a_missing_package_is_named_with_its_pip_line(workplace, monkeypatch, name, package):
    room = f"optuna_mde_studies.runner.launchers.on_{name}.find_spec"
    monkeypatch.setattr(room, lambda _: None)
    setting = "launch.ray=auto" if name == "ray" else "launch.slurm={time: 5}"
    (found,) = checks.problems(reading.read("tiny.yaml", [setting]))
    assert f"pip install 'optuna-mde[{name}]'" in found
    assert f"package {package}" in found
