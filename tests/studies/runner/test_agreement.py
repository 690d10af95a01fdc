"""What machines agree on through a storage, and what never comes from one."""

from __future__ import annotations

import io
from pathlib import Path

import optuna
import pytest
from optuna_mde_studies.commands.opened import opened
from optuna_mde_studies.commands.shared import resolve
from optuna_mde_studies.definition import reading
from optuna_mde_studies.definition.config import StudyConfig
from optuna_mde_studies.definition.reading import DefinitionError
from optuna_mde_studies.runner import agreement, opening, session
from optuna_mde_studies.runner.changes import changed_fields
from optuna_mde_studies.runner.folder import StudyError, StudyFolder, create, write_definition
from optuna_mde_studies.terminal.progress import Progress
from rich.console import Console

from benchmarks.workers import DEFINITION

COMMAND = "launch.command=python mine.py {spec} {out}"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/shared.db"


@pytest.fixture
def machine(tmp_path: Path, url: str):
    """Opens the study as a machine of this name does, with a definition of its own."""

    def machine(name: str, *overrides: str) -> tuple[reading.Definition, StudyFolder]:
        (tmp_path / "killed.yaml").write_text(DEFINITION)
        shared = [f"storage='{url}'", f"runs='{tmp_path}/runs'"]
        definition = reading.read(str(tmp_path / "killed.yaml"), [*shared, *overrides])
        folder = StudyFolder(tmp_path / name).placed(definition.config)
        create(folder)
        return definition, folder

    return machine


def joined(tmp_path: Path, url: str) -> StudyConfig:
    return agreement.join(StudyFolder(tmp_path / "third", url), "killed")


def test_the_definition_travels_without_what_runs_programs(machine, tmp_path, url):
    callbacks = "launch.callbacks=[lightning.pytorch.callbacks.Timer]"
    trainer = "launch.trainer={detect_anomaly: true}"
    begun = machine("first", COMMAND, callbacks, trainer, "launch.workers=3")
    opening.begin(*begun)
    kept = joined(tmp_path, url)
    sent = begun[0].config
    assert kept.launch.workers == 3
    assert (kept.launch.command, kept.launch.callbacks, kept.launch.trainer) == (None, [], {})
    same = {"launch", "storage", "runs"}
    assert kept.model_dump(exclude=same) == sent.model_dump(exclude=same)
    assert (kept.storage, kept.runs) == (url, None)
    text = str(optuna.load_study(study_name="killed", storage=url).user_attrs)
    assert "mine.py" not in text
    assert url not in text


def test_a_command_in_a_storage_is_not_taken(machine, tmp_path, url):
    study = opening.begin(*machine("first"))
    kept = study.user_attrs[agreement.DEFINITION_ATTR]
    for hostile in (
        {"command": "touch /tmp/owned {out}"},
        {"callbacks": [["os.system", {}]]},
        {"slurm": {"setup": ["touch /tmp/owned"]}},
    ):
        config = {**kept["config"], "launch": {**kept["config"]["launch"], **hostile}}
        study.set_user_attr(agreement.DEFINITION_ATTR, {**kept, "config": config})
        taken = str(joined(tmp_path, url))
        assert "owned" not in taken
        assert "os.system" not in taken


def test_a_study_of_a_command_is_joined_with_one(machine):
    opening.begin(*machine("first", COMMAND))
    definition, folder = machine("second")
    with pytest.raises(DefinitionError, match=r"a command is never taken from a storage.*--set"):
        agreement.check(folder, definition)
    definition, folder = machine("second", "launch.command=python other.py {spec}")
    agreement.check(folder, definition)


def test_another_definition_is_refused_and_nothing_is_written(machine, tmp_path, url):
    opening.begin(*machine("first"))
    before = Path(tmp_path / "shared.db").read_bytes()
    definition, folder = machine("second", "training.max_steps=21", "training.seed=4")
    with pytest.raises(DefinitionError) as refused:
        opening.begin(definition, folder)
    lines = str(refused.value).split("\n")
    assert len(lines) == 2
    assert "was begun with training.max_steps = 20, and now it is 21" in lines[0]
    assert list(folder.path.iterdir()) == []
    assert Path(tmp_path / "shared.db").read_bytes() == before


