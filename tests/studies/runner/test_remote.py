"""Machines that share a storage and a URL, and no folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from optuna_mde_studies.definition import reading
from optuna_mde_studies.definition.reading import DefinitionError
from optuna_mde_studies.runner import agreement, opening
from optuna_mde_studies.runner.corpus import open_experiment
from optuna_mde_studies.runner.experiment import Experiment
from optuna_mde_studies.runner.folder import StudyError, StudyFolder, create
from optuna_mde_studies.runner.remote import bring_shown
from optuna_mde_studies.terminal.progress import Progress, console
from optuna_mde_trainers.spec import RESULT_FILE, RunSpec, ScoreSpec

from optuna_mde.mde.logprobs import load_logprobs
from optuna_mde.mde.urls import is_trusted
from optuna_mde.trials.notes import read_notes
from tests.servers import s3_server
from tests.studies.runner.specs import ignore

STEPS = 24
Machine = Callable[..., tuple[reading.Definition, StudyFolder]]


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server("bucket"):
        yield "s3://bucket"


@pytest.fixture
def machine(workplace: Path, s3: str) -> Machine:
    """The tiny study, as a machine of this name opens it."""

    def machine(name: str, *overrides: str) -> tuple[reading.Definition, StudyFolder]:
        shared = [f"storage=sqlite:///{workplace}/shared.db", f"runs={s3}/{workplace.name}"]
        steps = [f"training.max_steps={STEPS}", "launch.checkpoint_every_n_steps=5"]
        definition = reading.read("tiny.yaml", [*shared, *steps, *overrides])
        folder = StudyFolder(workplace / name).placed(definition.config)
        create(folder)
        return definition, folder

    return machine


def opened(machine: Machine, name: str) -> Experiment:
    definition, folder = machine(name)
    study = opening.begin(definition, folder)
    return open_experiment(definition, folder, study, Progress("tiny", console()))


def spec_of(experiment: Experiment) -> RunSpec:
    return experiment.launched(
        experiment.training(experiment.natural, seed=0), ScoreSpec(logprobs=True)
    )


def test_a_run_goes_on_on_another_machine_and_its_result_is_everywhere(machine, workplace):
    one = opened(machine, "one")
    for name in ("code", "prose", "numbers", "news"):
        shutil.rmtree(workplace / name)  # the text is where the corpus was built alone
    two, steps = opened(machine, "two"), []

    def interrupt(step: int, total: int) -> None:
        if step == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        one.train(spec_of(one), interrupt)
    assert two.finished(spec_of(two)) is None
    result = two.train(spec_of(two), lambda step, total: steps.append(step))
    assert steps == list(range(11, STEPS + 1))

    (spec_of(one).folder(one.folder.runs) / "evaluations").mkdir()
    (spec_of(one).folder(one.folder.runs) / "evaluations/task.json").write_text("{}")
    bring_shown(one.folder)
    # The first machine takes the result, and the checkpoint is gone everywhere.
    assert one.finished(spec_of(one)) == result
    assert one.train(spec_of(one), lambda *_: pytest.fail("it is trained again")) == result
    _, third = machine("three")
    bring_shown(third)
    (run,) = third.runs.iterdir()
    shown = {path.relative_to(run).as_posix() for path in run.rglob("*.*")}
    assert shown == {"spec.json", "result.json", "evaluations/task.json"}
    assert (third.corpus / "corpus.json").is_file()
    third.bring(third.runs)
    assert not (run / "last.ckpt").exists()
    assert (run / "model.safetensors").read_bytes() == (
        two.folder.runs / run.name / "model.safetensors"
    ).read_bytes()
    # What the model reads of an expert lies at the URL for all of them.
    study = opening.open_study(third, two.config)
    url = read_notes(study).resolve(f"runs/{run.name}/{result.logprobs}")
    assert url.startswith("s3://bucket/")
    assert set(load_logprobs(url)[0]) == set(result.losses)


def test_a_damaged_result_is_set_aside_for_all_machines(machine):
    one = opened(machine, "one")
    spec = spec_of(one)
    path = spec.folder(one.folder.runs) / RESULT_FILE
    path.parent.mkdir(parents=True)
    path.write_text("{")
    one.folder.share(path)
    result = opened(machine, "two").train(spec, ignore)
    assert one.finished(spec) == result
    one.folder.bring(path.parent)
    assert path.with_suffix(".damaged").read_text() == "{"


def test_machines_agree_on_the_url(machine):
    opening.begin(*machine("first"))
    study = opening.begin(*machine("second"))
    assert study.user_attrs["mde_folder"].startswith("s3://bucket/")
    with pytest.raises(StudyError, match="under the same path or URL on every machine"):
        opening.begin(*machine("third", "runs=s3://bucket/elsewhere"))
    definition, folder = machine("fourth", "training.seed=5")
    with pytest.raises(DefinitionError, match=r"training\.seed"):
        agreement.check(folder, definition)


def test_a_study_of_one_machine_may_move_to_a_url(machine, workplace):
    definition = reading.read("tiny.yaml")
    folder = StudyFolder(workplace / "runs/tiny").placed(definition.config)
    create(folder)
    study = opening.begin(definition, folder)
    open_experiment(definition, folder, study, Progress("tiny", console()))
    moved, there = machine("runs/tiny", "storage=null")
    opening.begin(moved, there)
    other = StudyFolder(workplace / "other").placed(moved.config)
    other.bring(other.corpus)
    assert (other.corpus / "corpus.json").read_bytes() == (
        folder.corpus / "corpus.json"
    ).read_bytes()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["runs=s3://b/x", "launch.slurm={time: 5}"], "runs: runs of launch.slurm take place on"),
        (["runs=s3://b/x", "launch.ray=auto"], "runs: runs of launch.ray take place on other"),
        (["runs=s3://b/x", "storage='grpc://host:1'"], "runs: a grpc storage keeps its lock in a"),
        (["runs=simplecache::s3://b/x"], "runs: simplecache::s3://b/x names several file systems"),
        (["runs=ftp://me:secret@h/x"], "say it in the environment, as FSSPEC_FTP_PASSWORD"),
        (["runs='s3://b/x?versionId=1'"], "what stands behind ? or # names no folder"),
    ],
)
def test_what_a_url_cannot_do_is_a_mistake_of_the_definition(workplace, overrides, said):
    with pytest.raises(DefinitionError) as refused:
        reading.read("tiny.yaml", overrides)
    assert said in str(refused.value)
    assert "secret" not in str(refused.value)


NOT_KNOWN = ("nowhere://host/x", "Protocol not known: nowhere; write a path, or a URL such as")
NO_PACKAGE = ("dropbox://x", "to be installed; install what it needs (s3: pip install")
NO_BUCKET = ("s3://no-such-bucket/x", "The specified bucket does not exist; see that it is there")
CASES = [(command, *case) for command in ("run", "work") for case in (NOT_KNOWN, NO_BUCKET)]


@pytest.mark.parametrize(
    ("command", "runs", "said"),
    [*CASES, ("run", *NO_PACKAGE), ("validate", *NOT_KNOWN), ("validate", *NO_PACKAGE)],
)
def test_a_url_that_cannot_be_used_is_refused_before_anything_is_written(
    workplace, s3, cli, command, runs, said
):
    code, _, err = cli(command, "tiny.yaml", "--set", f"runs={runs}")
    assert code == 2
    assert f"runs: {runs}/tiny: " in err
    assert said in err
    assert not Path("runs").exists()


def test_a_storage_cannot_name_another_url(machine):
    definition, folder = machine("one")
    study = opening.begin(definition, folder)
    notes = read_notes(study)
    assert is_trusted(notes.resolve("runs/a/logprobs.safetensors"), notes.roots)
    assert not is_trusted(notes.resolve("runs/../../other/logprobs.safetensors"), notes.roots)
    study.set_user_attr("mde_folder", "s3://theirs/tiny")
    notes = read_notes(optuna.load_study(study_name="tiny", storage=folder.storage_url))
    assert not is_trusted(notes.resolve("runs/a/logprobs.safetensors"), notes.roots)
