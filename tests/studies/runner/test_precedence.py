"""Whose goal, number and bounds count where machines of one study ask for different ones."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna_mde_studies.commands import shared
from optuna_mde_studies.definition import reading
from optuna_mde_studies.definition.reading import Definition, DefinitionError
from optuna_mde_studies.runner import agreement, precedence, session
from optuna_mde_studies.runner.folder import StudyFolder, create
from optuna_mde_studies.runner.messages import Exhausted
from optuna_mde_studies.terminal.progress import Progress
from rich.console import Console

from benchmarks.workers import DEFINITION
from optuna_mde.objective import Objective
from optuna_mde.trials.notes import set_present_objective, stored_objective

Machine = Callable[..., "Start"]


class Start:
    """A start on a machine, as far as to where nothing can be refused any more."""

    def __init__(self, definition: Definition, folder: StudyFolder) -> None:
        self.folder, self.out = folder, io.StringIO()
        settled = precedence.settle(folder, definition)
        display = Progress("", Console(file=self.out, width=10_000))
        self.session = session.Session(settled.definition, folder, display, list(settled.lines))
        create(folder)
        self.session._keep()

    @property
    def config(self):
        return self.session.config

    @property
    def said(self) -> str:
        return self.out.getvalue()


@pytest.fixture
def start(tmp_path: Path) -> Machine:
    """Starts the study on a machine of this name, with a file of these lines."""

    def start(name: str, *overrides: str, **lines: str) -> Start:
        text = f"storage: sqlite:///{tmp_path}/shared.db\nruns: {tmp_path}/runs\n{DEFINITION}"
        for field, value in lines.items():
            kept = [line for line in text.splitlines() if not line.startswith(f"{field}:")]
            text = "\n".join([*kept, f"{field}: {value}", ""])
        path = tmp_path / f"{name}.yaml"
        path.write_text(text)
        definition = reading.read(str(path), overrides)
        return Start(definition, StudyFolder(tmp_path / name).placed(definition.config))

    return start


def test_an_old_file_does_not_take_over_a_study_that_has_changed(start: Machine) -> None:
    start("a", objective="{web: 1}")
    start("b", objective="{web: 1}")
    changed = start("a", objective="{code: 1}", search="{n_trials: 18}")
    assert "changed for all machines of the study: objective: {web: 1} → {code: 1}" in changed.said
    assert "search.n_trials: 200 → 18" in changed.said
    old = start("b", objective="{web: 1}")
    assert (old.config.objective, old.config.search.n_trials) == ({"code": 1}, 18)
    assert "objective: what the study has counts, {code: 1}, and not {web: 1}" in old.said
    assert "`--set search.n_trials=200` changes it for all machines" in old.said
    again = start("b", objective="{web: 1}")  # no more than the first time
    assert again.config == old.config
    assert again.session.study.user_attrs["n_trials"] == 18


def test_what_is_changed_here_counts_for_all(start: Machine) -> None:
    start("a", objective="{web: 1}")
    start("b", objective="{web: 1}")
    start("a", objective="{code: 1}")
    changed = start("b", objective="{books: 1}")
    assert "objective: {code: 1} → {books: 1}" in changed.said  # against the study
    assert start("a", objective="{code: 1}").config.objective == {"books": 1}


def test_an_override_is_a_word_and_its_absence_none(start: Machine) -> None:
    start("a")
    start("b", "search.n_trials=30")
    for machine in "ba":
        begun = start(machine)
        assert begun.config.search.n_trials == 30
        assert "not 200 of" in begun.said


def test_a_new_machine_that_differs_is_refused_field_by_field(
    start: Machine, tmp_path: Path
) -> None:
    start("a", objective="{web: 1}")
    before = (tmp_path / "shared.db").read_bytes()
    with pytest.raises(DefinitionError) as refused:
        start("b", objective="{code: 1}", search="{n_trials: 18, bounds: {web: [0, 0.5]}}")
    number, bounds, objective, mend = str(refused.value).splitlines()
    assert "search.n_trials: 200 in the study, and 18 here" in number
    assert "search.bounds: {} in the study, and {web: [0.0, 0.5]} here" in bounds
    assert "`--set 'objective={code: 1}'` changes it for all" in objective
    assert "b.yaml" in objective
    assert "`optuna-mde run killed --storage sqlite:///" in mend
    assert not (tmp_path / "b").exists()
    assert (tmp_path / "shared.db").read_bytes() == before
    word = start("b", "objective={code: 1}", objective="{code: 1}")
    assert "objective: {web: 1} → {code: 1}" in word.said


def test_a_machine_at_work_takes_what_others_change_and_says_so(start: Machine) -> None:
    one = start("a", objective="{web: 1}")
    start("b", objective="{web: 1}")
    start("b", objective="{code: 1}", search="{n_trials: 18, bounds: {web: [0, 0.5]}}")
    one.session._on_search(0, Exhausted())
    assert one.config.objective == {"code": 1}
    assert one.config.search.bounds == {"web": (0.0, 0.5)}
    assert (
        "changed on another machine, and counts here from now on: search.n_trials: 200 → 18; "
        "search.bounds: {} → {web: [0.0, 0.5]}; objective: {web: 1} → {code: 1}" in one.said
    )
    said = one.said
    one.session._follow()
    assert one.said == said


def test_all_at_the_end_is_read_for_the_goal_that_counts_then(
    start: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = start("a", objective="{web: 1}")
    set_present_objective(one.session.study, Objective.parse("web").to_json())
    read_for: list[str | None] = []

    def concluded(n_seeds: int | None) -> str | None:
        read_for.append(stored_objective(one.session.study))
        if len(read_for) == 1:  # another machine, meanwhile
            set_present_objective(one.session.study, Objective.parse("code").to_json())
        return read_for[-1]

    monkeypatch.setattr(one.session, "_concluded", concluded)
    assert one.session.conclude(None) == Objective.parse("code").to_json()
    assert len(read_for) == 2


def test_sets_that_another_machine_has_added_are_the_studys(start: Machine) -> None:
    start("a")
    start("b")
    faq = "{path: text, data_files: faq}"
    start("a", f"corpus.validation.faq={faq}", "objective={faq: 1}")
    other = start("b")
    assert "faq" in other.config.corpus.validation
    assert other.config.objective == {"faq": 1}


def test_work_takes_what_the_study_has(start: Machine, tmp_path: Path) -> None:
    begun = start("a")
    definition = reading.read(str(tmp_path / "a.yaml"), ["search.n_trials=18"])
    settled = precedence.settle(begun.folder, definition, changes=False)
    assert settled.definition.config.search.n_trials == 200
    assert "`optuna-mde run` with the definition changes it for all" in settled.lines[0]


def test_a_folder_of_an_older_version_has_its_definition_to_compare_with(start: Machine) -> None:
    begun = start("a")
    os.remove(begun.folder.asked)
    study = begun.session.study
    config = begun.config.model_copy(update={"objective": {"code": 1}})
    agreement.publish(study, config)
    assert start("a").config.objective == {"code": 1}


def test_a_study_of_one_machine_goes_by_its_file(tmp_path: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    (tmp_path / "own.yaml").write_text(DEFINITION)
    folder = StudyFolder(tmp_path / "own")
    for override in ("search.n_trials=18", "search.n_trials=20"):
        definition = reading.read(str(tmp_path / "own.yaml"), [override])
        assert precedence.settle(folder, definition) == precedence.Settled(definition)
        assert Start(definition, folder).config == definition.config


def test_whoever_reads_by_a_file_that_says_otherwise_is_told(
    start: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start("a", objective="{web: 1}")
    start("b", objective="{web: 1}")
    start("a", objective="{code: 1}", search="{n_trials: 18}")
    mine, old = str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")
    capsys.readouterr()
    shared.resolve_existing(mine, tmp_path / "a")
    shared.resolve_existing(str(tmp_path / "b"), None)
    assert capsys.readouterr().err == ""
    kept, _ = shared.resolve_existing(old, tmp_path / "b")
    assert kept.config.objective == {"code": 1}
    assert capsys.readouterr().err.startswith(
        f"{old} differs from the study in objective: the answer is the study's;"
    )
