"""Everything under `examples/`, run as its reader would."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import TrialState
from optuna_mde_trainers.corpus.blocks import Corpus

from optuna_mde import get_losses
from optuna_mde.mde.logprobs import load_logprobs
from tests.studies import their_trainer

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def run(*command: str | Path, folder: Path, **variables: str) -> str:
    """What a command prints; it must end well."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path, **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def states(storage: str) -> list[TrialState]:
    study = optuna.load_study(study_name="own", storage=storage)
    return [trial.state for trial in study.trials]


def test_every_example_has_a_line():
    listed = set(re.findall(r"\]\((\w+\.\w+)\)", (EXAMPLES / "README.md").read_text("utf-8")))
    present = {path.name for path in EXAMPLES.iterdir() if path.is_file()}
    assert listed == present - {"README.md"}


def test_the_toy_is_that_of_the_readme(tmp_path):
    toy = (EXAMPLES / "toy.py").read_text("utf-8")
    code = re.search(
        r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text("utf-8"), re.M | re.S
    )
    body = toy.partition("\n\n")[2]
    assert [*filter(None, body.splitlines())] == [*filter(None, code[1].splitlines())]
    short = tmp_path / "toy.py"
    short.write_text(toy.replace("n_trials=25", "n_trials=6"), "utf-8")
    assert run(sys.executable, short, folder=tmp_path).startswith("Recommended: ")


@pytest.mark.slow
def test_a_loop_of_ones_own(tmp_path):
    storage = f"sqlite:///{tmp_path}/own.db"
    told = run(
        *(sys.executable, EXAMPLES / "own_trainer.py", "--storage", storage, "--n-trials", "7"),
        folder=tmp_path,
    )
    assert "best expert" in told
    assert states(storage).count(TrialState.PRUNED) == 3  # experts, at half a run
    assert states(storage).count(TrialState.COMPLETE) == 4
    assert len(list((tmp_path / "experts").iterdir())) == 3


@pytest.mark.slow
def test_jobs_of_an_array_share_one_study(tmp_path):
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    storage = f"sqlite:///{tmp_path}/own.db"
    script = (EXAMPLES / "slurm.sh").read_text("utf-8")
    first = re.search(r"^#   (optuna create-study .*)$", script, re.M)
    run("bash", "-c", first[1], folder=tmp_path, STORAGE=storage)
    variables = {"STORAGE": storage, "N_TRIALS": "8"}
    job = subprocess.Popen(
        ["bash", "examples/slurm.sh"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            **variables,
        },
        stdout=subprocess.DEVNULL,
    )
    run("bash", "examples/slurm.sh", folder=tmp_path, **variables)
    assert job.wait(120) == 0
    found = states(storage)
    assert 8 <= len(found) <= 9  # a job may have begun one more while the other ended
    assert set(found) == {TrialState.COMPLETE, TrialState.PRUNED}
    assert found.count(TrialState.PRUNED) == 3  # each expert once


def kubernetes() -> tuple[dict[str, Any], dict[str, Any]]:
    """The claim and the Job of the example."""
    claim, job = yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text("utf-8"))
    return claim, job