def test_machines_that_do_not_share_the_runs_are_told(machine, tmp_path):
    opening.begin(*machine("first"))
    with pytest.raises(StudyError, match="share one folder, under the same path or URL"):
        opening.begin(*machine("second", f"runs='{tmp_path}/elsewhere'"))
    opening.begin(*machine("second"))


def test_a_folder_without_the_runs_never_becomes_the_studys(
    machine, tmp_path, url, cli, monkeypatch
):
    """Its mark alone, which every machine's own folder bears, makes it none that was moved."""
    opening.begin(*machine("first"))
    mark = (tmp_path / "first/study.id").read_text()
    (tmp_path / "elsewhere/runs/killed").mkdir(parents=True)
    (tmp_path / "elsewhere/runs/killed/study.id").write_text(mark)
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, _, err = cli("run", "killed", "--storage", url)
    assert code == 2
    assert f"add `--set runs={tmp_path}/runs`" in err
    known = optuna.load_study(study_name="killed", storage=url).user_attrs
    assert known["mde_folder"] == f"{tmp_path}/runs/killed"


def test_where_the_files_lie_is_written_once_a_start_stands(machine, tmp_path):
    """Another mount point is taken over by a start, and by none that is refused later."""
    study = opening.begin(*machine("first"))
    known = study.user_attrs["mde_folder"]
    (tmp_path / "runs").rename(tmp_path / "mounted")
    definition, folder = machine("second", f"runs='{tmp_path}/mounted'")
    opening.begin(definition, folder)
    assert study.user_attrs["mde_folder"] == known
    session.Session(definition, folder, Progress("", Console(file=io.StringIO())))._keep()
    assert study.user_attrs["mde_folder"] == f"{tmp_path}/mounted/killed"


@pytest.mark.parametrize("kept", ["{", 5, {"config": {"name": "killed"}}, {"config": None}])
def test_a_definition_that_cannot_be_read_is_said(kept, machine, tmp_path, url):
    study = opening.begin(*machine("first"))
    study.set_user_attr(agreement.DEFINITION_ATTR, kept)
    with pytest.raises(StudyError, match=r"sqlite:///"):
        joined(tmp_path, url)


@pytest.mark.parametrize("command", ["run", "work"])
def test_a_refused_join_writes_nothing(command, machine, tmp_path, url, cli, monkeypatch):
    opening.begin(*machine("first", COMMAND))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, _, err = cli(command, "killed", "--storage", url, "--set", f"runs={tmp_path}/runs")
    assert code == 2
    assert "a command is never taken from a storage" in err
    assert "definition.yaml" not in err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("command", ["run", "work"])
@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("runs=elsewhere", "share one folder, under the same path or URL on every machine"),
        ("launch.logger={wandb: {}, tensorboard: {}}", "launch.logger: "),
        ("launch.command=no-such-trainer {spec}", "no program 'no-such-trainer'"),
    ],
)
def test_a_start_that_this_machine_cannot_make_writes_nothing(
    command, override, words, machine, tmp_path, url, cli, monkeypatch
):
    opening.begin(*machine("first"))
    before = Path(tmp_path / "shared.db").read_bytes()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    runs = ("--set", f"runs={tmp_path}/runs", "--set", override)
    code, _, err = cli(command, "killed", "--storage", url, *runs)
    assert code == 2
    assert words in err
    assert list(Path().iterdir()) == []
    assert Path(tmp_path / "shared.db").read_bytes() == before
    (tmp_path / "alone.yaml").write_text(DEFINITION)
    alone = "launch.accelerator=cuda" if override.startswith("runs") else override
    assert cli(command, "../alone.yaml", "--set", alone)[0] == 2
    assert list(Path().iterdir()) == []


def test_the_first_start_of_a_machine_that_joins_changes_nothing(
    machine, tmp_path, url, monkeypatch
):
    opening.begin(*machine("first"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    joins = "killed", None, [f"runs='{tmp_path}/runs'"]
    definition, folder = resolve(*joins, storage=url)
    assert changed_fields(folder, definition.config) == []
    create(folder)
    opening.begin(definition, folder)
    again, folder = resolve("killed", None)
    assert (again.config, changed_fields(folder, again.config)) == (definition.config, [])


def test_readers_find_a_study_of_another_folder_by_its_definition(
    machine, tmp_path, url, cli, monkeypatch
):
    definition, folder = machine("first")
    study = opening.begin(definition, folder)
    study.set_user_attr("n_trials", 13)  # raised by another machine
    text = f"storage: '{url}'\nruns: '{tmp_path}/runs'\n{DEFINITION}"
    (tmp_path / "toy.yaml").write_text(text)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, out, err = cli("status", "../toy.yaml")
    assert (code, err) == (0, "")
    assert out.startswith("killed: 0 of 13 trials finished\n")
    for reads in (["recommend"], ["export", "tables"], ["report"], ["check"]):
        code, _, err = cli(reads[0], "../toy.yaml", *reads[1:])
        assert "no study" not in err
        assert "missing" not in err
    (tmp_path / "new.yaml").write_text(text.replace("shared.db", "other.db"))
    code, _, err = cli("status", "../new.yaml")
    assert code == 2
    assert "there is no study 'killed' yet; start it with `optuna-mde run ../new.yaml`" in err
    assert not (tmp_path / "other.db").exists()


def test_a_differing_domain_is_said_as_it_is_written(machine, tmp_path):
    opening.begin(*machine("first"))
    other = "corpus.domains.web.path=json"
    with pytest.raises(DefinitionError) as refused:
        agreement.check(*reversed(machine("second", other)))
    said = str(refused.value)
    assert "has corpus.domains.web.path = text, and now it is json" in said
    assert "or start afresh under another `name`" in said
    assert "--out" not in said
    gone = machine(
        "second",
        "corpus.domains={web: {path: text, data_files: a}, code: {path: text, data_files: b}, "
        "books: {path: text, data_files: c}}",
    )
    with pytest.raises(DefinitionError) as refused:
        agreement.check(*reversed(gone))
    said = str(refused.value)
    assert "has corpus.domains.forum = {path: text, data_files: d, split: train" in said
    assert "None" not in said


def test_a_kept_definition_with_a_password_is_its_owners_alone(machine):
    definition, folder = machine("first")
    write_definition(folder, definition.config)
    assert folder.definition.stat().st_mode & 0o077
    secret = {"storage": "postgresql+psycopg://me:secret@db/optuna"}
    write_definition(folder, definition.config.model_copy(update=secret))
    assert folder.definition.stat().st_mode & 0o777 == 0o600


def test_a_url_reads_the_study_of_the_folder_it_is_called_in(
    machine, tmp_path, url, cli, monkeypatch
):
    definition, folder = machine("runs/killed")
    opening.begin(definition, folder)
    monkeypatch.chdir(tmp_path)
    code, out, err = cli("status", url, "--study", "killed")
    assert (code, err) == (0, "")
    assert "runs/killed: not running" in out
    (tmp_path / "runs/killed/study.id").write_text("another")
    assert "say with --out" in cli("status", url, "--study", "killed")[2]


def test_a_confirmation_is_read_by_url_where_its_folder_is_allowed(
    machine, tmp_path, url, invented, finished, monkeypatch
):
    definition, folder = machine("first")
    study = opening.begin(definition, folder)
    known = invented.confirmation(finished[1])
    known.write(folder.confirmation)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    study.set_user_attr("mde_folder", "/")
    assert opened(url, "killed", None).confirmation is None
    study.set_user_attr("mde_folder", folder.root)
    monkeypatch.setenv("OPTUNA_MDE_ALLOW", f"{tmp_path}/runs")
    assert opened(url, "killed", None).confirmation == known