def test_the_job_of_kubernetes_hangs_together():
    claim, job = kubernetes()
    assert [claim["kind"], job["kind"]] == ["PersistentVolumeClaim", "Job"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]  # pods on several nodes write
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"]  # one worker a pod, none waits for others
    assert pod["restartPolicy"] == "Never"  # as podFailurePolicy demands
    assert pod["terminationGracePeriodSeconds"] > 10  # a worker's time to hand its trial back
    (container,) = pod["containers"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts.keys() == volumes.keys()
    claimed = volumes["shared"]["persistentVolumeClaim"]["claimName"]
    assert claimed == claim["metadata"]["name"]
    assert mounts["shared"] == container["workingDir"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    (script,) = container["args"]
    named = set(re.findall(r"\$([A-Z_]+)", script))
    given = {variable["name"] for variable in container["env"]}
    assert named == given | {"JOB_COMPLETION_INDEX"}  # which an indexed Job gives


@pytest.mark.slow
def test_pods_of_the_job_make_one_study(workplace):
    _, job = kubernetes()
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (script,) = container["args"]
    (workplace / "tiny.yaml").rename(workplace / "my.yaml")
    theirs = (
        f"{shlex.quote(sys.executable)} {shlex.quote(their_trainer.__file__)} {{spec}} {{out}}"
    )
    options = ["confirm.seeds=0", f"launch.command={json.dumps(theirs)}"]
    script = script.replace("runs=/shared/runs", f"runs={workplace}/shared")
    script = script.rstrip() + "".join(f" --set {shlex.quote(option)}" for option in options)
    storage = f"sqlite:///{workplace}/study.db"
    pods = [
        subprocess.Popen(
            [*container["command"], script],
            cwd=workplace,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "STORAGE": storage,
                "JOB_COMPLETION_INDEX": str(index),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    printed = [pod.communicate(timeout=240)[0] for pod in pods]
    assert [pod.returncode for pod in pods] == [0, 0], printed
    assert "recommended" in printed[0]
    trials = optuna.load_study(study_name="tiny", storage=storage).trials
    found = [trial.state for trial in trials]
    assert (
        found.count(TrialState.PRUNED) == found.count(TrialState.COMPLETE) == len(found) / 2 == 3
    )


@pytest.mark.slow
def test_the_notebook(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs for cell in code)  # as it is committed
    resources = {"metadata": {"path": tmp_path}}
    nbclient.NotebookClient(notebook, timeout=120, resources=resources).execute()
    shown = [output for cell in code for output in cell.outputs]
    figures = [s for s in shown if "application/vnd.plotly.v1+json" in s.get("data", {})]
    assert len(figures) == 4
    printed = [s["text"] for s in shown if s.output_type == "stream" and s["name"] == "stdout"]
    assert [text.splitlines()[0].startswith("Recommended: ") for text in printed] == [True, True]
    assert len(list((tmp_path / "experts").iterdir())) == 3


@pytest.mark.slow
def test_ray_tune_hands_losses_and_experts_over(tmp_path):
    pytest.importorskip("ray")
    storage = f"sqlite:///{tmp_path}/ray.db"
    command = (sys.executable, EXAMPLES / "ray_tune.py", "--n-trials", "6", "--storage", storage)
    told = run(*command, folder=tmp_path)
    assert "best expert" in told
    trials = optuna.load_study(study_name="optuna", storage=storage).trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 6
    assert trials[-1].user_attrs["phase"] == "model"
    experts = [trial for trial in trials if "logprobs" in trial.user_attrs]
    assert len(experts) == 3
    for trial in trials:
        losses = trial.user_attrs["losses"]
        assert trial.value == pytest.approx((losses["code"] + 2 * losses["prose"]) / 3)
    for trial in experts:
        values, _ = load_logprobs(trial.user_attrs["logprobs"])
        assert trial.user_attrs["losses"]["code"] == pytest.approx(-values["code"].mean())


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["pytorch_trainer.py", "hf_trainer.py"])
def test_a_study_with_a_trainer_that_is_not_ours(trainer, workplace, command):
    python = (
        f"{shlex.quote(sys.executable)} {shlex.quote(str(EXAMPLES / trainer))} {{spec}} {{out}}"
    )
    settings = {
        "search.n_trials": "5",
        "training.max_steps": "40",
        "launch.workers": "1",
        "confirm.seeds": "0",
        "launch.command": json.dumps(python),
    }
    options = [f"--set={field}={value}" for field, value in settings.items()]
    done = command("run", "tiny.yaml", *options, folder=workplace)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = workplace / "runs/tiny"
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{folder}/study.db")
    assert len(study.trials) == 5
    sets = Corpus.load(folder / "corpus").sets
    for trial in study.trials:
        losses = trial.user_attrs["losses"]
        assert losses.keys() == sets.keys()
        if "logprobs" not in trial.user_attrs:
            continue
        values, metadata = load_logprobs(folder / trial.user_attrs["logprobs"])
        assert json.loads(metadata["sets"]) == {
            name: info.fingerprint for name, info in sets.items()
        }
        for name, info in sets.items():
            assert len(values[name]) == info.tokens
            assert losses[name] == pytest.approx(-values[name].mean(), rel=1e-5)
    experts = [trial for trial in study.trials if "logprobs" in trial.user_attrs]
    assert len(experts) == 3
    for expert in experts:  # a model trained on one domain serves it better than the others do
        (domain,) = (name for name, rate in expert.params.items() if rate == 1)
        domain = domain.removeprefix("mix/")
        losses = [other.user_attrs["losses"][domain] for other in experts]
        assert expert.user_attrs["losses"][domain] == min(losses)
    if trainer == "pytorch_trainer.py":
        score_a_later_set(study, workplace, command)


def score_a_later_set(study: optuna.Study, workplace: Path, command: Any) -> None:
    """What docs/new-question.md says of a trainer of one's own."""
    asked = ("score", "tiny", "--set", "again={path: text, data_files: prose/4*.txt}")
    done = command(*asked, folder=workplace)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "runs/tiny/corpus/validation/again" in done.stdout
    run(sys.executable, EXAMPLES / "score_trainer.py", "runs/tiny", folder=workplace)
    done = command("score", "tiny", folder=workplace)
    assert done.returncode == 0, done.stdout + done.stderr
    losses = get_losses(study)
    folder = workplace / "runs/tiny"
    for trial in study.trials:
        kept = json.loads((folder / trial.user_attrs["run"] / "result.json").read_text())
        assert losses[trial.number]["again"] == kept["losses"]["again"]
        if "logprobs" in trial.user_attrs:
            values, _ = load_logprobs(folder / trial.user_attrs["logprobs"])
            assert kept["losses"]["again"] == pytest.approx(-values["again"].mean(), rel=1e-5)
            assert kept["losses"]["code"] == pytest.approx(-values["code"].mean(), rel=1e-5)
    assert "again" in command("recommend", "tiny", "--objective", "again", folder=workplace).stdout
